"""Options, URLs, and files that cannot be used: what the errors say (F1, F2)."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from motia_adapters.sqlite.capabilities import MANAGED, MAPPED
from motia_adapters.sqlite.options import SqliteOptions, options_from_url
from motia_adapters.sqlite.plugin import PLUGIN, motia_register_adapters
from pydantic import ValidationError

from motia_core.adapter import AdapterPlugin
from motia_core.errors import BackendError, BackendUnavailable


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("sqlite:///app.db", {"path": "app.db"}),
        ("sqlite:///data/app.db", {"path": "data/app.db"}),
        ("sqlite:////var/lib/app.db", {"path": "/var/lib/app.db"}),
        ("sqlite:///a%20b%23.db", {"path": "a b#.db"}),
        ("sqlite:///a.db?synchronous=full&poll_interval=0.02", {"synchronous": "FULL", "poll_interval": 0.02}),
    ],
)
def test_urls(url: str, options: dict[str, Any]) -> None:
    parsed = SqliteOptions(**options_from_url(url))
    assert {key: value for key, value in parsed.model_dump(mode="json").items() if key in options} == options


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite://app.db", "three slashes"),
        ("sqlite:app.db", "three slashes"),
        ("sqlite:///", "names a file"),
        ("sqlite:///a.db#b", "%23"),
        ("sqlite:///a.db?path=b.db", "twice"),
        ("sqlite:///a.db?synchronous", "synchronous"),
        ("redis:///a.db", "sqlite:///"),
    ],
)
def test_urls_that_make_no_sense(url: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        options_from_url(url)


@pytest.mark.parametrize(
    "options",
    [{"path": ""}, {"path": ":memory:"}, {"synchronous": "OFF"}, {"poll_interval": 0}, {"pathh": "x"}, {"path": "\0"}],
)
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SqliteOptions(**options)


def test_a_relative_path_starts_at_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert SqliteOptions(path="data/x.db").resolved_path() == tmp_path / "data" / "x.db"
    assert SqliteOptions(path="/data/x.db").resolved_path() == Path("/data/x.db")


def test_the_plugin_introduces_itself_without_loading_the_driver() -> None:
    assert motia_register_adapters() == [PLUGIN]
    assert isinstance(PLUGIN, AdapterPlugin)
    assert PLUGIN.modes == {"managed": MANAGED, "mapped": MAPPED}
    program = "import sys; from motia_adapters.sqlite import plugin; print('sqlite3' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    assert output.stdout.strip() == "False"


async def test_the_plugin_builds_what_it_describes(bench: Any, words: Any, tmp_path: Path) -> None:
    settings = bench.make().settings
    adapter = PLUGIN.load()(settings, PLUGIN.options(**PLUGIN.from_url(f"sqlite:///{tmp_path}/made/by/url.db")))
    await adapter.open()
    try:
        assert (tmp_path / "made" / "by" / "url.db").exists()
        assert adapter.address == f"{tmp_path}/made/by/url.db"
        assert adapter.capabilities(words.DOCS) == MANAGED
        assert len(await adapter.head(words.DOCS)) == MANAGED.max_position_length
    finally:
        await adapter.close()


def not_a_database(path: Path) -> None:
    path.write_bytes(b"This is a text file, and no database at all.\n" * 200)


def a_folder(path: Path) -> None:
    path.mkdir()


def below_a_file(path: Path) -> None:
    path.parent.rmdir()
    path.parent.write_text("a file")


def from_the_future(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE motia_clock (one INTEGER, schema INTEGER, seq INTEGER, ts REAL, epoch TEXT)")
    connection.execute("INSERT INTO motia_clock VALUES (1, 99, 0, 0.0, 'x')")
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("spoil", "error", "says"),
    [
        (not_a_database, BackendError, "move that file away"),
        (a_folder, BackendUnavailable, "is a file in a folder"),
        (below_a_file, BackendUnavailable, "check the path"),
        (from_the_future, BackendError, "upgrade motia-core"),
    ],
)
async def test_a_file_that_cannot_be_used_is_named_with_a_remedy(
    bench: Any, tmp_path: Path, spoil: Any, error: type[Exception], says: str
) -> None:
    path = tmp_path / "folder" / "streams.db"
    path.parent.mkdir()
    spoil(path)
    adapter = bench.make(path, timeout=0.5)
    with pytest.raises(error, match=says) as caught:
        await adapter.open()
    assert type(caught.value) is error
    assert "sqlite" in str(caught.value)
    assert str(path) in str(caught.value)


async def test_damage_found_later_is_this_projects_error(bench: Any, words: Any) -> None:
    adapter = await bench.open()
    for n in range(300):
        await words.write(adapter, words.put("g", f"{n:04}", {"filler": "x" * 500}))
    await adapter.close()
    with bench.path.open("r+b") as file:
        file.seek(3 * 4096)
        file.write(os.urandom(bench.path.stat().st_size - 3 * 4096))

    async def use() -> None:
        await adapter.open()
        await adapter.list(words.DOCS, "g", after=None, limit=None)

    with pytest.raises(BackendError, match="backup") as caught:
        await use()
    assert isinstance(caught.value.__cause__, sqlite3.DatabaseError)


async def test_diagnosis_tells_versions_and_settings(bench: Any, words: Any) -> None:
    adapter = await bench.open(synchronous="FULL")
    await words.write(adapter, words.put("g", "i", {}))
    findings = await adapter.diagnose()
    assert [finding.level for finding in findings] == ["ok"]
    assert sqlite3.sqlite_version in findings[0].message
    assert "synchronous=FULL" in findings[0].message
    assert str(bench.path) in findings[0].message
    assert "journal_mode=wal" in findings[0].message


async def test_ids_are_ordered_by_their_bytes_and_paged(bench: Any, words: Any) -> None:
    adapter = await bench.open()
    ids = ["\U0001f600", "\ufffd", "z", "é", "a:b", "..", "__x__", "'", "%", "A", "ab", "a", "/", "*", "\U00010000"]
    await adapter.write(words.DOCS, [words.put("g", id, {}) for id in ids])
    await adapter.write(words.DOCS, [words.put(id, "i", {}) for id in ids])
    ordered = sorted(ids, key=str.encode)
    found = await adapter.list(words.DOCS, "g", after=None, limit=None)
    assert [item.id for item in found] == ordered
    assert [group for group in await adapter.list_groups(words.DOCS, after=None, limit=None) if group != "g"] == ordered
    pages, after = [], None
    while page := await adapter.list(words.DOCS, "g", after=after, limit=4):
        pages += page
        after = page[-1].id
    assert [item.id for item in pages] == ordered
    groups = sorted([*ids, "g"], key=str.encode)
    for at, group in enumerate(groups, 1):
        assert await adapter.list_groups(words.DOCS, after=group, limit=2) == groups[at : at + 2]


async def test_long_lists_are_read_in_pieces(bench: Any, words: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from motia_adapters.sqlite import queries

    monkeypatch.setattr(queries, "LIST_PAGE", 7)
    adapter = await bench.open()
    await adapter.write(words.DOCS, [words.put(f"g{n % 15:02}", f"{n:03}", {}) for n in range(150)])
    assert len(await adapter.list(words.DOCS, "g03", after=None, limit=None)) == 10
    assert [item.id for item in await adapter.list(words.DOCS, "g03", after="018", limit=8)] == [
        f"{n:03}" for n in range(33, 150, 15)
    ]
    assert await adapter.list_groups(words.DOCS, after=None, limit=None) == [f"g{n:02}" for n in range(15)]
    assert await adapter.list_groups(words.DOCS, after="g01", limit=9) == [f"g{n:02}" for n in range(2, 11)]
    assert await adapter.list(words.DOCS, "g03", after=None, limit=0) == []
