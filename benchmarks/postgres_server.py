"""PostgreSQL: ``stream.set``, delay, foreign writers and large streams beside bare asyncpg on the same server."""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import asyncpg
import orjson
from motia_adapters.postgresql.migrations import apply, migrations
from motia_adapters.postgresql.options import MappedOptions

from benchmarks.rows import Row, document
from motia_core import Motia, StreamConfig
from motia_core.model import StreamSpec
from motia_core.testing.servers import Missing, PostgreSQL

TASKS = 50
SEQUENTIAL = 1_500
CONCURRENT = 15_000
PACED = 300
FOREIGN = 6_000
VALUE = document(256)
TEXT = orjson.dumps(VALUE).decode()
UPSERT = (
    "INSERT INTO bare (grp, id, value) VALUES ('g', $1, $2) ON CONFLICT (grp, id) DO UPDATE SET value = excluded.value"
)
TABLES = """
CREATE TABLE bare (grp text COLLATE "C", id text COLLATE "C", value json, PRIMARY KEY (grp, id));
CREATE TABLE orders (customer text, code text, value json, PRIMARY KEY (customer, code));
"""


@asynccontextmanager
async def _server() -> AsyncIterator[PostgreSQL]:
    """A server with our objects and the tables of the baselines."""
    server = PostgreSQL()
    await server.start()
    try:
        connection = await asyncpg.connect(server.url)
        await apply(connection, "motia", migrations())
        await connection.execute(TABLES)
        await connection.close()
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def _ours() -> AsyncIterator[Motia]:
    storage = {"default": "memory://", "live": ""}
    async with _server() as server:
        storage["live"] = server.url
        stream = StreamConfig("documents", base_config={"storageType": "live"})
        async with Motia(streams=[stream], storage=storage) as motia:
            yield motia


@asynccontextmanager
async def _bare() -> AsyncIterator[asyncpg.Pool[Any]]:
    async with _server() as server, asyncpg.create_pool(server.url, min_size=10, max_size=10) as pool:
        yield pool


async def _spread(count: int, tasks: int, work: Any) -> float:
    """Calls per second of ``work(number)``, by so many tasks, after a warm-up."""

    async def run(start: int, stop: int) -> None:
        for number in range(start, stop, tasks):
            await work(number)

    await asyncio.gather(
        *(
            run(
                task,
                tasks * 2,
            )
            for task in range(tasks)
        )
    )
    started = time.perf_counter()
    await asyncio.gather(*(run(task, count) for task in range(tasks)))
    return count / (time.perf_counter() - started)


async def set_sequential() -> float:
    """Sets per second, one after the other."""
    async with _ours() as motia:
        docs = motia.streams["documents"]
        return await _spread(SEQUENTIAL, 1, lambda number: docs.set("g", f"{number % 500}", VALUE))


async def upsert_sequential() -> float:
    """Bare upserts per second on one connection."""
    async with _bare() as pool, pool.acquire() as connection:
        return await _spread(SEQUENTIAL, 1, lambda number: connection.execute(UPSERT, f"{number % 500}", TEXT))


async def set_concurrent() -> float:
    """Sets per second by 50 tasks."""
    async with _ours() as motia:
        docs = motia.streams["documents"]
        return await _spread(CONCURRENT, TASKS, lambda number: docs.set("g", f"{number % 500}", VALUE))


async def upsert_concurrent() -> float:
    """Bare upserts per second by 50 tasks on a pool of 10 connections."""
    async with _bare() as pool:
        return await _spread(CONCURRENT, TASKS, lambda number: pool.execute(UPSERT, f"{number % 500}", TEXT))


async def delay_ours() -> float:
    """Median ms from the call of set to a watch in another adapter's hands, paced."""
    async with _ours() as motia:
        docs = motia.streams["documents"]
        adapter = docs.hub.adapter
        other = type(adapter)(adapter.settings, adapter.database._options)  # type: ignore[attr-defined,call-arg]
        await other.open()
        sent: dict[str, float] = {}
        took: list[float] = []
        spec = StreamSpec("documents")

        async def listen() -> None:
            async with aclosing(other.watch(spec, await other.head(spec))) as batches:
                async for batch in batches:
                    now = time.perf_counter()
                    took.extend(now - sent[change.id] for change in batch.changes if change.id in sent)
                    if len(took) >= PACED:
                        return

        listening = asyncio.create_task(listen())
        await asyncio.sleep(0.5)
        for number in range(PACED):
            sent[f"{number}"] = time.perf_counter()
            await docs.set("g", f"{number}", VALUE)
            await asyncio.sleep(0.005)
        await listening
        await other.close()
        return statistics.median(took) * 1000


async def delay_bare() -> float:
    """Median ms from a bare upsert with NOTIFY to a listener, paced the same."""
    async with _server() as server:
        writer, listener = await asyncpg.connect(server.url), await asyncpg.connect(server.url)
        sent: dict[str, float] = {}
        took: list[float] = []
        done = asyncio.Event()

        def hear(_: object, __: int, ___: str, payload: object) -> None:
            took.append(time.perf_counter() - sent[str(payload)])
            if len(took) >= PACED:
                done.set()

        await listener.add_listener("bare", hear)
        for number in range(PACED):
            sent[f"{number}"] = time.perf_counter()
            async with writer.transaction():
                await writer.execute(UPSERT, f"{number}", TEXT)
                await writer.execute(f"NOTIFY bare, '{number}'")
            await asyncio.sleep(0.005)
        await done.wait()
        await writer.close()
        await listener.close()
        return statistics.median(took) * 1000


async def _foreign(mapped: bool) -> float:
    async with _server() as server:
        mapping = MappedOptions(table="orders", group_field="customer", id_field="code")
        listening: asyncio.Task[None] | None = None
        adapter: Any = None
        if mapped:
            connection = await asyncpg.connect(server.url)
            await apply(connection, "motia", migrations(mapped=mapping))
            await connection.close()
            from motia_postgres.adapter import PostgresAdapter
            from motia_postgres.options import PostgresOptions, options_from_url

            from motia_core.adapter import StorageSettings

            options = PostgresOptions(**options_from_url(server.url), mapped=mapping)
            adapter = PostgresAdapter(StorageSettings("live"), options)
            await adapter.open()

            async def follow() -> None:
                spec = StreamSpec("documents")
                async with aclosing(adapter.watch(spec, await adapter.head(spec))) as batches:
                    async for _ in batches:
                        pass

            listening = asyncio.create_task(follow())
        sql = (
            "INSERT INTO orders (customer, code, value) VALUES ('g', $1, $2)"
            " ON CONFLICT (customer, code) DO UPDATE SET value = excluded.value"
        )
        async with asyncpg.create_pool(server.url, min_size=TASKS, max_size=TASKS) as pool:
            figure = await _spread(FOREIGN, TASKS, lambda number: pool.execute(sql, f"{number}", TEXT))
        if listening is not None:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            await adapter.close()
        return figure


async def foreign_captured() -> float:
    """Another program's upserts per second by 50 writers, with our trigger and a reader that follows."""
    return await _foreign(True)


async def foreign_bare() -> float:
    """The same without the trigger."""
    return await _foreign(False)


async def _large(items: int) -> float:
    """Median ms of a join of one group, a page of groups and a get, together."""
    async with _ours() as motia:
        docs = motia.streams["documents"]
        await docs.set("wanted", "x", VALUE)
        adapter: Any = docs.hub.adapter
        connection = await asyncpg.connect(
            host="127.0.0.1", port=adapter.database._options.port, user="postgres", database="postgres"
        )
        await connection.execute(
            "INSERT INTO motia.item (stream, grp, id, value, epoch, seq)"
            f" SELECT (SELECT id FROM motia.stream WHERE name = 'documents'), 'g' || n / 100, n::text, '{{}}', 1, 1"
            f" FROM generate_series(1, {items}) AS n"
        )
        await connection.execute("ANALYZE motia.item")
        await connection.close()
        spec = StreamSpec("documents")
        took: list[float] = []
        for _ in range(60):
            started = time.perf_counter()
            await adapter.snapshot(spec, "wanted", None, limit=None)
            await docs.list_groups(limit=10)
            await docs.get("wanted", "x")
            took.append(time.perf_counter() - started)
        return statistics.median(took) * 1000


async def large() -> float:
    """With a million items."""
    return await _large(1_000_000)


async def small() -> float:
    """With a thousand."""
    return await _large(1_000)


def _rows() -> list[Row]:
    try:
        PostgreSQL()._command()
    except Missing as missing:
        print(f"postgres rows are left out: {missing}", file=sys.stderr)
        return []
    bare = "bare INSERT ... ON CONFLICT by asyncpg"
    return [
        Row(
            "postgres: set, sequential",
            "ops/s",
            {"stream.set": set_sequential, bare: upsert_sequential},
            "stream.set",
            "0.5",
            "0.8",
        ),
        Row(
            "postgres: set, 50 tasks",
            "ops/s",
            {"stream.set": set_concurrent, f"{bare}, pool of 10": upsert_concurrent},
            "stream.set",
            "0.5",
            "2",
        ),
        Row(
            "postgres: set to subscriber elsewhere, p50",
            "ms",
            {"ours": delay_ours, "bare upsert with NOTIFY": delay_bare},
            "ours",
            "<= 1.5",
            "<= 1.2",
            more_is_better=False,
        ),
        Row(
            "postgres: 50 foreign writers of a mapped table",
            "ops/s",
            {"with our trigger and a reader": foreign_captured, "without": foreign_bare},
            "with our trigger and a reader",
            "0.5",
            "0.8",
        ),
        Row(
            "postgres: join, groups and get as the stream grows",
            "ms",
            {"a million items": large, "a thousand": small},
            "a million items",
            "<= 1.5",
            "<= 1.2",
            more_is_better=False,
            rounds=2,
        ),
    ]


ROWS = _rows()
