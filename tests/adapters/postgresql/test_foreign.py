"""What other programs write to a mapped table: every way to write, in one order, none lost (B5)."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import asyncpg
import pytest

from motia_core.model import StreamSpec
from motia_core.testing.harness import Reader, eventually, read_log
from motia_core.testing.history import check_history
from tests.adapters.postgresql.conftest import ORDERS, Database, told

SPEC = StreamSpec("orders")


async def test_every_statement_of_psql_arrives(orders: Database) -> None:
    async with orders.opened(mapped=ORDERS) as adapter:
        await adapter.prepare(SPEC)
        head = await adapter.head(SPEC)
        await asyncio.to_thread(
            orders.program,
            """
            INSERT INTO orders (customer, code, n) VALUES ('a', 'x', 1), ('a', 'y', 2);
            UPDATE orders SET n = n + 10;
            INSERT INTO orders (customer, code, n) VALUES ('a', 'x', 5) ON CONFLICT (customer, code)
                DO UPDATE SET n = excluded.n;
            INSERT INTO orders (customer, code, n) VALUES ('a', 'x', 6) ON CONFLICT DO NOTHING;
            UPDATE orders SET customer = 'b' WHERE code = 'y';
            BEGIN;
            INSERT INTO orders (customer, code, n) VALUES ('a', 'z', 1);
            SAVEPOINT s;
            UPDATE orders SET n = 99;
            DELETE FROM orders WHERE code = 'x';
            ROLLBACK TO s;
            UPDATE orders SET n = 2 WHERE code = 'z';
            COMMIT;
            BEGIN; DELETE FROM orders; ROLLBACK;
            COPY orders (customer, code, n) FROM stdin;
c\tcopied\t7
c\tcopied too\t8
\\.
            DELETE FROM orders WHERE code = 'x';
            WITH gone AS (DELETE FROM orders WHERE code = 'z' RETURNING n)
                INSERT INTO orders (customer, code, n) SELECT 'd', 'moved', n FROM gone;
            TRUNCATE orders;
            """,
        )
        log = told(await read_log(adapter, SPEC, head))
        assert await adapter.list_groups(SPEC, after=None, limit=None) == []
    assert log[:-4] == [
        ("create", "a", "x", 1),
        ("create", "a", "y", 2),
        ("update", "a", "x", 11),
        ("update", "a", "y", 12),
        ("update", "a", "x", 5),
        ("delete", "a", "y", 12),
        ("create", "b", "y", 12),
        ("create", "a", "z", 1),
        ("update", "a", "z", 2),
        ("create", "c", "copied", 7),
        ("create", "c", "copied too", 8),
        ("delete", "a", "x", 5),
        ("delete", "a", "z", 2),
        ("create", "d", "moved", 2),
    ]
    assert sorted(log[-4:]) == [
        ("delete", "b", "y", 12),
        ("delete", "c", "copied", 7),
        ("delete", "c", "copied too", 8),
        ("delete", "d", "moved", 2),
    ]


async def test_a_transaction_that_is_held_open_stalls_nobody_and_loses_nothing(orders: Database) -> None:
    async with (
        orders.opened(mapped=ORDERS) as adapter,
        orders.psql.connection() as slow,
        orders.psql.connection() as quick,
    ):
        await adapter.prepare(SPEC)
        head = await adapter.head(SPEC)
        reader = Reader(adapter.watch(SPEC, head))
        transaction = slow.transaction()
        await transaction.start()
        await slow.execute("INSERT INTO orders (customer, code, n) VALUES ('g', 'held', 1)")
        await slow.execute("INSERT INTO orders (customer, code, n) VALUES ('g', 'held too', 2)")
        for number in range(10):  # these pass, and are told, while it is open
            await quick.execute("INSERT INTO orders (customer, code, n) VALUES ('g', $1, $2)", f"q{number}", number)
        await reader.until(lambda batches: sum(len(batch.changes) for batch in batches) == 10)
        snapshot = await adapter.snapshot(SPEC, "g", None, limit=None)
        assert [item.id for item in snapshot.items] == [f"q{number}" for number in range(10)]
        await transaction.commit()
        await reader.until(lambda batches: sum(len(batch.changes) for batch in batches) == 12)
        await reader.stop()
        log = [change.id for batch in reader.seen for change in batch.changes]
        assert log == [*(f"q{number}" for number in range(10)), "held", "held too"]
        later = await read_log(adapter, SPEC, snapshot.position)
        assert [change.id for change in later] == ["held", "held too"]


async def test_the_replication_role_passes_nothing_by(orders: Database) -> None:
    async with orders.opened(mapped=ORDERS) as adapter:
        await adapter.prepare(SPEC)
        head = await adapter.head(SPEC)
        await orders.psql.run(
            "SET session_replication_role = replica; INSERT INTO orders (customer, code, n) VALUES ('g', 'x', 1)"
        )
        assert told(await read_log(adapter, SPEC, head)) == [("create", "g", "x", 1)]


async def test_backslashes_are_what_the_writer_s_session_takes_them_for(orders: Database) -> None:
    """``standard_conforming_strings``, once on for a program, once for the whole database."""
    write = (
        "INSERT INTO orders (customer, code, n, extra) VALUES ('g', 'x', 1, E'[\"\\\\u0000\"]'), (chr(1), 'y', 2, NULL)"
    )
    async with orders.opened(mapped=ORDERS) as adapter:
        await adapter.prepare(SPEC)
        head = await adapter.head(SPEC)
        await orders.psql.run(f"SET standard_conforming_strings = off; {write}; UPDATE orders SET customer = 'h'")
        told_off = told(await read_log(adapter, SPEC, head))
    name = orders.url.rsplit("/", 1)[1]
    await orders.psql.run(f"TRUNCATE orders; ALTER DATABASE {name} SET standard_conforming_strings = off")
    async with orders.opened(mapped=ORDERS) as adapter:
        await adapter.prepare(SPEC)
        head = await adapter.head(SPEC)
        await orders.psql.run(f"{write}; UPDATE orders SET customer = 'h'")
        assert told(await read_log(adapter, SPEC, head)) == told_off
        assert [item.id for item in (await adapter.snapshot(SPEC, "h", None, limit=None)).items] == ["x", "y"]
    assert told_off == [
        ("create", "g", "x", 1),
        ("delete", "g", "x", 1),
        ("create", "h", "x", 1),
        ("create", "h", "y", 2),
    ]


async def test_a_row_that_cannot_be_an_item_comes_and_goes(orders: Database) -> None:
    """Its group or id holds a control character, or is too long: it is no item, until it is."""
    async with orders.opened(mapped=ORDERS) as adapter:
        await adapter.prepare(SPEC)
        head = await adapter.head(SPEC)
        await orders.psql.run("INSERT INTO orders (customer, code, n) VALUES ('g', E'a\\tb', 1), ('', 'x', 2)")
        await orders.psql.run("UPDATE orders SET code = 'ab' WHERE n = 1")
        await orders.psql.run("UPDATE orders SET customer = repeat('x', 600) WHERE n = 1")
        log = told(await read_log(adapter, SPEC, head))
        assert log == [("create", "g", "ab", 1), ("delete", "g", "ab", 1)]
        assert await adapter.list_groups(SPEC, after=None, limit=None) == []
        findings = [finding.message for finding in await adapter.diagnose()]
        assert any("2 rows of table 'orders' cannot be items" in message for message in findings), findings


@pytest.mark.parametrize("seed", range(3))
async def test_many_programs_at_once_leave_a_log_that_leads_to_the_table(orders: Database, seed: int) -> None:
    """Transactions of several statements, some rolled back, some held, beside our own writes."""
    patient = {"mapped": ORDERS, "timeout": 30.0}  # a deadlock with programs like these takes a while
    async with orders.opened(**patient) as adapter, orders.opened(**patient) as other:
        await adapter.prepare(SPEC)
        await other.prepare(SPEC)
        head = await adapter.head(SPEC)
        readers = [Reader(one.watch(SPEC, head)) for one in (adapter, other)]

        async def outsider(number: int) -> None:
            dice = random.Random(seed * 100 + number)
            async with orders.psql.connection() as connection:
                for turn in range(25):
                    transaction = connection.transaction()
                    await transaction.start()
                    try:
                        for _ in range(dice.randint(1, 4)):
                            await _act(connection, dice, turn)
                        await asyncio.sleep(dice.choice((0, 0, 0, 0.01)))
                    except (asyncpg.DeadlockDetectedError, asyncpg.UniqueViolationError):
                        await transaction.rollback()
                        continue
                    await (transaction.rollback() if dice.random() < 0.2 else transaction.commit())

        async def ours(number: int) -> None:
            dice = random.Random(seed * 100 + 50 + number)
            for turn in range(25):
                await (adapter, other)[number].write(SPEC, [_write(dice.choice("ab"), dice.choice("xyz"), turn)])

        await asyncio.gather(*(outsider(number) for number in range(5)), *(ours(number) for number in range(2)))
        stored: dict[tuple[str, str], Any] = {}
        for group in "ab":
            snapshot = await adapter.snapshot(SPEC, group, None, limit=None)
            stored |= {(group, item.id): item.value for item in snapshot.items}
        end = await adapter.head(SPEC)
        for reader in readers:
            await reader.until(lambda batches: bool(batches) and batches[-1].position >= end)
            await reader.stop()
        logs = [[change for batch in reader.seen for change in batch.changes] for reader in readers]
        for log in (*logs, await read_log(adapter, SPEC, head)):
            verdict = check_history(log, stored)
            assert verdict, verdict
        assert [change.position for change in logs[0]] == [change.position for change in logs[1]]


async def _act(connection: Any, dice: random.Random, turn: int) -> None:
    group, id = dice.choice("ab"), dice.choice("xyz")
    kind = dice.random()
    if kind < 0.5:
        await connection.execute(
            "INSERT INTO orders (customer, code, n) VALUES ($1, $2, $3)"
            " ON CONFLICT (customer, code) DO UPDATE SET n = excluded.n",
            group,
            id,
            turn,
        )
    elif kind < 0.7:
        await connection.execute("DELETE FROM orders WHERE customer = $1 AND code = $2", group, id)
    elif kind < 0.85:
        await connection.execute("UPDATE orders SET n = n + 1 WHERE customer = $1", group)
    else:
        await connection.execute(
            "UPDATE orders SET customer = $1 WHERE code = $2 AND customer <> $1"
            " AND NOT EXISTS (SELECT FROM orders AS o WHERE o.customer = $1 AND o.code = $2)",
            group,
            id,
        )


def _write(group: str, id: str, number: int) -> Any:
    from motia_core.model import Write
    from motia_core.values import encode_object

    return Write("set", group, id, encode_object({"n": number, "title": "ours"}))


async def test_a_subscriber_hears_of_it_at_once(orders: Database) -> None:
    async with orders.opened(mapped=ORDERS) as adapter:
        await adapter.prepare(SPEC)
        reader = Reader(adapter.watch(SPEC, await adapter.head(SPEC)))
        await reader.count(1)
        for number in range(20):
            await orders.psql.run("INSERT INTO orders (customer, code) VALUES ('g', $1)", f"{number}")

        async def all_there() -> bool:
            return sum(len(batch.changes) for batch in reader.seen) == 20

        await eventually(all_there, "all changes")
        await reader.stop()
