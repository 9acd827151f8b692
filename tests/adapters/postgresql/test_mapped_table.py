"""Mapping a table: what stands against it, what its columns hold, and how it ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from motia_adapters.postgresql.options import MappedOptions

from motia_core.errors import BackendError, ConfigError, InvalidName, InvalidValue
from motia_core.model import StreamSpec, Write
from motia_core.operations import parse
from motia_core.testing.harness import read_log
from motia_core.values import encode_object
from tests.adapters.postgresql.conftest import ORDERS, Database

SPEC = StreamSpec("orders")


def mapping(**changes: Any) -> MappedOptions:
    return MappedOptions(**{"table": "t", "group_field": "g", "id_field": "i", **changes})


async def write(adapter: Any, group: str, id: str, value: dict[str, Any]) -> Any:
    (result,) = await adapter.write(SPEC, [Write("set", group, id, encode_object(value))])
    return result


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("", {}, "does not exist"),
    ("CREATE TABLE t (g text, i text)", {}, r"nothing that keeps group and id unique.*ADD PRIMARY KEY \(g, i\)"),
    ("CREATE TABLE t (g text, i text, n int, PRIMARY KEY (g, i, n))", {}, "nothing that keeps group and id unique"),
    ("CREATE TABLE t (g text, i text, PRIMARY KEY (g, i) DEFERRABLE)", {}, "not DEFERRABLE"),
    ("CREATE TABLE t (g text, i text); CREATE UNIQUE INDEX ON t (g, i) WHERE g > 'a'", {}, "unique"),
    ("CREATE TABLE t (g text, i text PRIMARY KEY)", {"group_field": "h"}, 'no column "h".*its columns: g, i'),
    ("CREATE TABLE t (g timestamptz, i text PRIMARY KEY)", {}, "timestamp with time zone, and must be text"),
    ("CREATE TABLE t (g text, i float8 PRIMARY KEY)", {}, "double precision, and must be"),
    ("CREATE VIEW t AS SELECT 'a' AS g, 'b' AS i", {}, "no ordinary table"),
    ("CREATE TABLE t (g text, i text, PRIMARY KEY (g, i)) PARTITION BY LIST (g)", {}, "no ordinary table"),
    ("CREATE TABLE t (g text, i text GENERATED ALWAYS AS (g || 'x') STORED UNIQUE)", {}, "generated column"),
]


@pytest.mark.parametrize(("sql", "options", "said"), REFUSED, ids=range(len(REFUSED)))
async def test_what_cannot_be_mapped_is_refused_with_the_remedy(
    database: Database, sql: str, options: dict[str, Any], said: str
) -> None:
    if sql:
        await database.psql.run(sql)
    with pytest.raises(ConfigError, match=said):
        await database.adapter(mapped=mapping(**options)).migrate()
    assert await database.psql.value("SELECT count(*) FROM motia.mapping") == 0
    assert await database.psql.value("SELECT count(*) FROM pg_trigger WHERE tgname LIKE '!motia%'") == 0


async def test_a_table_that_nobody_mapped_says_how(database: Database) -> None:
    await database.psql.run("CREATE TABLE t (g text, i text, PRIMARY KEY (g, i))")
    with pytest.raises(ConfigError, match="not mapped: run: motia-core migrate apply"):
        await database.adapter(mapped=mapping()).open()


async def test_another_mapping_of_the_same_table_is_refused(orders: Database) -> None:
    other = MappedOptions(table="orders", group_field="code", id_field="customer")
    with pytest.raises(ConfigError, match="unmap_table"):
        await orders.adapter(mapped=other).open()
    with pytest.raises(ConfigError, match="already"):
        await orders.adapter(mapped=other).migrate()


@pytest.mark.parametrize("rest", ["n", "missing"])
async def test_a_rest_field_must_hold_json(orders: Database, rest: str) -> None:
    mapped = MappedOptions(table="orders", group_field="customer", id_field="code", rest_field=rest)
    with pytest.raises(ConfigError, match="as rest_field: a json or jsonb one"):
        await orders.adapter(mapped=mapped).open()


async def test_triggers_that_are_lost_are_noticed_and_history_begins_anew(orders: Database) -> None:
    async with orders.opened(mapped=ORDERS) as adapter:
        before = (await write(adapter, "g", "x", {"n": 1})).position
    await orders.psql.run('ALTER TABLE orders DISABLE TRIGGER "!motia_rows"; UPDATE orders SET n = 2')
    with pytest.raises(ConfigError, match=r"lost its triggers.*migrate apply"):
        await orders.adapter(mapped=ORDERS).open()
    assert await orders.adapter(mapped=ORDERS).migrate() == ["motia_map_public_orders"]
    assert await orders.adapter(mapped=ORDERS).migrate() == []
    async with orders.opened(mapped=ORDERS) as adapter:
        with pytest.raises(Exception, match="gone, or was never"):
            await read_log(adapter, SPEC, before)
        item = await adapter.get(SPEC, "g", "x")
        assert item is not None
        assert item.value["n"] == 2


async def test_a_mapping_that_ends_leaves_the_table_as_it_was(database: Database) -> None:
    await database.psql.run(
        "CREATE TABLE t (g text, i text, n int, PRIMARY KEY (g, i)); INSERT INTO t VALUES ('a','b')"
    )
    described = """
        SELECT string_agg(d::text, ',' ORDER BY d::text) FROM (
            SELECT 'c', attname::text, atttypid::text FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum > 0
            UNION ALL SELECT 't', tgname::text, '' FROM pg_trigger WHERE tgrelid = 't'::regclass
            UNION ALL SELECT 'i', indexrelid::regclass::text, '' FROM pg_index WHERE indrelid = 't'::regclass) AS d
    """
    before = await database.psql.value(described)
    async with database.psql.connection() as connection:
        await connection.fetchval("SELECT motia.map_table('public', 't', 'g', 'i')")
        await connection.execute("UPDATE t SET n = 2")
        assert await connection.fetchval("SELECT count(*) FROM motia.inbox") == 1
        assert await connection.fetchval("SELECT motia.unmap_table('public', 't')") == "true"
        assert await connection.fetchval("SELECT motia.unmap_table('public', 't')") == "false"
        await connection.execute("UPDATE t SET n = 3")
        for table in ("inbox", "log", "mapping", "stream", "row_version"):
            assert await connection.fetchval(f"SELECT count(*) FROM motia.{table}") == 0
        assert await connection.fetchval("SELECT count(*) FROM pg_class WHERE relname LIKE 'woken%'") == 0
    assert await database.psql.value(described) == before


TYPES = """
CREATE TABLE t (g bigint, i uuid, small smallint, big bigint, half real, whole double precision, exact numeric,
    money numeric(10,2), count numeric(12,0), flag boolean, words varchar(5), day date, moment timestamptz,
    span interval, bytes bytea, list int[], doc jsonb, raw json, made int GENERATED ALWAYS AS (small + 1) STORED,
    PRIMARY KEY (g, i))
"""
ID = "0b7ad0b0-3b52-4a1e-9d3c-6f0a1f1e2d3c"
ROW = {
    "small": -3,
    "big": 2**63 - 1,
    "half": 0.1,
    "whole": 1e300,
    "exact": "12345678901234567890.123456789",
    "money": "19.90",
    "count": 7,
    "flag": False,
    "words": "héé",
    "day": "2024-02-29",
    "moment": "2024-02-29T12:00:00.123456+00:00",
    "span": "P1DT2H",
    "bytes": "\\x00ff",
    "list": [1, 2],
    "doc": {"a": [None, 1.5]},
    "raw": [-0.0, 1e22],
}


async def test_values_go_in_and_come_out_whatever_the_columns_types(database: Database) -> None:
    await database.psql.run(TYPES)
    mapped = mapping(include_ids=False)
    await database.migrate(mapped)
    async with database.opened(mapped=mapped) as adapter:
        await adapter.prepare(SPEC)
        head = await adapter.head(SPEC)
        result = await write(adapter, "5", ID, ROW)
        expected = {**ROW, "made": -2}
        assert result.new_value == expected
        item = await adapter.get(SPEC, "5", ID)
        assert item is not None
        assert item.value == expected
        # Another program's session prints dates and bytes its own way: the change says the same.
        await database.psql.run(
            "SET timezone = 'Asia/Tokyo'; SET datestyle = 'German'; SET intervalstyle = 'sql_standard';"
            " SET bytea_output = 'escape'; SET extra_float_digits = 0; UPDATE t SET flag = true"
        )
        change = (await read_log(adapter, SPEC, head))[-1]
        assert change.data == {**expected, "flag": True}


UNFIT: list[tuple[dict[str, Any], str, str]] = [
    ({"small": 40_000}, "$.small", "whole numbers of its range"),
    ({"small": "1"}, "$.small", "whole numbers"),
    ({"flag": 1}, "$.flag", "true and false"),
    ({"words": "too long"}, "$.words", r"varchar\(5\)"),
    ({"words": None}, "$.words", "null"),
    ({"money": "1.999"}, "$.money", "would hold 2.00"),
    ({"money": 1.5}, "$.money", "values are text"),
    ({"day": "2024-02-30"}, "$", r"refuses it.*\[22008\]"),
    ({"moment": "2024-02-29 12:00+01"}, "$.moment", "would hold"),
    ({"list": ["x"]}, "$", r"refuses it.*\[22P02\]"),
    ({"made": 5}, "$.made", "generated"),
    ({"other": 1}, "$.other", "has no column for 'other', and the mapping no rest_field"),
    ({"g": 6}, "$.g", "has no column"),
]


@pytest.mark.parametrize(("value", "path", "said"), UNFIT, ids=range(len(UNFIT)))
async def test_what_a_column_cannot_hold_is_refused_with_its_path(
    database: Database, value: dict[str, Any], path: str, said: str
) -> None:
    await database.psql.run(TYPES)
    mapped = mapping(include_ids=False)
    await database.migrate(mapped)
    async with database.opened(mapped=mapped) as adapter:
        await adapter.prepare(SPEC)
        head = await adapter.head(SPEC)
        # A neighbour in the same call is not harmed.
        results = await asyncio.gather(
            write(adapter, "5", ID, {"small": 1}), write(adapter, "6", ID, value), return_exceptions=True
        )
        assert not isinstance(results[0], BaseException)
        assert isinstance(results[1], InvalidValue)
        with pytest.raises(InvalidValue, match=said) as caught:
            raise results[1]
        assert caught.value.path == path
        assert len(await read_log(adapter, SPEC, head)) == 1


@pytest.mark.parametrize(("group", "id"), [("x", ID), ("007", ID), (str(2**63), ID), ("5", "x"), ("5", ID.upper())])
async def test_ids_that_the_columns_cannot_hold_are_refused(database: Database, group: str, id: str) -> None:
    await database.psql.run(TYPES)
    mapped = mapping(include_ids=False)
    await database.migrate(mapped)
    async with database.opened(mapped=mapped) as adapter:
        for attempt in (adapter.get(SPEC, group, id), write(adapter, group, id, {})):
            with pytest.raises(InvalidName, match="column"):
                await attempt


async def test_an_update_leaves_untouched_columns_alone(database: Database) -> None:
    """Their values would not survive the way to JSON and back: they never go it."""
    await database.psql.run(
        "CREATE TABLE t (g text, i text, n int, day date, weird point, made timestamptz DEFAULT now() NOT NULL,"
        " PRIMARY KEY (g, i)); INSERT INTO t VALUES ('a', 'b', 1, 'infinity', '(1,2)')"
    )
    mapped = mapping()
    await database.migrate(mapped)
    async with database.opened(mapped=mapped) as adapter:
        row = "SELECT (day, weird, made)::text FROM t"
        before = await database.psql.value(row)
        ops = parse([{"type": "increment", "path": "n", "by": 1}])
        update = Write("update", "a", "b", operations=ops, finish=encode_object)
        (result,) = await adapter.write(SPEC, [update])
        assert result is not None
        assert (result.new_value["n"], result.new_value["g"]) == (2, "a")
        assert await database.psql.value(row) == before
        made = await write(adapter, "a", "new", {"n": 1})  # a default fills what nobody gave
        assert set(made.new_value) == {"g", "i", "n", "made"}


async def test_the_tables_own_rules_are_kept_and_told(database: Database) -> None:
    await database.psql.run(
        "CREATE TABLE t (g text, i text, n int NOT NULL CHECK (n > 0), u int UNIQUE DEFERRABLE INITIALLY DEFERRED,"
        " PRIMARY KEY (g, i)); CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN IF NEW.n = 13 THEN RETURN NULL; END IF; RETURN NEW; END';"
        " CREATE TRIGGER no BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION no()"
    )
    mapped = mapping()
    await database.migrate(mapped)
    async with database.opened(mapped=mapped) as adapter:
        await write(adapter, "a", "b", {"n": 1, "u": 1})
        for value, said in (
            ({"n": 0}, "check constraint"),
            ({}, "not-null"),
            ({"n": 13}, "ignored it"),
            ({"n": 2, "u": 1}, "duplicate key"),
        ):
            with pytest.raises(InvalidValue, match=said):
                await write(adapter, "a", "c", value)
        assert await adapter.get(SPEC, "a", "c") is None


@pytest.mark.parametrize("where", ["public", "elsewhere"])
async def test_what_the_tables_triggers_and_defaults_call_by_bare_names_is_found(
    database: Database, where: str
) -> None:
    name = database.url.rsplit("/", 1)[1]
    if where != "public":
        await database.psql.run(f"CREATE SCHEMA elsewhere; ALTER DATABASE {name} SET search_path = public, elsewhere")
    await database.psql.run(
        f"CREATE TABLE {where}.audit (n int);"
        f" CREATE FUNCTION {where}.next() RETURNS int LANGUAGE sql AS 'SELECT count(*)::int FROM audit';"
        f" CREATE TABLE t (g text, i text, n int NOT NULL DEFAULT {where}.next(), PRIMARY KEY (g, i));"
        " CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN INSERT INTO audit VALUES (next()); RETURN NULL; END';"
        " CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION note();"
        " CREATE CONSTRAINT TRIGGER late AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION note()"
    )
    mapped = mapping()
    await database.migrate(mapped)
    async with database.opened(mapped=mapped) as adapter:
        first = await write(adapter, "a", "b", {})
        assert first.new_value == {"n": 0, "g": "a", "i": "b"}
        await write(adapter, "a", "b", {"n": 7})
        await adapter.write(SPEC, [Write("delete", "a", "b")])
    assert await database.psql.value(f"SELECT array_agg(n ORDER BY n) FROM {where}.audit") == [0, 1, 2, 3]


async def test_a_table_that_is_dropped_is_told(orders: Database) -> None:
    async with orders.opened(mapped=ORDERS) as adapter:
        position = (await write(adapter, "g", "x", {"n": 1})).position
        await orders.psql.run("DROP TABLE orders")
        with pytest.raises(Exception, match="gone"):
            await read_log(adapter, SPEC, position, until=position)
        with pytest.raises(BackendError):
            await write(adapter, "g", "x", {"n": 2})
