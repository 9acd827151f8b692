"""Servers and databases that are set otherwise: crashes that lose commits, two-phase commit, isolation."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from motia_core.errors import BackendError, PositionExpired
from motia_core.model import StreamSpec, Write
from motia_core.testing.harness import Reader, eventually, read_log
from motia_core.testing.servers import PostgreSQL, start_or_skip
from tests.adapters.postgresql.conftest import ORDERS, Database, told

SPEC = StreamSpec("documents")


@asynccontextmanager
async def own_server(*arguments: str) -> AsyncGenerator[Database, None]:
    """A server that is set as these say, with our objects."""
    server = PostgreSQL(*(part for argument in arguments for part in ("-c", argument)))
    await start_or_skip(server)
    try:
        database = Database(server.url)
        await database.migrate()
        yield database
    finally:
        await server.stop()


async def test_commits_that_a_crash_lost_are_noticed_though_the_server_did_not_restart() -> None:
    """With synchronous_commit off; one killed backend makes the server recover, and its start time stays the same."""
    async with (
        own_server("synchronous_commit=off", "wal_writer_delay=10s", "autovacuum=off") as database,
        database.opened() as adapter,
    ):
        await adapter.prepare(SPEC)
        (kept,) = await adapter.write(SPEC, [Write("set", "g", "kept", b"{}")])
        assert kept is not None
        await database.psql.run("SET synchronous_commit = on; CREATE TABLE flushed ()")
        started = await database.psql.value("SELECT pg_postmaster_start_time()")
        async with database.psql.connection() as victim:
            pid = await victim.fetchval("SELECT pg_backend_pid()")
            for attempt in range(20):  # until one is lost: the WAL writer may be quicker
                (lost,) = await adapter.write(SPEC, [Write("set", "g", f"lost {attempt}", b"{}")])
            assert lost is not None
            os.kill(pid, signal.SIGKILL)

            async def back() -> bool:
                try:
                    return bool(await database.psql.value("SELECT count(*) = 0 FROM motia.alive"))
                except (asyncpg.PostgresError, OSError):
                    return False

            await eventually(back, "the server to recover")
        assert await database.psql.value("SELECT pg_postmaster_start_time()") == started
        assert await adapter.head(SPEC) < lost.position  # else this tests nothing
        count = 0
        while (await adapter.head(SPEC))[15:] < lost.position[15:]:
            count += 1
            await adapter.write(SPEC, [Write("set", "g", f"new {count}", b"{}")])
        with pytest.raises(PositionExpired):
            await read_log(adapter, SPEC, lost.position)
        assert [change.id for change in await read_log(adapter, SPEC, kept.position)][-1] == f"new {count}"


async def test_two_phase_commits_of_other_programs_go_on_and_are_seen() -> None:
    """A transaction that has notified cannot be prepared: where preparing is allowed, our trigger does not notify."""
    async with own_server("fsync=off", "max_prepared_transactions=5") as database:
        await database.psql.run(
            "CREATE TABLE orders (customer text, code text, n bigint, title text, extra json,"
            " PRIMARY KEY (customer, code))"
        )
        await database.migrate(ORDERS)
        async with database.opened(mapped=ORDERS) as adapter:
            await adapter.prepare(SPEC)
            head = await adapter.head(SPEC)
            reader = Reader(adapter.watch(SPEC, head))
            insert = "INSERT INTO orders (customer, code, n) VALUES ('g', '{}', 1)"
            await database.psql.run(f"BEGIN; {insert.format('held')}; PREPARE TRANSACTION 'one'")
            await database.psql.run(insert.format("quick"))
            await reader.until(lambda batches: any(batch.changes for batch in batches))
            assert told(await read_log(adapter, SPEC, head)) == [("create", "g", "quick", 1)]
            await database.psql.run("COMMIT PREPARED 'one'")
            await reader.until(lambda batches: sum(len(batch.changes) for batch in batches) == 2)
            await reader.stop()
            findings = [finding.message for finding in await adapter.diagnose()]
            assert any("max_prepared_transactions is 5" in message for message in findings), findings


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_a_default_isolation_level_does_not_become_ours(database: Database, level: str) -> None:
    name = database.url.rsplit("/", 1)[1]
    await database.psql.run(f"ALTER DATABASE {name} SET default_transaction_isolation = '{level}'")
    async with database.opened() as one, database.opened() as other:
        for adapter in (one, other):
            await adapter.prepare(SPEC)

        async def write(adapter: object, number: int) -> None:
            for turn in range(30):
                await adapter.write(SPEC, [Write("set", "g", f"{number}-{turn}", b"{}")])  # type: ignore[attr-defined]

        head = await one.head(SPEC)
        await asyncio.gather(write(one, 1), write(other, 2))
        assert len(await read_log(one, SPEC, head)) == 60
    # Where the session cannot be set (a pooler, REST), what would go wrong is refused.
    async with database.opened(pooler=True) as adapter:
        with pytest.raises(BackendError, match=f"transaction that is {level}.*ALTER ROLE"):
            await adapter.write(SPEC, [Write("set", "g", "x", b"{}")])
        assert any("default_transaction_isolation" in finding.message for finding in await adapter.diagnose())


async def test_a_database_in_another_encoding_is_told(database: Database) -> None:
    name = database.url.rsplit("/", 1)[1] + "_latin"
    await database.psql.run(f"CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    other = Database(database.url.rsplit("/", 1)[0] + f"/{name}")
    try:
        await other.migrate()
        async with other.opened() as adapter:
            assert any("encoding is LATIN1" in finding.message for finding in await adapter.diagnose())
    finally:
        await database.psql.run(f"DROP DATABASE {name} WITH (FORCE)")
