"""MongoDB: ``stream.set``, a hot item and delay beside the bare driver."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from pymongo import AsyncMongoClient, WriteConcern

from benchmarks.rows import Row, document
from motia_core import Motia, StreamConfig
from motia_core.testing.servers import Missing, MongoDB

TASKS = 50
WRITES = 5_000
PACED = 300
VALUE = document(256)


@asynccontextmanager
async def _server() -> AsyncIterator[MongoDB]:
    server = MongoDB()
    await server.start()
    try:
        yield server
    finally:
        await server.kill()
        await server.stop()


@asynccontextmanager
async def _ours() -> AsyncIterator[Any]:
    async with _server() as server:
        storage = {"default": {"adapter": "mongodb", "url": server.url}}
        async with Motia(streams=[StreamConfig("documents")], storage=storage) as motia:
            yield motia.streams["documents"]


@asynccontextmanager
async def _bare() -> AsyncIterator[Any]:
    async with _server() as server:
        client: Any = AsyncMongoClient(server.url)
        try:
            yield client.get_database("bench", write_concern=WriteConcern("majority"))["items"]
        finally:
            await client.close()


async def _time(write: Callable[[str], Awaitable[object]], tasks: int, total: int) -> float:
    async def work(number: int) -> None:
        for turn in range(total // tasks):
            await write(f"{number}-{turn % 20}")

    await asyncio.gather(*(work(number) for number in range(tasks)))  # warm
    started = time.perf_counter()
    await asyncio.gather(*(work(number) for number in range(tasks)))
    return (time.perf_counter() - started) / total * 1e6


def _set_ours(tasks: int, total: int) -> Any:
    async def measured() -> float:
        async with _ours() as docs:
            return await _time(lambda id: docs.set("g", id, VALUE), tasks, total)

    return measured


def _set_bare(tasks: int, total: int) -> Any:
    async def measured() -> float:
        async with _bare() as items:

            def write(id: str) -> Awaitable[object]:
                key, change = {"_id": {"g": "g", "i": id}}, {"$set": {"value": VALUE}, "$inc": {"n": 1}}
                return items.find_one_and_update(key, change, upsert=True)  # type: ignore[no-any-return]

            return await _time(write, tasks, total)

    return measured


async def _hot_ours() -> float:
    op = [{"type": "increment", "path": "n", "by": 1}]
    async with _ours() as docs:
        return 1e6 / await _time(lambda _: docs.update("g", "hot", op), TASKS, WRITES)


async def _hot_bare() -> float:
    async with _bare() as items:
        return 1e6 / await _time(
            lambda _: items.find_one_and_update({"_id": "hot"}, {"$inc": {"n": 1}}, upsert=True), TASKS, WRITES
        )


async def _delay_ours() -> float:
    delays: list[float] = []
    async with _ours() as docs:
        watch = docs.watch("g")
        await anext(watch)

        async def read() -> None:
            async for change in watch:
                delays.append(time.perf_counter() - change.data["at"])
                if len(delays) == PACED:
                    return

        reading = asyncio.create_task(read())
        for number in range(PACED):
            await docs.set("g", f"{number % 20}", {**VALUE, "at": time.perf_counter()})
            await asyncio.sleep(0.002)
        await reading
        await watch.aclose()
    return statistics.median(delays) * 1e3


async def _delay_bare() -> float:
    delays: list[float] = []
    async with _bare() as items, await items.watch(start_at_operation_time=None) as stream:

        async def read() -> None:
            async for change in stream:
                fields = change.get("fullDocument") or change["updateDescription"]["updatedFields"]
                delays.append(time.perf_counter() - fields["at"])
                if len(delays) == PACED:
                    return

        reading = asyncio.create_task(read())
        await asyncio.sleep(0.1)
        for number in range(PACED):
            key, change = {"_id": {"g": "g", "i": f"{number % 20}"}}, {"$set": {**VALUE, "at": time.perf_counter()}}
            change["$set"].pop("id", None)
            await items.find_one_and_update(key, change, upsert=True)
            await asyncio.sleep(0.002)
        await reading
    return statistics.median(delays) * 1e3


def _here() -> bool:
    try:
        MongoDB()._command()
    except Missing:
        return False
    return True


ROWS = (
    [
        Row(
            "mongodb set, sequential",
            "microseconds",
            {"stream.set": _set_ours(1, 600), "bare majority find_one_and_update": _set_bare(1, 600)},
            "stream.set",
            "1.25x",
            "1.1x",
            more_is_better=False,
        ),
        Row(
            "mongodb set, 50 tasks",
            "microseconds",
            {
                "stream.set": _set_ours(TASKS, WRITES),
                "bare majority find_one_and_update": _set_bare(TASKS, WRITES),
            },
            "stream.set",
            "1.25x",
            "1.1x",
            more_is_better=False,
        ),
        Row(
            "mongodb update of one hot item, 50 tasks",
            "updates/s",
            {"stream.update": _hot_ours, "bare majority $inc": _hot_bare},
            "stream.update",
            "0.2x",
            "0.4x",
        ),
        Row(
            "mongodb set to subscriber, p50",
            "ms",
            {"stream.watch": _delay_ours, "bare watch": _delay_bare},
            "stream.watch",
            "1.25x",
            "1.1x",
            more_is_better=False,
        ),
    ]
    if _here()
    else []
)
