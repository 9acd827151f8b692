"""Mapped tables under any SQL that another program may run: the log always leads to what the table holds."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from motia_adapters.sqlite.adapter import SqliteAdapter
from motia_adapters.sqlite.options import MappedOptions, SqliteOptions

from motia_core.adapter import StorageSettings
from motia_core.errors import InvalidName, InvalidValue
from motia_core.hub import Hub
from motia_core.model import StreamSpec
from motia_core.streams import Stream
from motia_core.testing.harness import read_log
from motia_core.testing.history import check_history

SPEC = StreamSpec("orders")
TABLES = [
    "grp TEXT, id TEXT, n INTEGER, u TEXT UNIQUE, PRIMARY KEY (grp, id)",
    "grp TEXT, id INTEGER PRIMARY KEY, n INTEGER, u TEXT UNIQUE",
    "grp INTEGER, id INTEGER PRIMARY KEY, n INTEGER, u TEXT COLLATE NOCASE UNIQUE",
    "pk INTEGER PRIMARY KEY, grp TEXT, id TEXT, n INTEGER, u TEXT UNIQUE, UNIQUE (grp, id) ON CONFLICT REPLACE",
    "grp TEXT, id TEXT UNIQUE, n INTEGER, u TEXT UNIQUE ON CONFLICT IGNORE",
    "grp TEXT COLLATE NOCASE, id TEXT COLLATE NOCASE, n INTEGER, u TEXT UNIQUE,"
    " UNIQUE (grp COLLATE BINARY, id COLLATE BINARY), UNIQUE (grp, id)",
]
TRIGGERS = [
    "CREATE TRIGGER bump AFTER UPDATE OF n ON t WHEN NEW.n % 7 = 0"
    " BEGIN UPDATE t SET u = NULL WHERE rowid IS NEW.rowid; END",
    "CREATE TRIGGER gone AFTER INSERT ON t WHEN NEW.n % 5 = 0 BEGIN DELETE FROM t WHERE n = NEW.n - 1; END",
]
STEPS = 60


class Fuzz:
    """One table, one program that writes to it as the seed says, and what it did."""

    def __init__(self, path: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        columns = self.chance.choice(TABLES)
        rowid = self.chance.random() < 0.85 or "PRIMARY KEY (grp, id)" not in columns
        self.trace: list[Any] = [f"CREATE TABLE t ({columns}){'' if rowid else ' WITHOUT ROWID'}"]
        self.text_groups = "grp TEXT" in columns
        self.text_ids = "id TEXT" in columns
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute(self.trace[0])
        if self.chance.random() < 0.3:
            self.run("PRAGMA recursive_triggers = 1")
        for trigger in TRIGGERS if rowid else TRIGGERS[1:]:
            if self.chance.random() < 0.25:
                self.run(trigger)

    def run(self, sql: str, *values: Any) -> None:
        """Run a statement; what SQLite refuses is refused."""
        try:
            self.connection.execute(sql, values)
            self.trace.append((sql, values))
        except sqlite3.Error as error:
            self.trace.append((sql, values, str(error)))

    def group(self) -> Any:
        return self.chance.choice(["g", "h", "G", None, 5] if self.text_groups else [1, 2])

    def id(self) -> Any:
        return self.chance.choice(["a", "b", "A", "c", None] if self.text_ids else [1, 2, 3, 10, None])

    def other(self) -> Any:
        return self.chance.choice(["p", "q", "P", None, "s"])

    def step(self, number: int) -> None:
        """Any statement."""
        how = self.chance.choice(["", "OR IGNORE", "OR REPLACE", "OR REPLACE", "OR ABORT", "OR FAIL", "OR ROLLBACK"])
        row = (self.group(), self.id(), number, self.other())
        statements: list[tuple[int, str, Sequence[Any]]] = [
            (35, f"INSERT {how} INTO t (grp, id, n, u) VALUES (?, ?, ?, ?)", row),
            (7, f"INSERT {how} INTO t (grp, id, n, u) SELECT grp, id, n + 1, ? FROM t ORDER BY n LIMIT 2", row[3:]),
            (
                8,
                "INSERT INTO t (grp, id, n, u) VALUES (?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET n = excluded.n, u = excluded.u",
                row,
            ),
            (10, f"UPDATE {how} t SET n = ?, u = ? WHERE id IS ?", (number, row[3], row[1])),
            (10, f"UPDATE {how} t SET grp = ? WHERE id IS ?", (row[0], row[1])),
            (7, f"UPDATE {how} t SET id = ?, n = ? WHERE grp IS ?", (row[1], number, row[0])),
            (8, "DELETE FROM t WHERE id IS ?", (row[1],)),
            (2, "DELETE FROM t", ()),
        ]
        if self.connection.in_transaction:
            ends = ["COMMIT", "COMMIT", "ROLLBACK", "SAVEPOINT s", "ROLLBACK TO s"]
            statements.append((25, self.chance.choice(ends), ()))
        else:
            statements.append((5, "BEGIN", ()))
        weights = [weight for weight, _, _ in statements]
        _, sql, values = self.chance.choices(statements, weights)[0]
        self.run(sql, *values)

    def rows(self) -> dict[tuple[str, str], dict[str, Any]]:
        """The items that the table holds."""
        kinds = (str if self.text_groups else int), (str if self.text_ids else int)
        return {
            (str(group), str(id)): {name: cell for name, cell in (("n", n), ("u", u)) if cell is not None}
            for group, id, n, u in self.connection.execute("SELECT grp, id, n, u FROM t")
            if isinstance(group, kinds[0]) and isinstance(id, kinds[1])
        }


@asynccontextmanager
async def mapped(path: Path) -> AsyncIterator[Stream[dict[str, Any]]]:
    """The table as a stream."""
    options = MappedOptions(table="t", group_field="grp", id_field="id", include_ids=False)
    adapter = SqliteAdapter(StorageSettings("default", timeout=20.0), SqliteOptions(path=path, mapped=options))
    await adapter.open()
    await adapter.prepare(SPEC)
    hub = Hub(adapter, SPEC)
    try:
        yield Stream(SPEC, adapter, hub)
    finally:
        await hub.close()
        await adapter.close()


async def fuzz(path: Path, seed: int) -> None:
    with closing(sqlite3.connect(path)):
        pass
    program = Fuzz(path, seed)
    with closing(program.connection):
        async with mapped(path) as stream:
            head = await stream.hub.adapter.head(SPEC)
            for number in range(STEPS):
                program.step(number)
                if not program.connection.in_transaction:
                    if program.chance.random() < 0.08 and (ids := (program.group(), program.id())) and all(ids):
                        program.trace.append(("own", *ids))
                        try:
                            await stream.set(str(ids[0]), str(ids[1]), {"n": number})
                        except (InvalidName, InvalidValue) as error:
                            program.trace.append(str(error))
                    if number % 5 == 0:
                        await check(stream, program, head, seed)
            if program.connection.in_transaction:
                program.run("COMMIT")
            await check(stream, program, head, seed)


async def check(stream: Stream[Any], program: Fuzz, head: str, seed: int) -> None:
    """The log, the items and the versions all say what the table says."""
    told = f"seed {seed}\n" + "\n".join(map(str, program.trace))
    adapter = stream.hub.adapter
    final = program.rows()
    log = await read_log(adapter, SPEC, head)
    verdict = check_history(log, final)
    assert verdict, f"{verdict}\n{told}"
    last = {(change.group_id, change.id): change.version for change in log}
    items = {}
    for group in await adapter.list_groups(SPEC, after=None, limit=None):
        for item in (await adapter.snapshot(SPEC, group, None, limit=None)).items:
            items[group, item.id] = item.value
            assert item.version == last[group, item.id], told
    assert items == final, told


async def test_any_sql_of_another_program_is_told_as_it_happened(tmp_path: Path) -> None:
    for seed in range(25):
        await fuzz(tmp_path / f"{seed}.db", seed)


@pytest.mark.chaos
@pytest.mark.parametrize("hundred", range(1, 6))
async def test_a_lot_of_sql_of_another_program(tmp_path: Path, hundred: int) -> None:
    for seed in range(hundred * 100, hundred * 100 + 100):
        await fuzz(tmp_path / f"{seed}.db", seed)
