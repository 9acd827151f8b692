"""What other programs write to a mapped table becomes changes, in their own transactions (B1, B2, B5)."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from motia_adapters.sqlite.adapter import SqliteAdapter
from motia_adapters.sqlite.mapped.reads import Rows

from motia_core.adapter import Retention
from motia_core.errors import Conflict, PositionExpired
from motia_core.model import Change, StreamSpec

ORDERS = "CREATE TABLE orders (customer TEXT, id TEXT, n INTEGER, mail TEXT UNIQUE, PRIMARY KEY (customer, id))"
MAPPED = {"table": "orders", "group_field": "customer", "id_field": "id", "include_ids": False}

Plain = Callable[[], sqlite3.Connection]


@pytest.fixture
async def orders(bench: Any, plain: Plain) -> SqliteAdapter:
    """A mapped table with three rows that were there before."""
    other = plain()
    other.execute(ORDERS)
    other.execute("INSERT INTO orders VALUES ('g', 'a', 1, 'a@x'), ('g', 'b', 2, 'b@x'), ('h', 'a', 3, NULL)")
    adapter: SqliteAdapter = await bench.open(mapped=MAPPED)
    return adapter


def told(changes: list[Change]) -> list[tuple[Any, ...]]:
    return [(change.type, change.group_id, change.id, change.data) for change in changes]


async def since(bench: Any, adapter: SqliteAdapter, head: str, words: Any) -> list[tuple[Any, ...]]:
    """The log after a position, as a new watch reads it."""
    end = await adapter.head(words.DOCS)
    watching = await bench.watch(adapter, head)
    await watching.until(lambda w: w.position >= end)
    await watching.stop()
    positions = [change.position for change in watching.changes]
    stamps = [change.timestamp for change in watching.changes]
    assert positions == sorted(set(positions))
    assert stamps == sorted(set(stamps))
    return told(watching.changes)


async def test_rows_that_were_there_are_the_initial_state(orders: SqliteAdapter, words: Any, bench: Any) -> None:
    snapshot = await orders.snapshot(words.DOCS, "g", None, limit=None)
    assert [(item.id, item.value) for item in snapshot.items] == [
        ("a", {"n": 1, "mail": "a@x"}),
        ("b", {"n": 2, "mail": "b@x"}),
    ]
    assert snapshot.items[0].version == snapshot.position
    floor = await orders.floor(words.DOCS)
    assert await since(bench, orders, floor, words) == []
    changed = await words.write(orders, words.change("g", "a", {"type": "increment", "path": "n", "by": 1}))
    assert changed.version > snapshot.items[0].version
    with pytest.raises(Conflict):
        await words.write(orders, words.put("g", "a", {}, expect=snapshot.items[0].version))
    await words.write(orders, words.put("g", "b", {"n": 5}, expect=snapshot.items[1].version))


FOREIGN = [
    (
        "INSERT INTO orders VALUES ('g', 'c', 4, 'c@x'), ('i', 'a', 5, NULL)",
        [("create", "g", "c", {"n": 4, "mail": "c@x"}), ("create", "i", "a", {"n": 5})],
    ),
    ("UPDATE orders SET n = n WHERE id = 'b'", [("update", "g", "b", {"n": 2, "mail": "b@x"})]),
    (
        "UPDATE orders SET n = n + 10",
        [
            ("update", "g", "a", {"n": 11, "mail": "a@x"}),
            ("update", "g", "b", {"n": 12, "mail": "b@x"}),
            ("update", "h", "a", {"n": 13}),
        ],
    ),
    (
        "DELETE FROM orders",
        [
            ("delete", "g", "a", {"n": 1, "mail": "a@x"}),
            ("delete", "g", "b", {"n": 2, "mail": "b@x"}),
            ("delete", "h", "a", {"n": 3}),
        ],
    ),
    (
        "UPDATE orders SET customer = 'i' WHERE id = 'b'",
        [("delete", "g", "b", {"n": 2, "mail": "b@x"}), ("create", "i", "b", {"n": 2, "mail": "b@x"})],
    ),
    (
        "UPDATE orders SET id = 'z' WHERE id = 'b'",
        [("delete", "g", "b", {"n": 2, "mail": "b@x"}), ("create", "g", "z", {"n": 2, "mail": "b@x"})],
    ),
    ("INSERT OR REPLACE INTO orders VALUES ('g', 'a', 7, 'a@x')", [("update", "g", "a", {"n": 7, "mail": "a@x"})]),
    ("REPLACE INTO orders VALUES ('g', 'new', 7, NULL)", [("create", "g", "new", {"n": 7})]),
    (
        "REPLACE INTO orders VALUES ('g', 'new', 7, 'a@x')",
        [("delete", "g", "a", {"n": 1, "mail": "a@x"}), ("create", "g", "new", {"n": 7, "mail": "a@x"})],
    ),
    (
        "REPLACE INTO orders VALUES ('h', 'a', 7, 'b@x')",
        [("delete", "g", "b", {"n": 2, "mail": "b@x"}), ("update", "h", "a", {"n": 7, "mail": "b@x"})],
    ),
    (
        "UPDATE OR REPLACE orders SET id = 'b' WHERE customer = 'g' AND id = 'a'",
        [("delete", "g", "a", {"n": 1, "mail": "a@x"}), ("update", "g", "b", {"n": 1, "mail": "a@x"})],
    ),
    (
        "UPDATE OR REPLACE orders SET mail = 'b@x' WHERE id = 'a' AND customer = 'g'",
        [("delete", "g", "b", {"n": 2, "mail": "b@x"}), ("update", "g", "a", {"n": 1, "mail": "b@x"})],
    ),
    (
        "INSERT OR IGNORE INTO orders VALUES ('g', 'a', 9, NULL), ('g', 'c', 9, 'b@x'), ('g', 'd', 9, NULL)",
        [("create", "g", "d", {"n": 9})],
    ),
    ("UPDATE OR IGNORE orders SET mail = 'b@x' WHERE customer = 'h'", []),
    (
        "INSERT INTO orders VALUES ('g', 'a', 9, NULL), ('g', 'c', 9, NULL)"
        " ON CONFLICT (customer, id) DO UPDATE SET n = excluded.n",
        [("update", "g", "a", {"n": 9, "mail": "a@x"}), ("create", "g", "c", {"n": 9})],
    ),
    ("INSERT INTO orders VALUES ('g', 'a', 9, NULL) ON CONFLICT DO NOTHING", []),
    ("INSERT INTO orders SELECT 'i', id, n, NULL FROM orders WHERE customer = 'h'", [("create", "i", "a", {"n": 3})]),
]


@pytest.mark.parametrize(("sql", "expected"), FOREIGN, ids=[sql[:40] for sql, _ in FOREIGN])
async def test_each_kind_of_statement_is_told_as_what_it_does(
    orders: SqliteAdapter, plain: Plain, words: Any, bench: Any, sql: str, expected: list[Any]
) -> None:
    head = await orders.head(words.DOCS)
    live = await bench.watch(orders)
    other = plain()
    other.execute(sql)
    assert await since(bench, orders, head, words) == expected
    last = await words.write(orders, words.put("last", "last", {"n": 0}))
    await live.until(lambda w: w.position >= last.position)
    assert told(live.changes)[:-1] == expected
    state = {("g", "a"): {"n": 1, "mail": "a@x"}, ("g", "b"): {"n": 2, "mail": "b@x"}, ("h", "a"): {"n": 3}}
    for change in live.changes:
        if change.type == "delete":
            assert state.pop((change.group_id, change.id)) == change.data
        else:
            assert (change.type == "update") == ((change.group_id, change.id) in state)
            state[change.group_id, change.id] = change.data
    assert await stored(orders, words) == state


async def stored(adapter: SqliteAdapter, words: Any) -> dict[tuple[str, str], Any]:
    groups = await adapter.list_groups(words.DOCS, after=None, limit=None)
    found = [item for g in groups for item in await adapter.list(words.DOCS, g, after=None, limit=None)]
    return {(item.group, item.id): item.value for item in found}


async def test_replaced_rows_are_told_also_where_their_delete_triggers_run(
    orders: SqliteAdapter, plain: Plain, words: Any, bench: Any
) -> None:
    other = plain()
    other.execute("PRAGMA recursive_triggers = ON")
    head = await orders.head(words.DOCS)
    other.execute("REPLACE INTO orders VALUES ('g', 'a', 7, 'b@x')")
    log = await since(bench, orders, head, words)
    assert sorted(log[:2]) == [
        ("delete", "g", "a", {"n": 1, "mail": "a@x"}),
        ("delete", "g", "b", {"n": 2, "mail": "b@x"}),
    ]
    assert log[2:] == [("create", "g", "a", {"n": 7, "mail": "b@x"})]


async def test_what_a_statement_that_did_nothing_put_aside_is_not_told_again(
    bench: Any, plain: Plain, words: Any
) -> None:
    other = plain()
    other.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT, mail TEXT UNIQUE)")
    other.execute("INSERT INTO orders VALUES (1, 'g', 'a'), (2, 'g', 'b')")
    adapter = await bench.open(mapped=MAPPED)
    head = await adapter.head(words.DOCS)
    other.execute("BEGIN")  # nobody tidies up in between
    other.execute("INSERT OR IGNORE INTO orders VALUES (2, 'h', 'a')")
    other.execute("INSERT OR IGNORE INTO orders VALUES (1, 'h', 'a')")
    other.execute("REPLACE INTO orders VALUES (3, 'g', 'a')")  # 1 is gone
    other.execute("UPDATE orders SET customer = 'h' WHERE id = 2")
    other.execute("UPDATE orders SET id = 1 WHERE id = 3")
    other.execute("COMMIT")
    assert await since(bench, adapter, head, words) == [
        ("delete", "g", "1", {"mail": "a"}),
        ("create", "g", "3", {"mail": "a"}),
        ("delete", "g", "2", {"mail": "b"}),
        ("create", "h", "2", {"mail": "b"}),
        ("delete", "g", "3", {"mail": "a"}),
        ("create", "g", "1", {"mail": "a"}),
    ]


async def test_replacing_with_ids_that_sqlite_chooses(bench: Any, plain: Plain, words: Any) -> None:
    other = plain()
    other.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT, mail TEXT UNIQUE)")
    other.execute("INSERT INTO orders VALUES (-1, 'g', 'minus'), (1, 'g', 'a')")
    adapter = await bench.open(mapped=MAPPED)
    head = await adapter.head(words.DOCS)
    other.execute("INSERT OR IGNORE INTO orders (customer, mail) VALUES ('g', 'a')")
    other.execute("INSERT INTO orders (customer, mail) VALUES ('g', 'b')")
    other.execute("REPLACE INTO orders (customer, mail) VALUES ('g', 'a')")
    other.execute("REPLACE INTO orders (id, customer, mail) VALUES (2, 'h', 'c')")
    assert await since(bench, adapter, head, words) == [
        ("create", "g", "2", {"mail": "b"}),
        ("delete", "g", "1", {"mail": "a"}),
        ("create", "g", "3", {"mail": "a"}),
        ("delete", "g", "2", {"mail": "b"}),
        ("create", "h", "2", {"mail": "c"}),
    ]


async def test_foreign_keys_that_cascade_are_told(bench: Any, plain: Plain, words: Any) -> None:
    other = plain()
    other.execute("CREATE TABLE customers (name TEXT PRIMARY KEY)")
    other.execute("INSERT INTO customers VALUES ('g'), ('h')")
    other.execute(
        "CREATE TABLE orders (customer TEXT REFERENCES customers ON DELETE CASCADE ON UPDATE CASCADE, id TEXT,"
        " PRIMARY KEY (customer, id)) WITHOUT ROWID"
    )
    other.execute("INSERT INTO orders VALUES ('g', 'a'), ('h', 'a')")
    adapter = await bench.open(mapped=MAPPED)
    head = await adapter.head(words.DOCS)
    other.execute("PRAGMA foreign_keys = ON")
    other.execute("UPDATE customers SET name = 'i' WHERE name = 'g'")
    other.execute("DELETE FROM customers WHERE name = 'h'")
    assert await since(bench, adapter, head, words) == [
        ("delete", "g", "a", {}),
        ("create", "i", "a", {}),
        ("delete", "h", "a", {}),
    ]


async def test_what_is_rolled_back_never_was(orders: SqliteAdapter, plain: Plain, words: Any, bench: Any) -> None:
    head = await orders.head(words.DOCS)
    other = plain()
    other.execute("BEGIN")
    other.execute("UPDATE orders SET n = 0")
    assert (await orders.get(words.DOCS, "g", "a")).value["n"] == 1  # type: ignore[union-attr]
    other.execute("ROLLBACK")
    other.execute("BEGIN")
    other.execute("DELETE FROM orders WHERE id = 'a'")
    other.execute("SAVEPOINT s")
    other.execute("DELETE FROM orders")
    other.execute("ROLLBACK TO s")
    with pytest.raises(sqlite3.IntegrityError):
        other.execute("INSERT INTO orders VALUES ('i', 'a', 1, NULL), ('g', 'b', 1, NULL)")
    assert await orders.head(words.DOCS) == head
    other.execute("COMMIT")
    assert await since(bench, orders, head, words) == [
        ("delete", "g", "a", {"n": 1, "mail": "a@x"}),
        ("delete", "h", "a", {"n": 3}),
    ]


WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("INSERT INTO orders VALUES ('k', 'whole', 1, NULL)")
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN IMMEDIATE")
for n in range(2000):
    connection.execute("INSERT INTO orders VALUES ('k', ?, 1, NULL)", (str(n),))
print("in the middle", flush=True)
sys.stdin.readline()
"""


async def test_a_writer_that_is_killed_in_its_transaction_leaves_neither_rows_nor_changes(
    orders: SqliteAdapter, words: Any, bench: Any
) -> None:
    head = await orders.head(words.DOCS)
    process = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", WRITER, str(bench.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = await asyncio.get_running_loop().run_in_executor(None, process.stdout.readline)
        assert line == "in the middle\n"
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    result = await words.write(orders, words.put("k", "after", {"n": 2}))
    assert await since(bench, orders, head, words) == [
        ("create", "k", "whole", {"n": 1}),
        ("create", "k", "after", {"n": 2}),
    ]
    listed = await orders.list(words.DOCS, "k", after=None, limit=None)
    assert [(item.id, item.version == result.version) for item in listed] == [("after", True), ("whole", False)]


async def test_a_clock_that_is_behind_does_not_turn_time_back(
    orders: SqliteAdapter, plain: Plain, words: Any, bench: Any
) -> None:
    other = plain()
    other.execute("UPDATE motia_clock SET ts = ts + 1e9")
    head = await orders.head(words.DOCS)
    other.execute("UPDATE orders SET n = 1")
    await words.write(orders, words.put("g", "a", {}))
    assert len(await since(bench, orders, head, words)) == 4  # which checks the timestamps


async def test_hidden_streams_and_the_table_share_one_order(
    orders: SqliteAdapter, plain: Plain, words: Any, bench: Any
) -> None:
    hidden = StreamSpec("$state", hidden=True)
    head = await orders.head(words.DOCS)
    other = plain()
    positions = []
    for n in range(10):
        both = await asyncio.gather(
            words.write(orders, words.put("g", "a", {"n": n})),
            words.write(orders, words.put("s", "x", {"n": n}), hidden),
        )
        other.execute("UPDATE orders SET n = 100 WHERE id = 'b'")
        positions += sorted(result.position for result in both)
    assert positions == sorted(set(positions))
    assert len(await since(bench, orders, head, words)) == 20
    watching = await bench.watch(orders, head, hidden)
    await watching.until(lambda w: len(w.changes) == 10)


async def test_retention_trims_the_copied_rows_with_the_log(bench: Any, plain: Plain, words: Any) -> None:
    other = plain()
    other.execute(ORDERS)
    adapter = await bench.open(mapped=MAPPED, retention=Retention(count=10))
    head = await adapter.head(words.DOCS)
    other.execute("INSERT INTO orders VALUES ('g', 'a', 0, NULL)")
    for n in range(200):
        other.execute("UPDATE orders SET n = ?", (n,))
    async with asyncio.timeout(words.DEADLINE):
        while await adapter.floor(words.DOCS) <= head:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    other.execute("BEGIN")
    log = other.execute("SELECT seq FROM motia_log ORDER BY seq").fetchall()
    (stream,) = other.execute("SELECT stream FROM motia_maps").fetchone()
    assert log == other.execute(f"SELECT seq FROM motia_rows_{stream} ORDER BY seq").fetchall()
    assert len(log) == 10
    other.execute("COMMIT")
    with pytest.raises(PositionExpired):
        raise await bench.refused(adapter, head).failed()


async def test_rows_put_aside_for_nothing_are_forgotten(orders: SqliteAdapter, plain: Plain, words: Any) -> None:
    other = plain()
    (stream,) = other.execute("SELECT stream FROM motia_maps").fetchone()
    left = f"SELECT count(*) FROM motia_replaced_{stream}"
    for _ in range(3):
        other.execute("INSERT OR IGNORE INTO orders SELECT customer, id, 0, NULL FROM orders")
        assert other.execute(left).fetchone()[0] <= 3
    async with asyncio.timeout(words.DEADLINE):
        while other.execute(left).fetchone()[0]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


UNUSABLE: list[tuple[Any, Any]] = [
    (None, "x"),
    ("g", None),
    ("", "x"),
    ("g", ""),
    ("g", "a\nb"),
    ("g", "a\x00b"),
    ("g", "\x85"),
    ("g", "é" * 257),
    (b"g", "x"),
    ("g", b"x"),
]


async def test_rows_that_cannot_be_items_are_reported_and_never_shown(
    bench: Any, plain: Plain, words: Any, caplog: pytest.LogCaptureFixture
) -> None:
    other = plain()
    other.execute(ORDERS)
    other.executemany("INSERT INTO orders VALUES (?, ?, 1, NULL)", UNUSABLE[:6])
    other.execute("INSERT INTO orders VALUES ('g', 'good', 1, NULL)")
    with caplog.at_level(logging.WARNING):
        adapter = await bench.open(mapped=MAPPED)
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "6 rows of table 'orders'" in warning
    head = await adapter.head(words.DOCS)
    other.executemany("INSERT INTO orders VALUES (?, ?, 1, NULL)", UNUSABLE[6:])
    other.execute("UPDATE orders SET n = 2")
    other.execute("UPDATE orders SET customer = 'g', id = 'mended' WHERE customer IS NULL")
    other.execute("UPDATE orders SET id = NULL WHERE id = 'good'")
    assert await since(bench, adapter, head, words) == [
        ("update", "g", "good", {"n": 2}),
        ("create", "g", "mended", {"n": 2}),
        ("delete", "g", "good", {"n": 2}),
    ]
    assert await stored(adapter, words) == {("g", "mended"): {"n": 2}}
    findings = [finding for finding in await adapter.diagnose() if "cannot be items" in finding.message]
    assert [finding.level for finding in findings] == ["warning"]
    assert findings[0].message.startswith("10 rows")
    assert len(other.execute(findings[0].remedy).fetchall()) == 10


async def test_pages_and_groups_find_what_they_return_by_index(orders: SqliteAdapter, plain: Plain) -> None:
    """No plan reads a whole table, neither of our reads nor of the triggers."""
    database = orders._database
    assert database is not None
    assert database.mapped is not None
    rows = Rows(database.mapped)
    other = plain()
    for sql, parameters in (
        (rows._get, ("g", "a")),
        (rows._list, ("g", b"", 10)),
        (rows._groups, {"after": b"", "limit": 10}),
        ("UPDATE orders SET mail = 'x' WHERE customer = 'g' AND id = 'a'", ()),
    ):
        plan = [row[3] for row in other.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)]
        assert not [
            step for step in plan if step.startswith("SCAN") and "groups" not in step and "CONSTANT" not in step
        ]
