"""Configuration: what it reads, and the sentence that a person gets when it is wrong."""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import BaseModel, ConfigDict, SecretStr

from motia_core.adapter import AdapterPlugin, Retention
from motia_core.config import Settings, parse_duration
from motia_core.errors import ConfigError, MotiaError, PluginError
from motia_core.memory import MEMORY
from motia_core.plugins import Plugins

INSTALLED = [f"{entry.dist.name}:{entry.name}" for entry in entry_points(group="motia.adapters") if entry.dist]
"""Every adapter that this environment has."""


class Mapped(BaseModel):
    model_config = ConfigDict(extra="forbid")
    collection: str
    id_field: str = "_id"


class NetOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")
    url: SecretStr = SecretStr("")
    database: str = ""
    pool: int = 1
    mapped: Mapped | None = None


class FileOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")
    path: Path


def net_url(url: str) -> Mapping[str, Any]:
    parts = urlsplit(url)
    if parts.port is None:
        raise ValueError(f"{url} names no port")
    return {"url": url, "database": parts.path.strip("/")}


NET = replace(MEMORY, name="net", schemes=("net", "nets"), options=NetOptions, from_url=net_url)
DISK = replace(
    MEMORY,
    name="sqlite",
    schemes=("sqlite",),
    options=FileOptions,
    from_url=lambda url: {"path": url.removeprefix("sqlite:///")},
)


def plugins(*extra: AdapterPlugin) -> Plugins:
    return Plugins.load(extra=extra or (NET, DISK), blocked=INSTALLED, environ={})


def load(folder: Path, toml: str | None = None, **environ: str) -> Settings:
    if toml is not None:
        (folder / "motia.toml").write_text(toml)
    return Settings.load(folder, environ=environ, plugins=plugins())


def refusal(folder: Path, toml: str | None, **environ: str) -> str:
    """The message, after its file's folder is cut off."""
    with pytest.raises(ConfigError) as caught:
        load(folder, toml, **environ)
    return str(caught.value).replace(f"{folder}/", "")


# -- what is read


def test_without_a_file_everything_runs_on_sqlite_in_the_project(tmp_path: Path) -> None:
    settings = load(tmp_path)
    entry = settings.storage_for("documents", "default")
    assert (entry.plugin.name, entry.options) == ("sqlite", FileOptions(path=tmp_path / "data/streams.db"))
    assert entry.settings.retention == Retention()
    assert settings.server.port == 3112
    assert settings.room("state") is settings.room("queue") is settings.room("cron") is entry


def test_a_default_file_name_starts_at_the_project_too(tmp_path: Path) -> None:
    (tmp_path / "motia.toml").write_text('[storage.default]\nadapter = "sqlite"\nsynchronous = "FULL"\n')
    options = Settings.load(tmp_path, environ={}).storage["default"].options
    assert options.model_dump()["path"] == tmp_path / "data/streams.db"


def test_a_file_with_everything(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        """
        [storage.default]
        adapter = "sqlite"
        path = "data/mine.db"

        [storage.live]
        url = "net://user:${PASSWORD}@host:1/base?pool=4"
        namespace = "shop"
        timeout = "2s"
        retention = { count = 10, age = "7d" }
        max_value_bytes = 500

        [storage.orders]
        adapter = "net"
        pool = 3
        mapped = { collection = "${COLLECTION:-orders}" }

        [server]
        port = 80
        allowed_origins = ["https://App.example"]
        join_timeout = "500ms"

        [state]
        storage = "live"
        """,
        PASSWORD="s3cret",
    )
    live = settings.storage["live"]
    assert isinstance(live.options, NetOptions)
    assert live.options.url.get_secret_value() == "net://user:s3cret@host:1/base?pool=4"
    assert (live.settings.name, live.settings.namespace, live.settings.timeout) == ("live", "shop", 2.0)
    assert (live.settings.retention, live.max_value_bytes) == (Retention(10, 604800.0), 500)
    assert settings.storage["orders"].options == NetOptions(pool=3, mapped=Mapped(collection="orders"))
    assert settings.storage["default"].options == FileOptions(path=tmp_path / "data/mine.db")
    assert (settings.server.port, settings.server.allowed_origins) == (80, ("https://app.example",))
    assert settings.server.join_timeout == 0.5
    assert settings.room("state") is live
    assert settings.room("cron") is settings.storage["default"]


def test_arguments_take_urls_and_tables() -> None:
    settings = Settings.build(
        storage={"default": "sqlite:///app.db", "live": {"url": "net://h:1/db", "database": "other"}},
        server={"port": 0},
        plugins=plugins(),
    )
    assert settings.storage["default"].options == FileOptions(path=Path("app.db"))
    assert settings.storage["live"].options == NetOptions(url=SecretStr("net://h:1/db"), database="other")
    assert settings.server.port == 0


def test_an_entry_builds_its_adapter() -> None:
    settings = Settings.build(storage={"default": "memory://"}, plugins=plugins())
    adapter = settings.storage["default"].build()
    assert adapter.settings.name == "default"
    assert adapter.address.startswith("memory")


def test_a_relative_path_starts_at_the_project_and_an_absolute_one_does_not(tmp_path: Path) -> None:
    settings = load(tmp_path, '[storage]\na = "sqlite:///x.db"\nb = "sqlite:////x.db"\nc = "sqlite:///:memory:"')
    paths = {
        name: entry.options.path for name, entry in settings.storage.items() if isinstance(entry.options, FileOptions)
    }
    assert paths["a"] == tmp_path / "x.db"
    assert paths["b"] == Path("/x.db")
    assert paths["c"] == Path(":memory:")


def test_common_options_may_stand_in_a_urls_query() -> None:
    url = "net://h:1/db?timeout=2&namespace=shop&retention.age=1h&pool=2"
    entry = Settings.build(storage={"live": url}, plugins=plugins()).storage["live"]
    assert entry.settings.timeout == 2
    assert entry.settings.namespace == "shop"
    assert entry.settings.retention == Retention(count=None, age=3600)
    assert entry.options == NetOptions(url=SecretStr("net://h:1/db?pool=2"), database="db")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(3, 3), (0.5, 0.5), ("7d", 604800), ("1.5h", 5400), ("500ms", 0.5), ("30", 30), (" 2 w ", 1209600), ("15m", 900)],
)
def test_durations(value: object, seconds: float) -> None:
    assert parse_duration(value) == seconds


@pytest.mark.parametrize("value", [True, None, "", "7 days", "-1s", "1e3", "s"])
def test_what_is_no_duration(value: object) -> None:
    with pytest.raises(ValueError, match="must be a number of seconds, or text like '500ms', '30s'"):
        parse_duration(value)


# -- variables and the environment


def test_variables_are_replaced_at_any_depth(tmp_path: Path) -> None:
    toml = """
    [storage.live]
    url = "${SCHEME}://${HOST:-localhost}:1/$${not}${EMPTY:-}"
    mapped = { collection = "${NAME}" }
    [server]
    port = "${PORT}"
    allowed_origins = ["https://${HOST:-a.example}"]
    """
    settings = load(tmp_path, toml, SCHEME="net", NAME="x", PORT="81", HOST="")
    options = settings.storage["live"].options
    assert isinstance(options, NetOptions)
    assert options.url.get_secret_value() == "net://localhost:1/${not}"
    assert options.mapped == Mapped(collection="x")
    assert settings.server.port == 81
    assert settings.server.allowed_origins == ("https://a.example",)


def test_windows_line_ends_and_a_byte_order_mark_are_no_errors(tmp_path: Path) -> None:
    (tmp_path / "motia.toml").write_bytes(b"\xef\xbb\xbf[server]\r\nport = 80\r\n")
    assert load(tmp_path).server.port == 80


def test_a_value_from_a_variable_is_not_read_for_variables_again(tmp_path: Path) -> None:
    settings = load(
        tmp_path, '[storage.a]\nadapter="net"\ndatabase="${X}"', X="${Y}", MOTIA_STORAGE__B__URL="net://h:1/${Z}"
    )
    assert settings.storage["a"].options.model_dump()["database"] == "${Y}"
    assert settings.storage["b"].options.model_dump()["database"] == "${Z}"


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    toml = """
    [storage]
    plain = "net://h:1/db"
    [storage.Big-One]
    adapter = "net"
    url = "${NOT_SET}"
    retention = { count = 5 }
    [server]
    port = 80
    """
    settings = load(
        tmp_path,
        toml,
        MOTIA_SERVER__PORT="90",
        MOTIA_SERVER__ALLOWED_ORIGINS="https://a.example, https://b.example",
        MOTIA_STORAGE__BIG_ONE__URL="net://other:2/x",
        MOTIA_STORAGE__BIG_ONE__RETENTION__AGE="1d",
        MOTIA_STORAGE__BIG_ONE__MAPPED='{"collection": "c"}',
        MOTIA_STORAGE__PLAIN__POOL="7",
        MOTIA_STORAGE__NEW="memory://",
        MOTIA_TRACE_PLUGINS="1",
    )
    big = settings.storage["Big-One"]
    assert big.options == NetOptions(url=SecretStr("net://other:2/x"), database="x", mapped=Mapped(collection="c"))
    assert big.settings.retention == Retention(5, 86400)
    assert settings.storage["plain"].options == NetOptions(url=SecretStr("net://h:1/db"), database="db", pool=7)
    assert settings.storage["new"].plugin is MEMORY
    assert (settings.server.port, len(settings.server.allowed_origins)) == (90, 2)


# -- what is refused, and how it is said

NET_KEYS = "adapter, database, mapped, max_value_bytes, namespace, pool, retention, timeout, url"


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        (
            "[servr]",
            "servr: unknown section; did you mean 'server'? known: cron, queue, server, state, storage",
        ),
        ("server = 3", "server: must be a table (keys and values)"),
        ("[storage]\ndefault = 3", "storage.default: must be a URL or a table of keys and values"),
        (
            '[storage.default]\nadapter = "nett"',
            "storage.default.adapter: unknown adapter 'nett'; did you mean 'net'? known: memory, net, sqlite",
        ),
        (
            '[storage.default]\npath = "x"',
            "storage.default: needs adapter = ... or url = ...; adapters: memory, net, sqlite",
        ),
        (
            '[storage.live]\nurl = "redis://h"',
            "storage.live.url: no adapter takes URLs of scheme 'redis'; known: memory, net, nets, sqlite",
        ),
        (
            '[storage.live]\nadapter = "sqlite"\nurl = "net://h:1"',
            "storage.live.url: adapter 'sqlite' takes no net:// URLs, only sqlite://",
        ),
        ('[storage.live]\nurl = "s3cret"', "storage.live.url: is no URL: it must begin as in redis:// or "),
        ("[storage.live]\nadapter = 3", "storage.live.adapter: must be text"),
        ('[storage.live]\nurl = "net://h"', "storage.live.url: net://h names no port"),
        (
            '[storage.live]\nadapter = "net"\ndatabse = "x"',
            f"storage.live.databse: unknown key for adapter 'net'; did you mean 'database'? known: {NET_KEYS}",
        ),
        (
            '[storage.live]\nadapter = "net"\nmapped = { collection = "x", idfield = "y" }',
            "storage.live.mapped.idfield: unknown key; did you mean 'id_field'? known: collection, id_field",
        ),
        ('[storage.live]\nadapter = "net"\nmapped = {}', "storage.live.mapped.collection: is missing"),
        (
            '[storage.live]\nadapter = "net"\npool = "many"',
            "storage.live.pool: Input should be a valid integer, unable to parse string as an integer",
        ),
        (
            '[storage.live]\nadapter = "net"\nretention = { ages = 3 }',
            "storage.live.retention.ages: unknown key; did you mean 'age'? known: age, count",
        ),
        (
            '[storage.a]\nurl="memory://"\nretention = {}',
            "storage.a.retention: needs a count, an age, or both",
        ),
        (
            '[storage.a]\nurl="memory://"\ntimeout = "soon"',
            "storage.a.timeout: must be a number of seconds, or text like '500ms', '30s', '15m', '12h', '7d' or",
        ),
        ('[storage.a]\nurl="memory://"\ntimeout = 0', "storage.a.timeout: Input should be greater than 0"),
        (
            '[storage."a b"]\nurl="memory://"',
            "storage.a b: a storage's name must be a letter, then letters",
        ),
        (
            "[server]\nprot = 80",
            "server.prot: unknown key; did you mean 'port'? known: allowed_origins, auth_timeout, host, ",
        ),
        ("[server]\nport = 70000", "server.port: Input should be less than or equal to 65535"),
        ("[server]\nport = true", "server.port: must be a number, not true or false"),
        (
            '[server]\nallowed_origins = ["https://a.example/"]',
            "server.allowed_origins.0: an origin is a scheme and a host, as in 'https://app.example', with no",
        ),
        (
            '[state]\nstorage = "lvie"\n[storage]\nlive = "memory://"',
            "state.storage: no section [storage.lvie] in motia.toml defines storage type 'lvie'; "
            "did you mean 'live'? known: default, live",
        ),
        (
            "[server\n",
            "is not valid TOML: ",
        ),
        (
            '[storage.live]\nurl = "${NET_URL}"',
            "storage.live.url: environment variable NET_URL is not set (${NET_URL:-...} gives it a default)",
        ),
        (
            '[storage.live]\nurl = "net://h:1/${BASE"',
            "storage.live.url: '${' is never closed: write ${NAME}, or $${ for a plain '${'",
        ),
        (
            '[storage.live]\nurl = "net://h:1/b"\nmapped = { collection = "${A:-x}${" }',
            "storage.live.mapped.collection: '${' is never closed: write ${NAME}, or $${ for a plain '${'",
        ),
        (
            '[server]\nallowed_origins = ["${A B}"]',
            "server.allowed_origins.0: '${...}' must hold a variable's name, as in ${NAME} or ${NAME:-default}",
        ),
        (
            '[server]\nhost = "${A_HOST:-${B_HOST:-::1}}"',
            "server.host: the default of ${A_HOST:-...} cannot hold another '${'",
        ),
    ],
)
def test_one_clear_error_names_file_and_key_and_what_is_allowed(tmp_path: Path, toml: str, message: str) -> None:
    assert refusal(tmp_path, toml).startswith(f"motia.toml: {message}")


def test_all_problems_of_a_table_are_told_at_once(tmp_path: Path) -> None:
    assert refusal(tmp_path, '[server]\nport = -1\nhost = ""').splitlines() == [
        "motia.toml: server.host: String should have at least 1 character",
        "motia.toml: server.port: Input should be greater than or equal to 0",
    ]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MOTIA_SERVER__PORT", "x", "environment variable MOTIA_SERVER__PORT: Input should be a valid integer"),
        (
            "MOTIA_SERVR__PORT",
            "1",
            "environment variable MOTIA_SERVR__PORT: names no section of the configuration; did you mean 'server'?",
        ),
        (
            "MOTIA_SERVER__PROT",
            "1",
            "environment variable MOTIA_SERVER__PROT: unknown key; did you mean 'port'?",
        ),
        (
            "MOTIA_STORAGE__LIVE__TIMEOUT",
            "3",
            "motia.toml: storage.live (with environment variable MOTIA_STORAGE__LIVE__TIMEOUT): needs adapter",
        ),
        (
            "MOTIA_STORAGE__LIVE",
            '{"adapter": "net", "pol": 3}',
            "environment variable MOTIA_STORAGE__LIVE (storage.live.pol): unknown key for adapter 'net'; did you mean",
        ),
        ("MOTIA_STORAGE__LIVE", "{nonsense", "environment variable MOTIA_STORAGE__LIVE: begins like JSON but is not"),
        ("MOTIA_SERVER__PORT__X", "3", "environment variable MOTIA_SERVER__PORT__X: server.port is no table"),
    ],
)
def test_an_error_of_the_environment_names_the_variable(tmp_path: Path, name: str, value: str, message: str) -> None:
    assert refusal(tmp_path, "[server]\nport = 1", **{name: value}).startswith(message)


def test_arguments_are_named_by_their_key() -> None:
    with pytest.raises(ConfigError, match=r"^storage\.live\.pol: unknown key for adapter 'net'; did you mean 'pool'\?"):
        Settings.build(storage={"live": {"adapter": "net", "pol": 3}}, plugins=plugins())
    with pytest.raises(ConfigError, match=r"^storage: must be a table"):
        Settings.build(storage="memory://", plugins=plugins())  # type: ignore[arg-type]


def test_a_storage_type_that_nobody_defines(tmp_path: Path) -> None:
    settings = load(tmp_path, '[storage]\norders = "memory://"')
    with pytest.raises(ConfigError) as caught:
        settings.storage_for("documents", "order")
    assert str(caught.value) == (
        f"stream 'documents': no section [storage.order] in {tmp_path}/motia.toml defines storage type 'order';"
        " did you mean 'orders'? known: default, orders"
    )


def test_without_sqlite_the_missing_default_says_why() -> None:
    settings = Settings.build(plugins=plugins(NET))
    with pytest.raises(
        ConfigError, match=r"^stream 'documents': no storage 'default' is defined, and SQLite cannot"
    ) as caught:
        settings.storage_for("documents", "default")
    assert "unknown adapter 'sqlite'" in str(caught.value)


def test_a_contested_adapter_is_a_plugin_error_at_its_key(tmp_path: Path) -> None:
    (tmp_path / "motia.toml").write_text('[storage.live]\nadapter = "net"')
    both = plugins(NET, replace(NET, schemes=("other",)))
    with pytest.raises(PluginError, match=r"motia\.toml: storage\.live\.adapter: adapter 'net' is claimed by plugin"):
        Settings.load(tmp_path, environ={}, plugins=both)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such project folder"):
        Settings.load(tmp_path / "nowhere", environ={}, plugins=plugins())
    (tmp_path / "motia.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"motia\.toml: is not UTF-8 text"):
        load(tmp_path)
    (tmp_path / "motia.toml").unlink()
    (tmp_path / "motia.toml").mkdir()
    with pytest.raises(ConfigError, match=r"motia\.toml: cannot be read: Is a directory"):
        load(tmp_path)


# -- secrets

SECRET = "hunter2/x"


@pytest.mark.parametrize(
    "toml",
    [
        f'[storage.live]\nurl = "net://u:{SECRET}@h/db"',  # urllib calls part of the password a bad port
        f'[storage.live]\nurl = "nett://u:{SECRET}@h:1/db"',
        f'[storage.live]\nadapter = "sqlite"\nurl = "net://u:{SECRET}@h:1/db"',
        f'[storage.live]\nurl = "net://u:{SECRET}@h:1/db"\npool = "{SECRET}"',
        f'[storage.live]\nurl = "net://h:1/db?namespace=%20&password={SECRET}"',
        f'[storage.live]\nurl = ["{SECRET}"]',
        f'[storage.live]\nurl = "{SECRET}"',
        f'[storage.live]\nadapter = "net"\nmapped = "{SECRET}"',
    ],
)
def test_no_message_and_no_traceback_shows_a_secret(tmp_path: Path, toml: str) -> None:
    (tmp_path / "motia.toml").write_text(toml)
    with pytest.raises(MotiaError) as caught:
        Settings.load(tmp_path, environ={}, plugins=plugins())
    shown = "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in re.sub(r"(?m)^ +File .*\n +.*$", "", shown)


def test_no_repr_shows_a_secret(tmp_path: Path) -> None:
    settings = load(tmp_path, f'[storage.live]\nadapter = "net"\ndatabase = "{SECRET}"')
    assert "hunter2" not in repr(settings)
    assert repr(settings.storage["live"]) == "StorageEntry('live', adapter='net')"
