"""Which tables can be mapped, what happens when they change their shape, and how a mapping is removed (B8)."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import motia_adapters.sqlite
import pytest
from motia_adapters.sqlite.mapped.capture import remove_mapping
from motia_adapters.sqlite.options import SqliteOptions, options_from_url
from motia_adapters.sqlite.plugin import PLUGIN
from pydantic import ValidationError

from motia_core.app import Motia
from motia_core.definitions import StreamConfig
from motia_core.errors import BackendError, ConfigError, InvalidValue, PositionExpired
from motia_core.model import StreamSpec

ORDERS = "CREATE TABLE orders (customer TEXT, id TEXT, n INTEGER, PRIMARY KEY (customer, id))"
MAPPED = {"table": "orders", "group_field": "customer", "id_field": "id", "include_ids": False}

Plain = Callable[[], sqlite3.Connection]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"table": ""}, "at least 1 character"),
        ({"group_field": "id"}, "id_field names column 'id', which is group_field already"),
        ({"rest_field": "customer"}, "rest_field names column 'customer', which is group_field already"),
        ({"json_fields": ["a", "a"]}, "json_fields names column 'a', which is json_fields already"),
        ({"collection": "x"}, "Extra inputs are not permitted"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        SqliteOptions.model_validate({"mapped": {**MAPPED, **options}})


def test_a_url_can_say_it_too() -> None:
    url = "sqlite:///shop.db?mapped.table=orders&mapped.group_field=a&mapped.id_field=b&mapped.json_fields=c,d"
    options = SqliteOptions.model_validate(options_from_url(url))
    assert options.mapped is not None
    assert (options.mapped.table, options.mapped.json_fields) == ("orders", ("c", "d"))
    with pytest.raises(ValueError, match="given twice"):
        options_from_url("sqlite:///shop.db?mapped=1&mapped.table=orders")
    assert set(PLUGIN.modes) == {"managed", "mapped"}


MISTAKES: list[tuple[str, dict[str, Any], str]] = [
    ("CREATE TABLE other (x)", {}, r"'orders' does not exist; tables: 'other'"),
    ("CREATE VIEW orders AS SELECT 1 AS customer, 2 AS id", {}, "is a view, not a table"),
    ("CREATE TABLE t (x); CREATE INDEX orders ON t (x)", {}, "is an index, not a table"),
    ("CREATE VIRTUAL TABLE orders USING fts5 (customer, id)", {}, "virtual table, which has no triggers"),
    (ORDERS, {"group_field": "owner"}, r"no column 'owner' \(group_field\); its columns: 'customer', 'id', 'n'"),
    (ORDERS, {"rest_field": "extra"}, r"no column 'extra' \(rest_field\)"),
    (ORDERS, {"rest_field": "n"}, "'n' in rest_field: it is INTEGER, and must be TEXT"),
    (ORDERS, {"json_fields": ["n"]}, "'n' in json_fields: it is INTEGER, and must be TEXT"),
    ("CREATE TABLE orders (customer TEXT, id TEXT)", {}, 'CREATE UNIQUE INDEX .* ON "orders" \\("customer", "id"\\)'),
    ("CREATE TABLE orders (customer TEXT, id TEXT, UNIQUE (customer))", {}, "nothing that keeps group and id unique"),
    (
        "CREATE TABLE orders (customer TEXT, id TEXT COLLATE NOCASE, UNIQUE (customer, id))",
        {},
        "nothing that keeps group and id unique",
    ),
    (
        "CREATE TABLE orders (customer TEXT, id TEXT); CREATE UNIQUE INDEX i ON orders (customer, id) WHERE id > 'a'",
        {},
        "nothing that keeps group and id unique",
    ),
    ("CREATE TABLE orders (customer UUID, id TEXT UNIQUE)", {}, "must be TEXT or INTEGER, and is UUID"),
    ("CREATE TABLE orders (customer TEXT, id UNIQUE)", {}, "must be TEXT or INTEGER, and is no type"),
    (
        "CREATE TABLE orders (customer TEXT, a TEXT, id TEXT AS (a) UNIQUE)",
        {},
        "'id' as id_field: it is a generated column",
    ),
    ("PRAGMA encoding = 'UTF-16'; " + ORDERS, {}, "encoding UTF-16le; only UTF-8"),
    ("CREATE TABLE sqlite_x (y)", {"table": "sqlite_master"}, "is no table of yours"),
    (ORDERS, {"table": "motia_log"}, "is no table of yours"),
]


@pytest.mark.parametrize(("sql", "options", "problem"), MISTAKES, ids=range(len(MISTAKES)))
async def test_what_cannot_be_mapped_is_refused_and_the_file_left_alone(
    bench: Any, plain: Plain, sql: str, options: dict[str, Any], problem: str
) -> None:
    other = plain()
    if "sqlite_x" not in sql:
        other.executescript(sql)
    schema = other.execute("SELECT * FROM sqlite_master").fetchall()
    adapter = bench.make(mapped=MAPPED | options)
    with pytest.raises(ConfigError, match=problem):
        await adapter.open()
    assert other.execute("SELECT * FROM sqlite_master").fetchall() == schema


async def test_a_file_that_is_not_there_is_not_made(bench: Any) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        await bench.make(mapped=MAPPED).open()
    assert not bench.path.exists()


async def test_a_table_is_mapped_in_one_way_at_a_time(bench: Any, plain: Plain) -> None:
    other = plain()
    other.execute(ORDERS)
    await bench.open(mapped=MAPPED)
    await bench.open(mapped=MAPPED)
    other.execute("CREATE UNIQUE INDEX i ON orders (n, id)")
    with pytest.raises(ConfigError, match="mapped with group_field 'customer' and id_field 'id' already"):
        await bench.make(mapped=MAPPED | {"group_field": "n"}).open()


async def test_through_the_front_door(plain: Plain, tmp_path: Path) -> None:
    other = plain()
    other.execute(ORDERS)
    storage: dict[str, Any] = {
        "default": f"sqlite:///{tmp_path}/managed.db",
        "orders": {"adapter": "sqlite", "path": str(tmp_path / "streams.db"), "mapped": MAPPED},
    }
    streams = [StreamConfig("orders", base_config={"storageType": "orders"})]
    async with Motia(streams=streams, storage=storage) as motia:
        orders = motia.streams["orders"]
        other.execute("INSERT INTO orders VALUES ('g', 'x', 1)")
        assert await orders.list("g") == [{"n": 1}]
        await orders.update("g", "x", [{"type": "increment", "path": "n", "by": 1}])
        with pytest.raises(InvalidValue, match="'m'"):
            await orders.set("g", "x", {"m": 1})
    assert other.execute("SELECT * FROM orders").fetchall() == [("g", "x", 2)]


KINDS = [
    "CREATE TABLE orders (customer TEXT, id TEXT UNIQUE, n INTEGER)",
    "CREATE TABLE orders (n INTEGER, id VARCHAR(9), customer NVARCHAR(20), UNIQUE (id, customer))",
    "CREATE TABLE orders (customer TEXT, id TEXT, n INTEGER, PRIMARY KEY (customer, id)) WITHOUT ROWID",
    "CREATE TABLE orders (customer TEXT, id TEXT, n INTEGER, PRIMARY KEY (customer, id)) STRICT",
    "CREATE TABLE orders (pk INTEGER PRIMARY KEY, customer TEXT, id TEXT, n INTEGER, UNIQUE (customer, id))",
    "CREATE TABLE orders (customer TEXT, id TEXT, n INTEGER, m INTEGER AS (n + 1), UNIQUE (customer, id))",
    "CREATE TABLE orders (customer TEXT, id TEXT PRIMARY KEY COLLATE NOCASE, n INTEGER);"
    "CREATE UNIQUE INDEX i ON orders (id COLLATE BINARY)",
]


@pytest.mark.parametrize("sql", KINDS, ids=range(len(KINDS)))
async def test_kinds_of_tables(bench: Any, plain: Plain, words: Any, sql: str) -> None:
    if "STRICT" in sql and sqlite3.sqlite_version_info < (3, 37):
        pytest.skip("this SQLite has no STRICT tables")
    other = plain()
    other.executescript(sql)
    other.execute("INSERT INTO orders (customer, id, n) VALUES ('g', 'y', 2)")
    adapter = await bench.open(mapped=MAPPED)
    watching = await bench.watch(adapter)
    await words.write(adapter, words.put("g", "x", {"n": 1}))
    await words.write(adapter, words.put("g", "x", {}))
    other.execute("UPDATE orders SET n = 3 WHERE id = 'x'")
    other.execute("REPLACE INTO orders (customer, id, n) VALUES ('g', 'y', 4)")
    await words.write(adapter, words.remove("g", "x"))
    await watching.until(lambda w: len(w.changes) == 5)
    assert [(change.type, change.id, change.data) for change in watching.changes] == [
        ("create", "x", {"n": 1}),
        ("update", "x", {}),
        ("update", "x", {"n": 3}),
        ("update", "y", {"n": 4}),
        ("delete", "x", {"n": 3}),
    ]
    assert [item.value for item in await adapter.list(words.DOCS, "g", after=None, limit=None)] == [{"n": 4}]


async def test_names_that_need_quotes(bench: Any, plain: Plain, words: Any) -> None:
    other = plain()
    other.execute(
        'CREATE TABLE "the ""orders" ("a b" TEXT, "select" TEXT, "c.d" TEXT, "é" TEXT, UNIQUE ("a b", "select"))'
    )
    options = {
        "table": 'the "orders',
        "group_field": "a b",
        "id_field": "select",
        "rest_field": "é",
        "include_ids": False,
    }
    adapter = await bench.open(mapped=options | {"include_ids": False})
    await words.write(adapter, words.put("g", "x", {"c.d": "1", "select": 2}))
    assert (await adapter.get(words.DOCS, "g", "x")).value == {"c.d": "1", "select": 2}
    other.execute('UPDATE "the ""orders" SET "c.d" = \'3\'')
    assert (await adapter.get(words.DOCS, "g", "x")).value == {"c.d": "3", "select": 2}


async def test_what_is_slow_or_goes_unnoticed_is_said(bench: Any, plain: Plain) -> None:
    other = plain()
    other.execute("CREATE TABLE orders (customer TEXT, id TEXT UNIQUE, n INTEGER)")
    other.execute("CREATE UNIQUE INDEX lower ON orders (lower(customer))")
    adapter = await bench.open(mapped=MAPPED)
    warnings = [finding for finding in await adapter.diagnose() if finding.level == "warning"]
    assert [warning.remedy for warning in warnings] == [
        'CREATE INDEX "orders_groups" ON "orders" ("customer", "id")',
        "use DELETE and INSERT, or INSERT ... ON CONFLICT DO UPDATE",
    ]
    other.execute(warnings[0].remedy)
    other.execute("DROP INDEX lower")
    assert [finding for finding in await adapter.diagnose() if finding.level == "warning"] == []


CHANGES_OF_SHAPE = [
    "ALTER TABLE orders ADD COLUMN m TEXT",
    "ALTER TABLE orders RENAME COLUMN n TO m",
    "CREATE UNIQUE INDEX i ON orders (n)",
    "DROP TRIGGER motia_1_updated",
    "CREATE TABLE new (customer TEXT, id TEXT, m INTEGER, PRIMARY KEY (customer, id));"
    "INSERT INTO new SELECT customer, id, n FROM orders; DROP TABLE orders; ALTER TABLE new RENAME TO orders",
]


@pytest.mark.parametrize("sql", CHANGES_OF_SHAPE, ids=range(len(CHANGES_OF_SHAPE)))
async def test_a_change_of_shape_begins_history_anew(bench: Any, plain: Plain, words: Any, sql: str) -> None:
    other = plain()
    other.execute(ORDERS)
    adapter = await bench.open(mapped=MAPPED)
    first = await words.write(adapter, words.put("g", "x", {"n": 1}))
    watching = await bench.watch(adapter)
    other.executescript(f"BEGIN; {sql}; UPDATE orders SET id = 'z'; COMMIT")
    error = await watching.failed()
    assert isinstance(error, PositionExpired)
    key = "m" if "new" in sql or "RENAME" in sql else "n"
    (item,) = (await adapter.snapshot(words.DOCS, "g", None, limit=None)).items
    assert (item.id, item.value) == ("z", {key: 1})
    assert item.version > first.version
    assert other.execute("SELECT count(*) FROM motia_log").fetchone() == (0,)
    again = await bench.watch(adapter)
    other.execute(f"UPDATE orders SET {key} = 2")
    await words.write(adapter, words.put("g", "y", {key: 3}))
    await again.until(lambda w: len(w.changes) == 2)
    assert [(change.type, change.id, change.data) for change in again.changes] == [
        ("update", "z", {key: 2}),
        ("create", "y", {key: 3}),
    ]


async def test_other_changes_of_the_schema_expire_nothing(bench: Any, plain: Plain, words: Any) -> None:
    other = plain()
    other.execute(ORDERS)
    adapters = [await bench.open(mapped=MAPPED), await bench.open(mapped=MAPPED)]
    head = await adapters[0].head(words.DOCS)
    watching = await bench.watch(adapters[1])
    await words.write(adapters[0], words.put("g", "x", {"n": 1}))
    for sql in ("CREATE TABLE more (x)", "CREATE INDEX i ON orders (n)", "DROP TABLE more", "VACUUM"):
        other.execute(sql)
        for adapter in adapters:
            await words.write(adapter, words.put("g", "x", {"n": 1}))
    await bench.watch(adapters[0], head)
    await watching.until(lambda w: len(w.changes) == 9)


async def test_a_table_that_is_gone_is_an_error_until_it_is_back(bench: Any, plain: Plain, words: Any) -> None:
    other = plain()
    other.execute(ORDERS)
    adapter = await bench.open(mapped=MAPPED)
    hidden = StreamSpec("$state", hidden=True)
    await words.write(adapter, words.put("g", "x", {"n": 1}))
    watching = await bench.watch(adapter)
    other.execute("ALTER TABLE orders RENAME TO elsewhere")
    for call in (
        adapter.get(words.DOCS, "g", "x"),
        words.write(adapter, words.put("g", "x", {})),
        adapter.head(words.DOCS),
        words.write(adapter, words.put("g", "x", {}), hidden),
    ):
        with pytest.raises(BackendError, match="'orders' does not exist; tables: 'elsewhere'"):
            await call
    assert isinstance(await watching.failed(), BackendError)
    other.execute("ALTER TABLE elsewhere RENAME TO orders")
    await words.write(adapter, words.put("g", "y", {"n": 2}))
    assert len(await adapter.list(words.DOCS, "g", after=None, limit=None)) == 2


async def test_what_is_written_while_nobody_has_the_file_open_is_told(bench: Any, plain: Plain, words: Any) -> None:
    other = plain()
    other.execute(ORDERS)
    adapter = await bench.open(mapped=MAPPED)
    first = await words.write(adapter, words.put("g", "x", {"n": 1}))
    await adapter.close()
    other.execute("UPDATE orders SET n = 2")
    other.execute("REPLACE INTO orders VALUES ('g', 'y', 3)")
    again = await bench.open(mapped=MAPPED)
    watching = await bench.watch(again, first.position)
    await watching.until(lambda w: len(w.changes) == 2)
    assert [(change.type, change.data) for change in watching.changes] == [("update", {"n": 2}), ("create", {"n": 3})]


async def test_a_copy_that_is_restored_is_noticed(bench: Any, plain: Plain, words: Any, tmp_path: Path) -> None:
    other = plain()
    other.execute(ORDERS)
    adapter = await bench.open(mapped=MAPPED)
    await words.write(adapter, words.put("g", "x", {"n": 1}))
    await adapter.close()
    other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    other.close()
    copy = bench.path.read_bytes()
    adapter = await bench.open(mapped=MAPPED)
    lost = await words.write(adapter, words.put("g", "x", {"n": 2}))
    await adapter.close()
    bench.path.write_bytes(copy)
    adapter = await bench.open(mapped=MAPPED)
    plain().execute("UPDATE orders SET n = 3")
    assert isinstance(await bench.refused(adapter, lost.position).failed(), PositionExpired)


async def test_removal_leaves_the_table_as_it_was(bench: Any, plain: Plain, words: Any) -> None:
    other = plain()
    other.executescript(f"{ORDERS}; CREATE TRIGGER mine AFTER INSERT ON orders BEGIN SELECT 1; END")
    before = other.execute("SELECT * FROM sqlite_master").fetchall()
    assert remove_mapping(bench.path, "orders") is False
    adapter = await bench.open(mapped=MAPPED)
    hidden = StreamSpec("$state", hidden=True)
    await words.write(adapter, words.put("g", "x", {"n": 1}))
    await words.write(adapter, words.put("g", "x", {"kept": True}), hidden)
    await adapter.close()
    assert remove_mapping(bench.path, "other") is False
    assert remove_mapping(bench.path, "orders") is True
    assert remove_mapping(bench.path, "orders") is False
    left = other.execute("SELECT * FROM sqlite_master WHERE tbl_name NOT LIKE 'motia%'").fetchall()
    assert left == before
    assert {name for (name,) in other.execute("SELECT name FROM sqlite_master WHERE name LIKE 'motia%'")} == {
        *("motia_clock", "motia_epochs", "motia_streams", "motia_items", "motia_items_expires", "motia_log"),
        *("motia_log_stream", "motia_maps"),
    }
    other.execute("UPDATE orders SET n = 2")
    assert other.execute("SELECT * FROM orders").fetchall() == [("g", "x", 2)]
    again = await bench.open(mapped=MAPPED)
    assert (await again.get(hidden, "g", "x")).value == {"kept": True}
    (item,) = await again.list(words.DOCS, "g", after=None, limit=None)
    assert item.value == {"n": 2}


async def test_the_readmes_sql_removes_a_mapping_too(bench: Any, plain: Plain, words: Any) -> None:
    other = plain()
    other.execute(ORDERS)
    before = other.execute("SELECT * FROM sqlite_master").fetchall()
    adapter = await bench.open(mapped=MAPPED)
    await words.write(adapter, words.put("g", "x", {"n": 1}))
    await adapter.close()
    readme = (Path(motia_adapters.sqlite.__path__[0]) / "README.md").read_text(encoding="utf-8")
    first, second = re.findall(r"```sql\n(BEGIN.*?)```", readme, re.DOTALL)
    other.executescript(first)
    other.execute("UPDATE orders SET n = 2")
    other.executescript(second)
    assert other.execute("SELECT * FROM sqlite_master").fetchall() == before


async def test_closing_while_the_table_is_gone(bench: Any, plain: Plain, words: Any) -> None:
    other = plain()
    other.execute(ORDERS)
    adapter = await bench.open(mapped=MAPPED)
    other.execute("DROP TABLE orders")
    with pytest.raises(BackendError):
        await adapter.get(words.DOCS, "g", "x")
    async with asyncio.timeout(words.DEADLINE):
        await adapter.close()
    assert words.adapter_threads() == []
