"""Odd names, odd statements, and leaving: the whole database as pg_dump shows it is as it was before."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from typing import Any

import asyncpg
import pytest
from motia_adapters.postgresql.options import MappedOptions

from motia_core.model import StreamSpec, Write
from motia_core.testing.harness import Reader, read_log
from motia_core.values import encode_object
from tests.adapters.postgresql.conftest import ORDERS, Database, told

SPEC = StreamSpec("orders")


async def dump(database: Database, *options: str) -> str:
    """The database as SQL, without what differs from dump to dump."""
    text = await asyncio.to_thread(subprocess.check_output, ["pg_dump", database.url, *options], text=True)
    return "\n".join(line for line in text.splitlines() if not line.startswith(("--", "\\")) and line)


USERS = """
CREATE SCHEMA "Odd.Schema";
CREATE TABLE "Odd.Schema"."Or""d'e%r\\s" ("Gr oup" text, "select" int, n int CHECK (n > 0) DEFAULT 3, made timestamptz,
    PRIMARY KEY ("select", "Gr oup"));
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.made := now(); RETURN NEW; END';
CREATE TRIGGER a BEFORE UPDATE ON "Odd.Schema"."Or""d'e%r\\s" FOR EACH ROW EXECUTE FUNCTION touch();
INSERT INTO "Odd.Schema"."Or""d'e%r\\s" VALUES ('a', 1, 2, 'now');
COMMENT ON TABLE "Odd.Schema"."Or""d'e%r\\s" IS 'a table';
"""


async def test_whoever_leaves_leaves_nothing_behind(empty: Database) -> None:
    await asyncio.to_thread(empty.program, USERS)
    before = await dump(empty)
    # The option takes a dot only between schema and table, so the schema gets another name.
    await empty.psql.run('ALTER SCHEMA "Odd.Schema" RENAME TO "Odd Schema"')
    name = "Odd Schema.Or\"d'e%r\\s"
    mapped = MappedOptions(table=name, group_field="Gr oup", id_field="select", include_ids=False)
    adapter = empty.adapter(mapped=mapped)
    assert len(await adapter.migrate()) == 3
    async with empty.opened(mapped=mapped) as adapter:
        await adapter.prepare(SPEC)
        head = await adapter.head(SPEC)
        (result,) = await adapter.write(SPEC, [Write("set", "ü", "7", encode_object({"n": 1}))])
        assert result is not None
        assert [item.id for item in await adapter.list(SPEC, "ü", after=None, limit=None)] == ["7"]
        assert await adapter.list_groups(SPEC, after=None, limit=None) == ["a", "ü"]
        await adapter.write(SPEC, [Write("delete", "ü", "7")])
        assert [change.type for change in await read_log(adapter, SPEC, head)] == ["create", "delete"]
        assert not [finding for finding in await adapter.diagnose() if finding.level == "error" and "fsync" not in
                    finding.message]  # fmt: skip
    schema, table = name.split(".")
    await empty.psql.value("SELECT motia.unmap_table($1, $2)", schema, table)
    await empty.psql.run("DROP SCHEMA motia CASCADE")
    await empty.psql.run('ALTER SCHEMA "Odd Schema" RENAME TO "Odd.Schema"')
    assert await dump(empty) == before


async def test_merge_and_cascades_and_key_changes_arrive(orders: Database) -> None:
    async with orders.opened(mapped=ORDERS) as adapter:
        await adapter.prepare(SPEC)
        head = await adapter.head(SPEC)
        await orders.psql.run(
            """
            CREATE TABLE customers (name text PRIMARY KEY);
            INSERT INTO customers VALUES ('a'), ('b');
            INSERT INTO orders (customer, code, n) VALUES ('a', 'x', 1), ('b', 'y', 2);
            ALTER TABLE orders ADD FOREIGN KEY (customer) REFERENCES customers ON UPDATE CASCADE ON DELETE CASCADE;
            MERGE INTO orders AS o USING (VALUES ('a', 'x'), ('b', 'new'), ('b', 'y')) AS s (customer, code)
                ON o.customer = s.customer AND o.code = s.code
                WHEN MATCHED AND o.code = 'y' THEN DELETE
                WHEN MATCHED THEN UPDATE SET n = 10
                WHEN NOT MATCHED THEN INSERT (customer, code, n) VALUES (s.customer, s.code, 5);
            UPDATE orders SET code = 'z' WHERE code = 'x';
            UPDATE customers SET name = 'c' WHERE name = 'a';
            DELETE FROM customers WHERE name = 'c';
            TRUNCATE customers CASCADE;
            """
        )
        log = told(await read_log(adapter, SPEC, head))
    assert log[:2] == [("create", "a", "x", 1), ("create", "b", "y", 2)]
    # A MERGE takes its rows in whatever order it likes.
    assert sorted(log[2:5]) == [("create", "b", "new", 5), ("delete", "b", "y", 2), ("update", "a", "x", 10)]
    assert log[5:] == [
        ("delete", "a", "x", 10),
        ("create", "a", "z", 10),
        ("delete", "a", "z", 10),
        ("create", "c", "z", 10),
        ("delete", "c", "z", 10),
        ("delete", "b", "new", 5),
    ]


@pytest.mark.parametrize("level", ["repeatable_read", "serializable"])
async def test_programs_at_other_isolation_levels_are_followed(orders: Database, level: str) -> None:
    """They fail and try again by their own rules; what they commit arrives, once."""
    async with orders.opened(mapped=ORDERS) as adapter:
        await adapter.prepare(SPEC)
        head = await adapter.head(SPEC)
        reader = Reader(adapter.watch(SPEC, head))

        async def program(number: int) -> None:
            async with orders.psql.connection() as connection:
                turn = 0
                while turn < 20:
                    with contextlib.suppress(asyncpg.SerializationError):
                        async with connection.transaction(isolation=level):
                            await connection.execute(
                                "INSERT INTO orders (customer, code, n) VALUES ($1, $2, 1)", f"g{number}", f"{turn}"
                            )
                            await connection.execute("UPDATE orders SET n = 2 WHERE customer = $1", f"g{number}")
                        turn += 1

        await asyncio.gather(*(program(number) for number in range(2)))
        expected = sum(1 + turn + 1 for turn in range(20)) * 2
        await reader.until(lambda batches: sum(len(batch.changes) for batch in batches) == expected)
        await reader.stop()


async def test_a_transaction_over_two_tables_and_our_writes_end(database: Database) -> None:
    """Whatever order programs take the tables in: a deadlock is theirs or is tried again, and nothing is lost."""
    names = ("one", "two")
    for name in names:
        await database.psql.run(f"CREATE TABLE {name} (g text, i text, n int, PRIMARY KEY (g, i))")
        await database.psql.run(f"INSERT INTO {name} SELECT 'g', x::text, 0 FROM generate_series(1, 3) AS x")
    mapped = [MappedOptions(table=name, group_field="g", id_field="i", include_ids=False) for name in names]
    for mapping in mapped:
        await database.migrate(mapping)
    async with (
        database.opened(mapped=mapped[0], timeout=30.0) as first,
        database.opened(mapped=mapped[1], timeout=30.0) as second,
    ):
        heads: list[Any] = [await adapter.head(SPEC) for adapter in (first, second)]

        async def ours(adapter: Any) -> None:
            for turn in range(30):
                both = [Write("set", "g", id, encode_object({"n": turn})) for id in ("3", "1", "2")]
                await adapter.write(SPEC, both)

        async def theirs(tables: tuple[str, ...], ids: tuple[str, ...]) -> int:
            done = 0
            async with database.psql.connection() as connection:
                for _ in range(30):
                    with contextlib.suppress(asyncpg.DeadlockDetectedError):
                        async with connection.transaction():
                            for table in tables:
                                for id in ids:
                                    await connection.execute(f"UPDATE {table} SET n = -1 WHERE i = $1", id)
                        done += 1
            return done

        _, _, *counts = await asyncio.gather(
            ours(first), ours(second), theirs(names, ("1", "2", "3")), theirs(names[::-1], ("3", "2", "1"))
        )
        for adapter, head in zip((first, second), heads, strict=True):
            log = await read_log(adapter, SPEC, head)
            assert len(log) == 90 + 3 * sum(counts)
            last = {change.id: change.data for change in log}
            items = {item.id: item.value for item in await adapter.list(SPEC, "g", after=None, limit=None)}
            assert last == items
