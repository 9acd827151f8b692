"""In one process: dispatch to subscribers, uninterested subscribers, schema checks."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import jsonschema

from benchmarks.rows import Row, document
from motia_core.adapter import StorageSettings
from motia_core.hub import Hub
from motia_core.memory import MemoryAdapter
from motia_core.model import StreamSpec
from motia_core.schema import compile_schema
from motia_core.streams import Stream
from motia_core.values import encode

SUBSCRIBERS = 1_000
CHANGES = 500
SPEC = StreamSpec("documents")
SCHEMA = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "title": {"type": "string", "maxLength": 200},
        "content": {"type": "string"},
        "authorId": {"type": "string"},
        "updatedAt": {"type": "number"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "meta": {"type": "object", "properties": {"views": {"type": "integer"}, "rating": {"type": "number"}}},
    },
    "required": ["id", "title"],
}


class _World:
    async def __aenter__(self) -> _World:
        self.adapter = MemoryAdapter(StorageSettings("default"))
        await self.adapter.open()
        self.hub = Hub(self.adapter, SPEC)
        self.docs: Stream[dict[str, Any]] = Stream(SPEC, self.adapter, self.hub)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.hub.close()
        await self.adapter.close()


async def _feed(world: _World) -> None:
    for number in range(0, CHANGES, 50):
        async with world.docs.batch() as batch:
            for part in range(50):
                batch.set("g", f"{number + part}", {"n": number})


async def _read() -> float:
    async with _World() as world:
        joined = asyncio.Semaphore(0)

        async def read() -> None:
            async with world.docs.watch("g") as watch:
                await anext(watch)
                joined.release()
                seen = 0
                async for _ in watch:
                    seen += 1
                    if seen == CHANGES:
                        return

        tasks = [asyncio.create_task(read()) for _ in range(SUBSCRIBERS)]
        for _ in tasks:
            await joined.acquire()
        started = time.perf_counter()
        await _feed(world)
        await asyncio.gather(*tasks)
        return SUBSCRIBERS * CHANGES / (time.perf_counter() - started)


async def _queues() -> float:
    queues: list[asyncio.Queue[Any]] = [asyncio.Queue() for _ in range(SUBSCRIBERS)]

    async def read(queue: asyncio.Queue[Any]) -> None:
        for _ in range(CHANGES):
            await queue.get()

    tasks = [asyncio.create_task(read(queue)) for queue in queues]
    await asyncio.sleep(0)
    started = time.perf_counter()
    async with _World() as world:
        for start in range(0, CHANGES, 50):
            await _feed_one(world, start)
            for number in range(50):
                for queue in queues:
                    await queue.put(number)
    await asyncio.gather(*tasks)
    return SUBSCRIBERS * CHANGES / (time.perf_counter() - started)


async def _feed_one(world: _World, number: int) -> None:
    async with world.docs.batch() as batch:
        for part in range(50):
            batch.set("g", f"{number + part}", {"n": number})


class _Counting:
    """The least a subscriber can be: a callback."""

    def __init__(self, goal: int, done: asyncio.Semaphore) -> None:
        self._left = goal
        self._done = done

    def push(self, run: Any) -> None:
        self._left -= len(run.changes)
        if not self._left:
            self._done.release()

    replay = push

    def sync(self, member: Any, snapshot: Any, reason: Any) -> None: ...

    def trim(self, member: Any, floor: Any) -> bool:
        return False

    def failed(self, member: Any, error: Any) -> None: ...


async def _callbacks() -> float:
    async with _World() as world:
        done = asyncio.Semaphore(0)
        for _ in range(SUBSCRIBERS):
            await world.hub.join(_Counting(CHANGES, done), "g")
        started = time.perf_counter()
        await _feed(world)
        for _ in range(SUBSCRIBERS):
            await done.acquire()
        return SUBSCRIBERS * CHANGES / (time.perf_counter() - started)


async def _uninterested(others: int) -> float:
    async with _World() as world:
        watches = [world.docs.watch(f"other-{number}") for number in range(others)]
        for watch in watches:
            await anext(watch)
        mine = world.docs.watch("mine")
        await anext(mine)
        started = time.perf_counter()
        for number in range(3_000):
            await world.docs.set("mine", "x", {"n": number})
            await anext(mine)
        elapsed = time.perf_counter() - started
        await mine.aclose()
        return elapsed / 3_000 * 1e6


def _checked(check: Any, value: Any) -> Any:
    async def run() -> float:
        encoded = encode(value)
        started = time.perf_counter()
        for _ in range(20_000):
            check(value, encoded)
        return (time.perf_counter() - started) / 20_000 * 1e6

    return run


def _pure() -> Any:
    validator = jsonschema.Draft202012Validator(SCHEMA)
    value = document(1024)

    async def run() -> float:
        started = time.perf_counter()
        for _ in range(500):
            validator.validate(value)
        return (time.perf_counter() - started) / 500 * 1e6

    return run


ROWS = [
    Row(
        "in-process, 1,000 subscribers",
        "deliveries/s",
        {
            "hub to callbacks": _callbacks,
            "stream.watch, read one by one": _read,
            "asyncio.Queue each": _queues,
        },
        "hub to callbacks",
        "10x",
        "25x",
    ),
    Row(
        "a change's cost as uninterested subscribers grow",
        "microseconds a change",
        {"10,000 uninterested": lambda: _uninterested(10_000), "10 uninterested": lambda: _uninterested(10)},
        "10,000 uninterested",
        "flat",
        "flat",
        more_is_better=False,
        rounds=3,
    ),
    Row(
        "schema check of 1 KB",
        "microseconds",
        {
            "ours": _checked(compile_schema("documents", SCHEMA), document(1024)),
            "jsonschema (pure Python)": _pure(),
        },
        "ours",
        "<= 5 microseconds",
        "<= 2 microseconds",
        more_is_better=False,
    ),
]
