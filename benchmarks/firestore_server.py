"""Firestore, on Google's emulator: ``stream.set``, delay and catching up beside the bare driver."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import orjson
from google.auth.credentials import AnonymousCredentials
from google.cloud import firestore

from benchmarks.rows import Row, document
from motia_core import Motia, StreamConfig
from motia_core.model import StreamSpec
from motia_core.streams import Stream
from motia_core.testing.servers import Firestore, Missing

WRITES = 400
PACED = 200
CHANGES = 1_000
PROJECT = "demo-motia"
VALUE = document(256)


@asynccontextmanager
async def _server() -> AsyncIterator[str]:
    server = Firestore()
    await server.start()
    try:
        yield server.url.removeprefix("http://")
    finally:
        await server.kill()
        await server.stop()


@asynccontextmanager
async def _ours() -> AsyncIterator[Any]:
    async with _server() as address:
        storage = {"default": {"adapter": "firestore", "project": PROJECT, "emulator": address}}
        async with Motia(streams=[StreamConfig("documents")], storage=storage) as motia:
            yield motia.streams["documents"]


@asynccontextmanager
async def _bare(kind: Any) -> AsyncIterator[Any]:
    async with _server() as address:
        os.environ["FIRESTORE_EMULATOR_HOST"] = address
        anonymous: Any = AnonymousCredentials
        try:
            yield kind(project=PROJECT, credentials=anonymous())
        finally:
            del os.environ["FIRESTORE_EMULATOR_HOST"]


def _batch(client: Any, seq: int, id: str, json: str) -> Any:
    """An item and its entry in a log, in one commit: nothing checks that no one else was there."""
    batch = client.batch()
    batch.set(client.document("groups", "g", "items", id), {"group": "g", "id": id, "json": json})
    batch.set(client.document("log", f"{seq:013x}"), {"seq": seq, "group": "g", "id": id, "json": json})
    return batch.commit()


async def _p50(write: Callable[[int], Awaitable[object]]) -> float:
    """Milliseconds that a write takes, in the middle."""
    taken = []
    for turn in range(WRITES):
        began = time.perf_counter()
        await write(turn)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[WRITES // 4 :]) * 1e3


async def _set_ours() -> float:
    async with _ours() as docs:
        return await _p50(lambda turn: docs.set("g", f"{turn % 20}", VALUE))


async def _set_bare() -> float:
    json = orjson.dumps(VALUE).decode()
    async with _bare(firestore.AsyncClient) as client:
        return await _p50(lambda turn: _batch(client, turn, f"{turn % 20}", json))


@asynccontextmanager
async def _subscriber(docs: Stream[Any]) -> AsyncIterator[asyncio.Queue[float]]:
    """A subscriber of a group, who has had its sync: when it is told of each change."""
    heard: asyncio.Queue[float] = asyncio.Queue()

    async def listen() -> None:
        async with docs.watch("g") as watch:
            async for _ in watch:
                heard.put_nowait(time.perf_counter())

    task = asyncio.create_task(listen())
    await heard.get()
    yield heard
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _delay_ours() -> float:
    """Milliseconds from the return of a write to its arrival at a subscriber, in the middle."""
    async with _ours() as docs, _subscriber(docs) as heard:
        return await _paced(lambda turn: docs.set("g", f"{turn % 20}", VALUE), heard)


async def _delay_bare() -> float:
    json = orjson.dumps(VALUE).decode()
    loop = asyncio.get_running_loop()
    heard: asyncio.Queue[float] = asyncio.Queue()
    async with _bare(firestore.Client) as client:
        newest = client.collection("log").order_by("seq", direction="DESCENDING").limit(1)

        def told(documents: Any, changes: Any, at: Any) -> None:
            loop.call_soon_threadsafe(heard.put_nowait, time.perf_counter())

        watch = newest.on_snapshot(told)
        await heard.get()
        writer: Any = firestore.AsyncClient(project=PROJECT, credentials=client._credentials)
        delays = await _paced(lambda turn: _batch(writer, turn, f"{turn % 20}", json), heard)
        watch.unsubscribe()
    return delays


async def _paced(write: Callable[[int], Awaitable[object]], heard: asyncio.Queue[float]) -> float:
    delays = []
    for turn in range(PACED):
        began = time.perf_counter()
        await write(turn)
        delays.append(await heard.get() - began)
        await asyncio.sleep(0.005)
    return statistics.median(delays[PACED // 4 :]) * 1e3


async def _catch_up_ours() -> float:
    """Milliseconds to read a thousand changes, each of a commit of its own."""
    async with _ours() as docs:
        adapter, spec = docs.hub.adapter, StreamSpec("documents")
        start = await adapter.head(spec)
        for number in range(CHANGES):
            await docs.set("g", f"{number}", VALUE)
        began, seen = time.perf_counter(), 0
        async with aclosing(adapter.watch(spec, start)) as batches:
            async for batch in batches:
                seen += sum(1 for change in batch.changes if change.data)
                if seen == CHANGES:
                    return (time.perf_counter() - began) * 1e3
    raise AssertionError


async def _catch_up_bare() -> float:
    json = orjson.dumps(VALUE).decode()
    async with _bare(firestore.AsyncClient) as client:
        for number in range(CHANGES):
            await _batch(client, number, f"{number}", json)
        began, seen = time.perf_counter(), 0
        async for found in client.collection("log").order_by("seq").stream():
            seen += bool(orjson.loads(found.get("json")))
        assert seen == CHANGES
        return (time.perf_counter() - began) * 1e3


def _here() -> bool:
    try:
        Firestore()._command()
    except Missing:
        return False
    return True


ROWS = (
    [
        Row(
            "firestore set, sequential, p50",
            "ms",
            {"stream.set": _set_ours, "bare batch of item and log": _set_bare},
            "stream.set",
            "2x",
            "1.2x",
            more_is_better=False,
            rounds=3,
        ),
        Row(
            "firestore set to subscriber, p50",
            "ms",
            {"stream.watch": _delay_ours, "bare newest-1 on_snapshot": _delay_bare},
            "stream.watch",
            "1.5x",
            "1x",
            more_is_better=False,
            rounds=3,
        ),
        Row(
            "firestore catch-up of 1,000 changes",
            "ms",
            {"adapter.watch": _catch_up_ours, "bare query of the log": _catch_up_bare},
            "adapter.watch",
            "2x",
            "1x",
            more_is_better=False,
            rounds=3,
        ),
    ]
    if _here()
    else []
)
