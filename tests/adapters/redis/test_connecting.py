"""Which servers are refused, and what is said of them."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from motia_adapters.redis import scripts
from motia_adapters.redis.adapter import RedisAdapter
from motia_adapters.redis.failures import code_of
from motia_adapters.redis.options import RedisOptions, options_from_url
from pydantic import ValidationError

from motia_core.adapter import StorageSettings
from motia_core.errors import BackendError, BackendUnavailable
from motia_core.testing.servers import Redis, Redis62, free_port


def test_urls_become_options() -> None:
    assert options_from_url("redis://h:1/2") == {"host": "h", "port": 1, "db": 2}
    assert options_from_url("redis://:p%40ss@h") == {"host": "h", "password": "p@ss"}
    assert options_from_url("rediss://me:p@[::1]:7?tls_verify=false") == {
        "host": "::1", "port": 7, "tls": True, "username": "me", "password": "p", "tls_verify": "false",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://h", "begins with redis://"),
        ("redis://h:x", "port must be a number"),
        ("redis://h:99999", "port must be a number"),
        ("redis://h/first", "database's number"),
        ("redis://user@h", "needs a password"),
        ("redis://h#x", "no fragment"),
        ("redis://h/1?db=2", "given twice"),
    ],
)
def test_bad_urls_are_refused(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        options_from_url(url)


@pytest.mark.parametrize(
    "url", ["redis://:12/secret@h", "redis://u:1?secret@h/0", "redis://:1#secret@h", "redis://h?secret"]
)
def test_what_may_be_a_piece_of_a_password_is_not_shown(url: str) -> None:
    with pytest.raises(ValueError, match=r"write '.' |behind the") as refused:
        options_from_url(url)
    assert "secret" not in str(refused.value)


def test_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValidationError, match="need tls = true"):
        RedisOptions(tls_ca_file=Path("ca.pem"))
    with pytest.raises(ValidationError, match="username needs a password"):
        RedisOptions(username="me")
    assert "secret" not in repr(RedisOptions(**options_from_url("redis://:secret@h")))


def test_wrapped_error_replies_are_understood() -> None:
    wrapped = "Error running script (call to f_0): @user_script:1: -OOM command not allowed when used memory"
    assert code_of(wrapped) == "OOM"
    assert code_of("OOM command not allowed") == "OOM"
    assert code_of("ERR invalid password") == "WRONGPASS"
    assert code_of("ERR something else") == "ERR"


async def test_no_server(lab: Any) -> None:
    port = free_port()
    with pytest.raises(BackendUnavailable, match=rf"redis://127.0.0.1:{port}/0.*is the server running"):
        await lab.connect(port)


async def test_passwords_are_asked_for_and_never_shown(lab: Any) -> None:
    server = await lab.serve("--requirepass", "sesame")
    with pytest.raises(BackendError, match=r"NOAUTH.*give a password"):
        await lab.connect(server.port)
    with pytest.raises(BackendError, match="check username and password") as caught:
        await lab.connect(server.port, password="guessed")
    assert "guessed" not in str(caught.value)
    adapter = await lab.connect(server.port, password="sesame")
    await lab.put(adapter, "x", {"n": 1})
    assert "sesame" not in adapter.address + str(await adapter.diagnose())


async def test_an_acl_user_needs_only_what_the_readme_lists(lab: Any) -> None:
    server = await lab.serve()
    readme = (Path(__file__).parents[3] / "adapters/motia_adapters/redis/README.md").read_text()
    rules = next(line for line in readme.splitlines() if line.startswith("ACL SETUSER")).split()[3:]
    rules = [rule.replace("PASSWORD", "pw").replace("{motia:", "{test:") for rule in rules]
    await lab.ask(server.port, "ACL", "SETUSER", "app", *rules)
    adapter = await lab.connect(server.port, username="app", password="pw")
    before = await adapter.head(lab.docs)
    await lab.put(adapter, "x", {"n": 1}, ttl=60.0)
    await adapter.write(lab.docs, [lab.increment("x")])
    assert await adapter.list_groups(lab.docs, after=None, limit=None) == ["g"]
    assert (await adapter.snapshot(lab.docs, "g", None, limit=10)).items[0].value == {"n": 2}
    assert len(await lab.log(adapter, before)) == 2
    assert await adapter.diagnose()
    denied = await lab.ask(server.port, "ACL", "LOG")
    assert {bytes(entry[entry.index(b"object") + 1]) for entry in denied} <= {b"config|get"}


@pytest.mark.parametrize("kind", [Redis, Redis62])
async def test_a_right_that_is_missing_is_told_before_anything_is_written(lab: Any, kind: type[Redis]) -> None:
    """A command that is refused midway would leave half a write: each that `write.lua` needs is tried first."""
    server = await lab.serve(kind=kind)
    script = files("motia_adapters.redis").joinpath("scripts/write.lua").read_text()
    commands = sorted(set(re.findall(r"call\('([A-Z]+)'", script)) - {"PUBLISH"})
    assert len(commands) > 10
    for command in commands:
        await lab.ask(server.port, "ACL", "SETUSER", "app", "reset", "on", ">pw", "allkeys", "+@all", f"-{command}")
        with pytest.raises(BackendError, match=f"(?i)NOPERM.*{command}") as caught:
            await lab.connect(server.port, username="app", password="pw")
        assert "pw" not in str(caught.value)
    assert await lab.ask(server.port, "DBSIZE") == 0


async def test_servers_that_remove_data_by_themselves_are_refused(lab: Any) -> None:
    server = await lab.serve("--maxmemory-policy", "allkeys-lru")
    with pytest.raises(BackendError, match=r"allkeys-lru.*noeviction"):
        await lab.connect(server.port)
    await lab.ask(server.port, "CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    await lab.connect(server.port)


async def test_a_replica_is_refused(lab: Any) -> None:
    primary, replica = await lab.serve(), await lab.serve()
    await lab.ask(replica.port, "REPLICAOF", "127.0.0.1", primary.port)
    with pytest.raises(BackendUnavailable, match="connect to the primary"):
        await lab.connect(replica.port)


@asynccontextmanager
async def _answering(*replies: bytes) -> AsyncGenerator[int, None]:
    """A server that answers whatever it is sent with these, and then nothing."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"".join(replies))
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_old_servers_are_refused(lab: Any) -> None:
    info = b"redis_version:6.0.16\r\nrun_id:a\r\n"
    replies = [b"+OK\r\n", *[b"$1\r\na\r\n"] * len(scripts.ALL), b"$%d\r\n%s\r\n" % (len(info), info)]
    async with _answering(*replies) as port:
        with pytest.raises(BackendError, match=r"6\.0\.16.*6\.2 or newer"):
            await lab.connect(port)


async def test_what_is_no_redis_is_refused(lab: Any) -> None:
    async with _answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        with pytest.raises(BackendUnavailable, match="does not speak Redis's protocol"):
            await lab.connect(port)


async def test_a_silent_server_is_given_up_in_time(lab: Any) -> None:
    async with _answering() as port, asyncio.timeout(10):
        with pytest.raises(BackendUnavailable):
            await lab.connect(port, timeout=0.3)


async def test_tls(lab: Any, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no program 'openssl' to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    making = await asyncio.create_subprocess_exec(
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
        *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)),
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert await making.wait() == 0
    port = free_port()
    server: Redis = await lab.serve(
        *("--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key)),
        *("--tls-ca-cert-file", str(certificate), "--tls-auth-clients", "no"),
    )
    assert server.port != port
    adapter = await lab.connect(port, tls=True, tls_ca_file=certificate)
    before = await adapter.head(lab.docs)
    await lab.put(adapter, "x", {"n": 1})
    assert len(await lab.log(adapter, before)) == 1
    with pytest.raises(BackendUnavailable, match="tls_ca_file"):
        await lab.connect(port, tls=True)
    with pytest.raises(BackendUnavailable):  # plain text to a TLS port
        await lab.connect(port, timeout=1.0)


async def test_it_runs_on_uvloop(lab: Any) -> None:
    uvloop = pytest.importorskip("uvloop")
    server = await lab.serve()

    async def use() -> list[str]:
        adapter = RedisAdapter(StorageSettings("default", namespace="test"), RedisOptions(port=server.port))
        await adapter.open()
        before = await adapter.head(lab.docs)
        await lab.put(adapter, "x", {"n": 1})
        await adapter.write(lab.docs, [lab.increment("x")])
        types = [change.type for change in await lab.log(adapter, before)]
        await adapter.close()
        return types

    assert await asyncio.to_thread(uvloop.run, use()) == ["create", "update"]
