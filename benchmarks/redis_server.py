"""Redis: ``stream.set``, reading and delay beside redis-py and the bare commands."""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import orjson
import redis.asyncio as redis_py

from benchmarks.rows import Row, document
from motia_core import Motia, StreamConfig
from motia_core.model import StreamSpec
from motia_core.testing.servers import Missing, Redis

TASKS = 50
WRITES = 20_000
EVENTS = 50_000
PACED = 600
VALUE = document(256)
SCRIPT = """
local old = redis.call('HGET', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('XADD', KEYS[2], 'MAXLEN', '~', 100000, '*', 'g', 'g', 'i', ARGV[1], 'j', ARGV[2])
return old
"""


@asynccontextmanager
async def _server() -> AsyncIterator[Redis]:
    server = Redis("--appendonly", "no")
    await server.start()
    try:
        yield server
    finally:
        await server.kill()
        await server.stop()


def _motia(server: Redis) -> Motia:
    return Motia(streams=[StreamConfig("documents")], storage={"default": server.url})


@asynccontextmanager
async def _ours() -> AsyncIterator[Motia]:
    async with _server() as server, _motia(server) as motia:
        yield motia


@asynccontextmanager
async def _bare() -> AsyncIterator[Any]:
    async with _server() as server, redis_py.Redis.from_url(server.url) as client:
        yield client


async def _many(write: Any, tasks: int, total: int) -> float:
    async def work(number: int) -> None:
        for turn in range(total // tasks):
            await write(f"{number}-{turn % 20}")

    await asyncio.gather(*(work(number) for number in range(tasks)))  # warm
    started = time.perf_counter()
    await asyncio.gather(*(work(number) for number in range(tasks)))
    return total / (time.perf_counter() - started)


async def _delays(write: Any) -> float:
    """Microseconds that a write takes, in the middle."""
    taken = []
    for turn in range(3_000):
        began = time.perf_counter()
        await write(f"{turn % 20}")
        taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1e6


def _set_ours(sequential: bool) -> Any:
    async def measured() -> float:
        async with _ours() as motia:
            docs = motia.streams["documents"]

            async def write(id: str) -> None:
                await docs.set("g", id, VALUE)

            return await (_delays(write) if sequential else _many(write, TASKS, WRITES))

    return measured


def _set_bare(sequential: bool) -> Any:
    async def measured() -> float:
        async with _bare() as client:
            script = client.register_script(SCRIPT)

            async def write(id: str) -> None:
                await script(keys=["{d}h", "{d}l"], args=[id, orjson.dumps(VALUE)])

            return await (_delays(write) if sequential else _many(write, TASKS, WRITES))

    return measured


async def _updates_ours() -> float:
    async with _ours() as motia:
        docs = motia.streams["documents"]

        async def write(_: str) -> None:
            await docs.update("g", "hot", [{"type": "increment", "path": "n", "by": 1}])

        return await _many(write, TASKS, WRITES)


async def _read_ours() -> float:
    async with _ours() as motia:
        docs = motia.streams["documents"]
        adapter, spec = docs.hub.adapter, StreamSpec("documents")
        start = await adapter.head(spec)
        for first in range(0, EVENTS, 1_000):
            async with docs.batch() as batch:
                for number in range(first, first + 1_000):
                    batch.set("g", str(number), VALUE)
        started, seen = time.perf_counter(), 0
        async with aclosing(adapter.watch(spec, start)) as batches:
            async for found in batches:
                for change in found.changes:
                    assert change.data
                seen += len(found.changes)
                if seen == EVENTS:
                    return EVENTS / (time.perf_counter() - started)
    raise AssertionError


async def _read_bare() -> float:
    async with _bare() as client:
        json = orjson.dumps(VALUE)
        for _ in range(EVENTS // 1_000):
            async with client.pipeline(transaction=False) as pipe:
                for number in range(1_000):
                    pipe.xadd("l", {"g": "g", "i": str(number), "j": json})
                await pipe.execute()
        started, seen, last = time.perf_counter(), 0, b"0"
        while seen < EVENTS:
            ((_, entries),) = await client.xread({"l": last}, count=1_000)
            for _, fields in entries:
                assert orjson.loads(fields[b"j"])
            seen, last = seen + len(entries), entries[-1][0]
        return EVENTS / (time.perf_counter() - started)


_WATCH_OURS = """
import asyncio, sys, time
from motia_core import Motia, StreamConfig

async def main():
    async with Motia(streams=[StreamConfig("documents")], storage={"default": sys.argv[1]}) as motia:
        async with motia.streams["documents"].watch("g") as watch:
            async for change in watch:
                if change.type == "sync":
                    print("ready", flush=True)
                else:
                    print((time.time() - change.data["at"]) * 1000, flush=True)

asyncio.run(main())
"""
_WATCH_BARE = """
import asyncio, sys, time, orjson
import redis.asyncio as redis

async def main():
    async with redis.Redis.from_url(sys.argv[1]) as client:
        last = b"0"
        print("ready", flush=True)
        while True:
            for _, entries in await client.xread({"{d}l": last}, block=1000):
                for last, fields in entries:
                    print((time.time() - orjson.loads(fields[b"j"])["at"]) * 1000, flush=True)

asyncio.run(main())
"""


def _delay(share: float, ours: bool) -> Any:
    """Milliseconds from the call of set to its arrival in another process, at a quantile; 500 a second."""

    async def measured() -> float:
        async with _server() as server:
            code = _WATCH_OURS if ours else _WATCH_BARE
            other = await asyncio.create_subprocess_exec(
                sys.executable, "-c", code, server.url, stdout=asyncio.subprocess.PIPE
            )
            assert other.stdout
            await other.stdout.readline()
            try:
                if ours:
                    async with _motia(server) as motia:
                        docs = motia.streams["documents"]
                        await _pace(lambda id: docs.set("g", id, {**VALUE, "at": time.time()}))
                else:
                    async with redis_py.Redis.from_url(server.url) as client:
                        script = client.register_script(SCRIPT)
                        await _pace(
                            lambda id: script(
                                keys=["{d}h", "{d}l"], args=[id, orjson.dumps({**VALUE, "at": time.time()})]
                            )
                        )
                delays = [float(await other.stdout.readline()) for _ in range(PACED)]
            finally:
                other.kill()
                await other.wait()
        return statistics.quantiles(delays, n=1_000)[int(share * 1_000) - 1]

    return measured


async def _pace(write: Any) -> None:
    for number in range(PACED):
        await write(f"{number % 20}")
        await asyncio.sleep(0.002)


def _here() -> bool:
    try:
        Redis()._command()
    except Missing:
        return False
    return True


ROWS = (
    [
        Row(
            "redis set, 50 tasks",
            "writes/s",
            {"stream.set": _set_ours(False), "redis-py, bare script": _set_bare(False)},
            "stream.set",
            "1.5x",
            "3x",
        ),
        Row(
            "redis set, sequential, p50",
            "microseconds",
            {"stream.set": _set_ours(True), "redis-py, bare script": _set_bare(True)},
            "stream.set",
            "1.25x",
            "1.1x",
            more_is_better=False,
        ),
        Row(
            "redis update of one hot item, 50 tasks",
            "updates/s",
            {"stream.update": _updates_ours},
            "stream.update",
            "none",
            "none",
        ),
        Row(
            "redis events consumed (decoded, typed)",
            "events/s",
            {"adapter.watch": _read_ours, "redis-py, XREAD count 1000": _read_bare},
            "adapter.watch",
            "0.5x",
            "0.7x",
        ),
        *(
            Row(
                f"redis set to subscriber in another process, p{round(share * 100)}",
                "ms",
                {"stream.watch": _delay(share, True), "redis-py, bare XREAD": _delay(share, False)},
                "stream.watch",
                f"{floor}x",
                f"{goal}x",
                more_is_better=False,
            )
            for share, floor, goal in ((0.5, 1.25, 1.1), (0.99, 1.5, 1.25))
        ),
    ]
    if _here()
    else []
)
