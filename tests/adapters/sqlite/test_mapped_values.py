"""A mapped table's cells as JSON, and JSON as cells: equal when it is read, or refused (A1-A3)."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest
from motia_adapters.sqlite.adapter import SqliteAdapter

from motia_core.errors import BackendError, InvalidName, InvalidValue, UnsupportedCapability
from motia_core.model import StreamSpec

ORDERS = """
CREATE TABLE orders (
    customer TEXT, code TEXT,
    title TEXT, views INTEGER, price REAL, day DATE, done BOOLEAN, anything, tags TEXT, photo BLOB, extra TEXT,
    PRIMARY KEY (customer, code)
)
"""
MAPPED = {
    "table": "orders",
    "group_field": "customer",
    "id_field": "code",
    "rest_field": "extra",
    "json_fields": ["tags"],
    "include_ids": False,
}
TYPED = {key: value for key, value in MAPPED.items() if key != "rest_field"}

Plain = Callable[[], sqlite3.Connection]


@pytest.fixture
async def orders(bench: Any, plain: Plain) -> SqliteAdapter:
    """A table with a rest_field."""
    plain().execute(ORDERS)
    adapter: SqliteAdapter = await bench.open(mapped=MAPPED)
    return adapter


@pytest.fixture
async def typed(bench: Any, plain: Plain) -> SqliteAdapter:
    """The same table without one."""
    plain().execute(ORDERS)
    adapter: SqliteAdapter = await bench.open(mapped=TYPED)
    return adapter


HELD: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"title": "é"}, {"title": "é"}),
    ({"title": "5"}, {"title": "5"}),
    ({"views": 5}, {"views": 5}),
    ({"views": 2**63 - 1}, {"views": 2**63 - 1}),
    ({"views": 2.5}, {"views": 2.5}),
    ({"views": 7.0}, {"views": 7}),
    ({"views": "not a number"}, {"views": "not a number"}),
    ({"price": 3}, {"price": 3.0}),
    ({"price": 0.1}, {"price": 0.1}),
    ({"day": "2026-01-31"}, {"day": "2026-01-31"}),
    ({"done": True}, {"done": 1}),
    ({"done": False}, {"done": 0}),
    ({"done": 2}, {"done": 2}),
    ({"anything": "5"}, {"anything": "5"}),
    ({"anything": 5.0}, {"anything": 5.0}),
    ({"tags": ["a", {"b": None}]}, {"tags": '["a",{"b":null}]'}),
    ({"tags": None}, {"tags": "null"}),
    ({"tags": "5"}, {"tags": '"5"'}),
]
UNFIT: list[tuple[dict[str, Any], str]] = [
    ({"title": 5}, "TEXT affinity"),
    ({"title": True}, "not declared BOOLEAN"),
    ({"title": None}, "cannot hold null"),
    ({"title": ["a"]}, "cannot hold a list"),
    ({"views": "5"}, "INTEGER affinity"),
    ({"views": " 1e5 "}, "INTEGER affinity"),
    ({"views": False}, "not declared BOOLEAN"),
    ({"views": {}}, "cannot hold an object"),
    ({"price": 2**53 + 1}, "round this integer"),
    ({"price": "1.5"}, "REAL affinity"),
    ({"day": "2026"}, "NUMERIC affinity"),
    ({"done": 1}, "make true or false"),
    ({"done": "1"}, "NUMERIC affinity"),
    ({"anything": None}, "cannot hold null"),
    ({"unknown": 1}, "no column for 'unknown'"),
    ({"code": "x"}, "no column for 'code'"),
]


@pytest.mark.parametrize(("value", "cells"), HELD)
@pytest.mark.parametrize("rest", [True, False])
async def test_columns_hold_what_stays_equal(
    bench: Any, plain: Plain, words: Any, value: dict[str, Any], cells: dict[str, Any], rest: bool
) -> None:
    plain().execute(ORDERS)
    adapter = await bench.open(mapped=MAPPED if rest else TYPED)
    result = await words.write(adapter, words.put("g", "x", value))
    item = await adapter.get(words.DOCS, "g", "x")
    assert item.value == result.new_value == value
    connection = plain()
    connection.row_factory = sqlite3.Row
    row = dict(connection.execute("SELECT * FROM orders").fetchone())
    stored = {name: cell for name, cell in row.items() if cell is not None and name not in ("customer", "code")}
    assert stored == cells
    assert [type(cell) for cell in stored.values()] == [type(cell) for cell in cells.values()]


@pytest.mark.parametrize(("value", "reason"), UNFIT)
async def test_what_a_column_cannot_hold_goes_to_the_rest(
    orders: SqliteAdapter, plain: Plain, words: Any, value: dict[str, Any], reason: str
) -> None:
    await words.write(orders, words.put("g", "x", {"title": "a", "views": 1, **value}))
    item = await orders.get(words.DOCS, "g", "x")
    assert item is not None
    assert item.json == words.put("g", "x", item.value).json
    assert item.value == {"title": "a", "views": 1, **value}
    assert [type(item.value[key]) for key in value] == [type(member) for member in value.values()]
    (extra,) = plain().execute("SELECT extra FROM orders").fetchone()
    assert extra is not None


@pytest.mark.parametrize(("value", "reason"), UNFIT)
async def test_without_a_rest_field_it_is_refused_and_nothing_is_written(
    typed: SqliteAdapter, plain: Plain, words: Any, value: dict[str, Any], reason: str
) -> None:
    await words.write(typed, words.put("g", "y", {"title": "before"}))
    head = await typed.head(words.DOCS)
    with pytest.raises(InvalidValue, match=reason) as caught:
        await words.write(typed, words.put("g", "x", value))
    assert caught.value.path == f"$.{next(iter(value))}"
    with pytest.raises(InvalidValue, match=reason):
        await words.write(typed, words.put("g", "y", value))
    assert plain().execute("SELECT customer, code, title FROM orders").fetchall() == [("g", "y", "before")]
    assert await typed.head(words.DOCS) == head


async def test_an_update_writes_only_the_cells_that_change(orders: SqliteAdapter, plain: Plain, words: Any) -> None:
    other = plain()
    other.execute(
        "INSERT INTO orders VALUES ('g', 'x', 'a', 'many', 1e999, 20, 1, 1.0, '{ \"b\" :1}', x'00ff', '{ \"z\": 1 }')"
    )
    before = other.execute("SELECT * FROM orders").fetchone()
    result = await words.write(orders, words.change("g", "x", {"type": "set", "path": "title", "value": "b"}))
    assert result.old_value == {
        "title": "a",
        "views": "many",
        "price": "Infinity",
        "day": 20,
        "done": True,
        "anything": 1.0,
        "tags": {"b": 1},
        "photo": "AP8=",
        "z": 1,
    }
    assert result.new_value == {**result.old_value, "title": "b"}
    after = other.execute("SELECT * FROM orders").fetchone()
    assert after == (*before[:2], "b", *before[3:])
    assert [type(cell) for cell in after] == [type(cell) for cell in before]


async def test_setting_what_is_there_writes_no_cell_and_is_a_change(
    orders: SqliteAdapter, plain: Plain, words: Any
) -> None:
    other = plain()
    other.execute("INSERT INTO orders (customer, code, tags, photo, extra) VALUES ('g', 'x', '[ 1 ]', x'01', 'oops')")
    before = other.execute("SELECT * FROM orders").fetchone()
    value = {"tags": [1], "photo": "AQ==", "extra": "oops"}
    result = await words.write(orders, words.put("g", "x", value))
    assert (result.type, result.old_value, result.new_value) == ("update", value, value)
    assert other.execute("SELECT * FROM orders").fetchone() == before
    again = await words.write(orders, words.put("g", "x", value))
    assert again.version > result.version


async def test_blobs_are_read_and_left_alone_but_never_written(orders: SqliteAdapter, plain: Plain, words: Any) -> None:
    other = plain()
    other.execute("INSERT INTO orders (customer, code, photo) VALUES ('g', 'x', x'01')")
    with pytest.raises(InvalidValue, match="BLOB"):
        await words.write(orders, words.put("g", "x", {"photo": "Ag=="}))
    await words.write(orders, words.put("g", "x", {"photo": "AQ==", "title": "a"}))
    assert other.execute("SELECT photo, title FROM orders").fetchall() == [(b"\x01", "a")]
    await words.write(orders, words.put("g", "x", {}))
    assert other.execute("SELECT photo FROM orders").fetchall() == [(None,)]


async def test_a_column_that_is_set_hides_the_rest(orders: SqliteAdapter, plain: Plain, words: Any) -> None:
    await words.write(orders, words.put("g", "x", {"title": 5, "more": 1}))
    other = plain()
    other.execute("UPDATE orders SET title = 'theirs'")
    item = await orders.get(words.DOCS, "g", "x")
    assert item is not None
    assert item.value == {"title": "theirs", "more": 1}
    await words.write(orders, words.change("g", "x", {"type": "increment", "path": "more", "by": 1}))
    assert other.execute("SELECT title, extra FROM orders").fetchall() == [("theirs", '{"more":2}')]


@pytest.mark.parametrize(
    "text", ["{", "[1]", "5", '{"n":123456789012345678901}', '{"n":"\\u0000"}', "[" * 101 + "]" * 101]
)
async def test_json_of_others_that_is_none_of_ours_is_seen_as_it_is(
    orders: SqliteAdapter, plain: Plain, words: Any, text: str
) -> None:
    other = plain()
    other.execute("INSERT INTO orders (customer, code, tags, extra) VALUES ('g', 'x', ?, ?)", (text, text))
    item = await orders.get(words.DOCS, "g", "x")
    assert item is not None
    seen = {"[1]": [1], "5": 5}.get(text, text)
    assert item.value == {"tags": seen, "extra": seen}
    await words.write(orders, words.change("g", "x", {"type": "set", "path": "title", "value": "a"}))
    assert other.execute("SELECT title, tags, extra FROM orders").fetchall() == [("a", text, text)]


async def test_text_that_is_not_utf_8_is_shown_and_left_alone(
    orders: SqliteAdapter, plain: Plain, words: Any, bench: Any
) -> None:
    other = plain()
    watching = await bench.watch(orders)
    other.execute("INSERT INTO orders (customer, code, title) VALUES ('g', 'x', CAST(x'41ff42' AS TEXT))")
    other.execute("INSERT INTO orders (customer, code, title) VALUES ('g', CAST(x'ff' AS TEXT), 'a')")
    await words.write(orders, words.change("g", "x", {"type": "set", "path": "views", "value": 1}))
    assert other.execute("SELECT hex(title) FROM orders WHERE code = 'x'").fetchall() == [("41FF42",)]
    items = await orders.list(words.DOCS, "g", after=None, limit=None)
    assert [(item.id, item.value) for item in items] == [("x", {"title": "A\ufffdB", "views": 1})]
    await watching.until(lambda w: len(w.changes) == 2)
    assert [change.data for change in watching.changes] == [
        {"title": "A\ufffdB"},
        {"title": "A\ufffdB", "views": 1},
    ]


RULES = """
CREATE TABLE customers (name TEXT PRIMARY KEY);
INSERT INTO customers VALUES ('g');
CREATE TABLE orders (
    customer TEXT NOT NULL REFERENCES customers (name), code TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'new', amount INTEGER CHECK (amount > 0), ref TEXT UNIQUE, made TEXT DEFAULT 'now',
    later TEXT REFERENCES customers (name) DEFERRABLE INITIALLY DEFERRED,
    PRIMARY KEY (customer, code)
);
CREATE TABLE lines (customer TEXT, code TEXT, FOREIGN KEY (customer, code) REFERENCES orders (customer, code));
INSERT INTO orders (customer, code, ref) VALUES ('g', 'kept', 'r1');
INSERT INTO lines VALUES ('g', 'kept');
CREATE TRIGGER no_hands BEFORE UPDATE OF state ON orders WHEN NEW.state = 'forbidden'
BEGIN SELECT RAISE(ROLLBACK, 'hands off'); END;
CREATE TRIGGER ignored BEFORE INSERT ON orders WHEN NEW.state = 'ignored' BEGIN SELECT RAISE(IGNORE); END;
"""


@pytest.mark.parametrize(
    ("group", "id", "value", "reason"),
    [
        ("g", "x", {}, r"^\$\.state: .*NOT NULL constraint failed: orders.state"),
        ("g", "x", {"state": "a", "amount": 0}, "CHECK constraint failed"),
        ("g", "x", {"state": "a", "ref": "r1"}, "UNIQUE constraint failed: orders.ref"),
        ("nobody", "x", {"state": "a"}, "FOREIGN KEY constraint failed"),
        ("g", "x", {"state": "a", "later": "nobody"}, "FOREIGN KEY constraint failed"),
        ("g", "kept", {"state": "forbidden", "ref": "r1", "made": "now"}, "hands off"),
        ("g", "x", {"state": "ignored"}, "ignored it"),
    ],
)
async def test_the_tables_own_rules_refuse_one_write_and_no_other(
    bench: Any, plain: Plain, words: Any, group: str, id: str, value: dict[str, Any], reason: str
) -> None:
    other = plain()
    other.executescript(RULES)
    adapter = await bench.open(mapped=TYPED | {"json_fields": []})
    head = await adapter.head(words.DOCS)
    good = [words.write(adapter, words.put("g", f"good{n}", {"state": "a"})) for n in range(6)]
    results: list[Any] = await asyncio.gather(
        *good[:3], words.write(adapter, words.put(group, id, value)), *good[3:], return_exceptions=True
    )
    refused = results.pop(3)
    assert isinstance(refused, InvalidValue)
    with pytest.raises(InvalidValue, match=reason):
        raise refused
    assert reason == "ignored it" or isinstance(refused.__cause__, sqlite3.IntegrityError)
    assert [result.type for result in results] == ["create"] * 6
    assert {code for (code,) in other.execute("SELECT code FROM orders")} == {"kept", *(f"good{n}" for n in range(6))}
    watching = await bench.watch(adapter, head)
    await watching.until(lambda w: len(w.changes) == 6)
    assert {change.id for change in watching.changes} == {f"good{n}" for n in range(6)}
    assert [r.position for r in results] == [c.position for c in watching.changes]


async def test_a_table_that_refuses_a_delete_or_cannot_run_says_so(bench: Any, plain: Plain, words: Any) -> None:
    other = plain()
    other.executescript(RULES)
    adapter = await bench.open(mapped=TYPED | {"json_fields": []})
    with pytest.raises(InvalidValue, match="FOREIGN KEY"):
        await words.write(adapter, words.remove("g", "kept"))
    other.execute("CREATE TRIGGER unknown BEFORE INSERT ON orders BEGIN SELECT no_such_function(); END")
    with pytest.raises(BackendError, match="no_such_function") as caught:
        await words.write(adapter, words.put("g", "x", {"state": "unknown"}))
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
    assert other.execute("SELECT code FROM orders").fetchall() == [("kept",)]


async def test_a_batch_is_all_or_nothing(typed: SqliteAdapter, plain: Plain, words: Any) -> None:
    head = await typed.head(words.DOCS)
    with pytest.raises(InvalidValue):
        await typed.write(words.DOCS, [words.put("g", "a", {"title": "a"}), words.put("g", "b", {"title": 5})])
    assert plain().execute("SELECT count(*) FROM orders").fetchone() == (0,)
    assert await typed.head(words.DOCS) == head


async def test_a_trigger_of_the_users_that_changes_the_row_is_a_change_of_its_own(
    bench: Any, plain: Plain, words: Any
) -> None:
    other = plain()
    other.execute(ORDERS)
    adapter = await bench.open(mapped=MAPPED)
    # Made after ours: without care SQLite would run it first, and ours would log what is outdated.
    other.execute(
        "CREATE TRIGGER touch AFTER UPDATE OF title ON orders BEGIN"
        " UPDATE orders SET day = 'today' WHERE customer = NEW.customer AND code = NEW.code; END"
    )
    await words.write(adapter, words.put("g", "x", {"title": "a"}))
    watching = await bench.watch(adapter)
    result = await words.write(adapter, words.change("g", "x", {"type": "set", "path": "title", "value": "b"}))
    assert result.new_value == {"title": "b", "day": "today"}
    await watching.until(lambda w: len(w.changes) == 2)
    assert [change.data for change in watching.changes] == [{"title": "b"}, {"title": "b", "day": "today"}]
    assert watching.changes[-1].position == result.version
    await words.write(adapter, words.remove("g", "x", expect=result.version))


async def test_integer_ids_are_decimal_text_in_the_order_of_text(bench: Any, plain: Plain, words: Any) -> None:
    other = plain()
    other.execute("CREATE TABLE orders (customer INTEGER, id INTEGER PRIMARY KEY, title TEXT)")
    other.execute("INSERT INTO orders VALUES (10, 1, 'a'), (9, 2, 'b'), (10, 10, 'c'), (10, 9, 'd'), (10, -1, 'e')")
    adapter = await bench.open(
        mapped={"table": "orders", "group_field": "customer", "id_field": "id", "include_ids": False}
    )
    listed = await adapter.list(words.DOCS, "10", after=None, limit=None)
    assert [item.id for item in listed] == ["-1", "1", "10", "9"]
    assert [item.id for item in await adapter.list(words.DOCS, "10", after="1", limit=1)] == ["10"]
    assert await adapter.list_groups(words.DOCS, after=None, limit=None) == ["10", "9"]
    assert await adapter.list_groups(words.DOCS, after="10", limit=5) == ["9"]
    result = await words.write(adapter, words.put("11", "7", {"title": "f"}))
    assert (result.type, result.group, result.id) == ("create", "11", "7")
    assert other.execute("SELECT * FROM orders WHERE customer = 11").fetchall() == [(11, 7, "f")]
    changed = await words.write(adapter, words.put("11", "7", {"title": "g"}, expect=result.version))
    assert changed.version > result.version
    for bad in ("x", "01", "+1", "1.0", "-0", str(2**63), " 1"):
        with pytest.raises(InvalidName, match="INTEGER"):
            await adapter.get(words.DOCS, "10", bad)
        with pytest.raises(InvalidName, match="INTEGER"):
            await words.write(adapter, words.put(bad, "1", {}))
        with pytest.raises(InvalidName, match="INTEGER"):
            await adapter.list(words.DOCS, bad, after=None, limit=None)


async def test_a_storage_maps_one_stream_and_keeps_hidden_ones_beside_it(
    orders: SqliteAdapter, plain: Plain, words: Any
) -> None:
    hidden = StreamSpec("$state", hidden=True)
    await orders.prepare(words.DOCS)
    await orders.prepare(hidden)
    await words.write(orders, words.put("g", "x", {"any": None}), hidden)
    await words.write(orders, words.put("g", "x", {"title": "a"}))
    assert (await orders.get(hidden, "g", "x")).value == {"any": None}  # type: ignore[union-attr]
    assert plain().execute("SELECT title FROM orders").fetchall() == [("a",)]
    assert orders.capabilities(hidden).exact_values.level == "full"
    assert orders.capabilities(words.DOCS).exact_values.level == "limited"
    for call in (
        orders.prepare(StreamSpec("other")),
        orders.get(StreamSpec("other"), "g", "x"),
        words.write(orders, words.put("g", "x", {}), StreamSpec("other")),
    ):
        with pytest.raises(UnsupportedCapability, match="storage of its own"):
            await call


async def test_values_show_group_and_id_unless_told_otherwise(bench: Any, plain: Plain, words: Any) -> None:
    other = plain()
    other.execute("CREATE TABLE orders (customer TEXT, id INTEGER PRIMARY KEY, title TEXT, extra TEXT)")
    mapped = {"table": "orders", "group_field": "customer", "id_field": "id", "rest_field": "extra"}
    adapter = await bench.open(mapped=mapped)
    watching = await bench.watch(adapter)
    result = await words.write(adapter, words.put("g", "1", {"title": "a"}))
    assert result.new_value == {"customer": "g", "id": 1, "title": "a"}
    same = {"customer": "g", "id": 1, "title": "b", "more": 2}
    result = await words.write(adapter, words.put("g", "1", same))
    assert result.new_value == same
    assert result.old_value == {"customer": "g", "id": 1, "title": "a"}
    await words.write(adapter, words.change("g", "1", {"type": "remove", "path": "id"}))
    for bad in ({"customer": "h"}, {"id": 2}, {"id": "1"}, {"id": None}):
        with pytest.raises(InvalidValue, match="leave it out, or as it is") as caught:
            await words.write(adapter, words.put("g", "1", bad))
        assert caught.value.path == f"$.{next(iter(bad))}"
    assert (await adapter.get(words.DOCS, "g", "1")).value == same
    (item,) = await adapter.list(words.DOCS, "g", after=None, limit=None)
    assert item.value == same
    other.execute('UPDATE orders SET extra = \'{"id": 9, "more": 2}\'')
    await words.write(adapter, words.change("g", "1", {"type": "set", "path": "title", "value": "c"}))
    assert other.execute("SELECT * FROM orders").fetchall() == [("g", 1, "c", '{"id": 9, "more": 2}')]
    await words.write(adapter, words.remove("g", "1"))
    await watching.until(lambda w: len(w.changes) == 6)
    assert {(change.data["customer"], change.data["id"]) for change in watching.changes} == {("g", 1)}


async def test_one_is_not_true(typed: SqliteAdapter, words: Any) -> None:
    await words.write(typed, words.put("g", "x", {"views": 1, "done": True}))
    with pytest.raises(InvalidValue, match="not declared BOOLEAN"):
        await words.write(typed, words.put("g", "x", {"views": True, "done": True}))
    with pytest.raises(InvalidValue, match="declared BOOLEAN"):
        await words.write(typed, words.put("g", "x", {"views": 1, "done": 1}))


async def test_a_trigger_of_the_users_that_changes_what_is_set_refuses_it(bench: Any, plain: Plain, words: Any) -> None:
    other = plain()
    other.execute(ORDERS)
    other.execute(
        "CREATE TRIGGER meddle BEFORE UPDATE OF views ON orders BEGIN"
        " UPDATE orders SET title = 'theirs' WHERE customer = NEW.customer AND code = NEW.code; END"
    )
    adapter = await bench.open(mapped=MAPPED)
    await words.write(adapter, words.put("g", "x", {"title": "a", "views": 1}))
    head = await adapter.head(words.DOCS)
    with pytest.raises(InvalidValue, match="would hold") as caught:
        await words.write(adapter, words.put("g", "x", {"title": "a", "views": 2}))
    assert caught.value.path in ("$.title", "$.views")
    assert other.execute("SELECT title, views FROM orders").fetchall() == [("a", 1)]
    assert await adapter.head(words.DOCS) == head
