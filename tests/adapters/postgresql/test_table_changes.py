"""What people do to a mapped table while it is mapped: nothing passes unseen, and their own statements never fail."""

from __future__ import annotations

import asyncio
import subprocess
from typing import Any

import pytest
from motia_adapters.postgresql.options import MappedOptions

from motia_core.errors import BackendError, BackendUnavailable, ConfigError, InvalidValue, PositionExpired
from motia_core.model import StreamSpec, Write
from motia_core.operations import parse
from motia_core.testing.harness import Reader, eventually, read_log
from motia_core.values import encode_object
from tests.adapters.postgresql.conftest import ORDERS, Database, told

SPEC = StreamSpec("orders")
T = MappedOptions(table="t", group_field="g", id_field="i")


async def write(adapter: Any, group: str, id: str, value: dict[str, Any]) -> Any:
    (result,) = await adapter.write(SPEC, [Write("set", group, id, encode_object(value))])
    return result


UNDER_US = [
    "ALTER TABLE orders RENAME customer TO client",
    "ALTER TABLE orders ALTER code TYPE varchar(9), ALTER customer TYPE bigint USING 1",
    "CREATE TABLE b (LIKE orders INCLUDING ALL); ALTER TABLE orders RENAME TO a; ALTER TABLE b RENAME TO orders",
    "ALTER TABLE orders RENAME TO elsewhere",
    'ALTER TABLE orders DISABLE TRIGGER "!motia_rows"',
    "ALTER TABLE orders DISABLE TRIGGER ALL; ALTER TABLE orders ENABLE TRIGGER ALL",
    "DROP TABLE orders",
]


@pytest.mark.parametrize("sql", UNDER_US, ids=range(len(UNDER_US)))
async def test_a_table_that_is_changed_under_us_ends_watches_and_reads(orders: Database, sql: str) -> None:
    async with orders.opened(mapped=ORDERS) as adapter:
        await adapter.prepare(SPEC)
        head = await adapter.head(SPEC)
        reader = Reader(adapter.watch(SPEC, head))
        await reader.count(1)
        await orders.psql.run(sql)
        with pytest.raises(PositionExpired, match="is gone"):
            await reader.until(lambda _: False)
        with pytest.raises(BackendUnavailable, match=r"is not mapped any more.*motia-core migrate apply"):
            await adapter.snapshot(SPEC, "g", None, limit=None)
        if "TRIGGER" not in sql:
            with pytest.raises(BackendError, match="motia-core migrate apply"):
                await write(adapter, "1", "x", {"n": 1})
        errors = [finding.message for finding in await adapter.diagnose() if finding.level == "error"]
        assert any("table 'orders'" in message for message in errors), errors
    with pytest.raises(ConfigError, match=r"lost its triggers|not mapped"):
        await orders.adapter(mapped=ORDERS).open()


async def test_columns_that_come_and_go_are_noticed_by_the_next_write(orders: Database) -> None:
    async with orders.opened(mapped=ORDERS) as adapter:
        await adapter.prepare(SPEC)
        await write(adapter, "g", "x", {"n": 1, "title": "t"})
        await orders.psql.run("ALTER TABLE orders DROP title, ADD size int NOT NULL DEFAULT 4")
        assert (await write(adapter, "g", "x", {"n": 2})).new_value == {"n": 2, "size": 4, "customer": "g", "code": "x"}
        assert (await write(adapter, "g", "y", {"title": "q"})).new_value["title"] == "q"  # in the rest column
        assert await orders.psql.value("SELECT extra ->> 'title' FROM orders WHERE code = 'y'") == "q"


async def test_a_column_that_is_gone_is_no_place_for_a_value(database: Database) -> None:
    await database.psql.run("CREATE TABLE t (g text, i text, n int, title text, PRIMARY KEY (g, i))")
    await database.migrate(T)
    async with database.opened(mapped=T) as adapter:
        await database.psql.run("ALTER TABLE t DROP title")
        with pytest.raises(InvalidValue, match="has no column for 'title'"):
            await write(adapter, "a", "b", {"title": "t"})
        await write(adapter, "a", "b", {"n": 1})


async def test_json_with_u0000_stops_nobody(database: Database) -> None:
    """The json type takes it, and nothing can be read past it: not by a trigger, either."""
    await database.psql.run("CREATE TABLE t (j json, g text, i text, n int, PRIMARY KEY (g, i))")
    await database.migrate(T)
    async with database.opened(mapped=T) as adapter:
        await adapter.prepare(SPEC)
        head = await adapter.head(SPEC)
        await database.psql.run("""INSERT INTO t VALUES ('{"x": "a\\u0000b\\\\u0000"}', 'a', E'b\\\\u0000', 1)""")
        await database.psql.run("UPDATE t SET n = 2")
        ops = parse([{"type": "increment", "path": "n", "by": 1}])
        update = Write("update", "a", "b\\u0000", operations=ops, finish=encode_object)
        (result,) = await adapter.write(SPEC, [update])
        assert result is not None
        assert "\\u0000" in result.new_value["j"]  # no item's value has NUL: it is shown as text
        assert await database.psql.value("SELECT j::text FROM t") == '{"x": "a\\u0000b\\\\u0000"}'
        await database.psql.run("TRUNCATE t")
        log = told(await read_log(adapter, SPEC, head))
        assert log == [(kind, "a", "b\\u0000", n) for kind, n in
                       (("create", 1), ("update", 2), ("update", 3), ("delete", 3))]  # fmt: skip


async def test_a_dump_that_is_restored_elsewhere_takes_writes_and_wants_a_migration(orders: Database) -> None:
    async with orders.opened(mapped=ORDERS) as adapter:
        await adapter.prepare(SPEC)
        position = (await write(adapter, "g", "x", {"n": 1})).position
    dump = await asyncio.to_thread(subprocess.check_output, ["pg_dump", orders.url], text=True)
    name = orders.url.rsplit("/", 1)[1]
    await orders.psql.run(f"CREATE DATABASE {name}_copy")
    copy = Database(f"{orders.url}_copy")
    try:
        copy.program(dump)
        await copy.psql.run("INSERT INTO orders (customer, code, n) VALUES ('g', 'y', 2)")
        with pytest.raises(ConfigError, match=r"restored.*migrate apply"):
            await copy.adapter(mapped=ORDERS).open()
        assert await copy.migrate(ORDERS) == ["motia_map_public_orders"]
        async with copy.opened(mapped=ORDERS) as adapter:
            with pytest.raises(PositionExpired):
                await read_log(adapter, SPEC, position)
            assert [item.id for item in await adapter.list(SPEC, "g", after=None, limit=None)] == ["x", "y"]
    finally:
        await orders.psql.run(f"DROP DATABASE {name}_copy WITH (FORCE)")


@pytest.mark.parametrize("only_reading", [True, False])
async def test_more_than_one_call_can_place_comes_in_several(orders: Database, only_reading: bool) -> None:
    """As after a large COPY, but smaller: a snapshot is exact, and our own write comes last of its item."""
    await orders.psql.run(
        "CREATE OR REPLACE FUNCTION motia.portion() RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT 7'"
    )
    async with orders.opened(mapped=ORDERS) as adapter:
        await adapter.prepare(SPEC)
        head = await adapter.head(SPEC)
        await orders.psql.run(
            "INSERT INTO orders (customer, code, n) SELECT 'g', x::text, x FROM generate_series(1, 100) AS x"
        )
        if not only_reading:
            assert (await write(adapter, "g", "100", {"n": -1})).type == "update"
        snapshot = await adapter.snapshot(SPEC, "g", None, limit=None)
        assert len(snapshot.items) == 100
        log = await read_log(adapter, SPEC, head)
        assert len(log) == 100 + (not only_reading)
        assert {change.id for change in log} == {item.id for item in snapshot.items}
        ours = [change.data["n"] for change in log if change.id == "100" and change.data is not None]
        assert ours == [100] + [-1] * (not only_reading)
        assert snapshot.position == log[-1].position


async def test_what_nobody_reads_is_given_its_place_all_the_same(orders: Database) -> None:
    """An application that only writes: other programs' changes do not pile up."""
    async with orders.opened(mapped=ORDERS) as adapter:
        await adapter.prepare(SPEC)
        adapter.opened(SPEC)
        await orders.psql.run("INSERT INTO orders (customer, code, n) VALUES ('g', 'x', 1)")

        async def empty() -> bool:
            return bool(await orders.psql.value("SELECT count(*) = 0 FROM motia.inbox"))

        await eventually(empty, "upkeep to give it a place")


async def test_a_table_that_hides_rows_from_our_functions_is_refused(database: Database) -> None:
    """Its owner is subject to its own policies: a snapshot would lack rows, and nobody would know."""
    role = database.url.rsplit("/", 1)[1] + "_owner"
    await database.psql.run(
        f"CREATE ROLE {role}; CREATE TABLE t (g text, i text, n int, PRIMARY KEY (g, i));"
        f" ALTER TABLE t OWNER TO {role}; ALTER TABLE t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
        f" GRANT ALL ON SCHEMA public TO {role};"
        " INSERT INTO t VALUES ('a', 'b', 1)"
    )
    # All our objects belong to the table's owner, who is no superuser.
    await database.psql.run(
        f"DO $$ DECLARE f regprocedure; BEGIN FOR f IN SELECT oid::regprocedure FROM pg_proc"
        f" WHERE pronamespace = 'motia'::regnamespace LOOP EXECUTE format('ALTER FUNCTION %s OWNER TO {role}', f);"
        f" END LOOP; END $$; GRANT ALL ON SCHEMA motia TO {role}; GRANT ALL ON ALL TABLES IN SCHEMA motia TO {role};"
        f" GRANT ALL ON ALL SEQUENCES IN SCHEMA motia TO {role}"
    )
    try:
        with pytest.raises(ConfigError, match=r"hides rows from .*NO FORCE ROW LEVEL SECURITY.*BYPASSRLS"):
            await database.adapter(mapped=T).migrate()
        await database.psql.run(
            f"ALTER TABLE t DISABLE ROW LEVEL SECURITY, OWNER TO postgres; REVOKE ALL ON t FROM {role}"
        )
        with pytest.raises(ConfigError, match=f"is closed to {role}.*GRANT SELECT"):
            await database.adapter(mapped=T).migrate()
    finally:
        await database.psql.run(f"REASSIGN OWNED BY {role} TO postgres; DROP OWNED BY {role}; DROP ROLE {role}")


async def test_types_of_the_users_own_go_both_ways(database: Database) -> None:
    await database.psql.run(
        """
        CREATE DOMAIN positive AS int CHECK (VALUE > 0);
        CREATE DOMAIN small AS positive CHECK (VALUE < 100);
        CREATE DOMAIN document AS jsonb;
        CREATE DOMAIN amount AS numeric(10, 0);
        CREATE TYPE pair AS (x int, y text);
        CREATE TYPE mood AS ENUM ('glad', 'sad');
        CREATE TABLE t (g text, i text, s small, d document, a amount, p pair, ps pair[], m mood, ms mood[], ip inet,
            r int4range, c char(4), grid int[][], PRIMARY KEY (g, i))
        """
    )
    mapped = MappedOptions(table="t", group_field="g", id_field="i", include_ids=False)
    await database.migrate(mapped)
    value = {
        "s": 7,
        "d": {"a": [1]},
        "a": 12,
        "p": {"x": 1, "y": "q"},
        "ps": [{"x": 2, "y": None}],
        "m": "glad",
        "ms": ["sad"],
        "ip": "10.0.0.1",
        "r": "[1,3)",
        "c": "ab  ",
        "grid": [[1, 2], [3, 4]],
    }
    async with database.opened(mapped=mapped) as adapter:
        await adapter.prepare(SPEC)
        assert (await write(adapter, "a", "b", value)).new_value == value
        item = await adapter.get(SPEC, "a", "b")
        assert item is not None
        assert item.value == value
        for key, bad in (("s", 100), ("s", "7"), ("p", 5), ("m", "angry"), ("a", 1.5)):
            with pytest.raises(InvalidValue):
                await write(adapter, "a", "b", {key: bad})


async def test_a_value_may_leave_out_what_has_a_default_again_and_again(database: Database) -> None:
    await database.psql.run(
        "CREATE TABLE t (g text, i text, n int, made timestamptz NOT NULL DEFAULT clock_timestamp(),"
        " number int GENERATED ALWAYS AS IDENTITY, PRIMARY KEY (g, i))"
    )
    await database.migrate(T)
    async with database.opened(mapped=T) as adapter:
        first = await write(adapter, "a", "b", {"n": 1})
        second = await write(adapter, "a", "b", {"n": 2})
        assert (first.type, second.type) == ("create", "update")
        assert second.new_value == {**first.new_value, "n": 2}
        # But what is taken away by name cannot go.
        ops = parse([{"type": "remove", "path": "made"}])
        with pytest.raises(InvalidValue, match="not-null"):
            await adapter.write(SPEC, [Write("update", "a", "b", operations=ops, finish=encode_object)])
