"""Firestore, an application's own documents: beside the bare driver, and what a change costs in documents read.

Delays are taken behind the stand-in that listens as Google's own service does, ours and the bare driver's alike: the
emulator tells every document anew at each change.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from google.auth.credentials import AnonymousCredentials
from google.cloud import firestore
from motia_adapters.firestore.adapter import FirestoreAdapter
from motia_adapters.firestore.options import FirestoreOptions, MappedOptions

from benchmarks.firestore_server import CHANGES, PROJECT, VALUE, _here, _p50, _paced, _server, _subscriber
from benchmarks.rows import Row
from motia_core.adapter import StorageSettings
from motia_core.hub import Hub
from motia_core.model import StreamSpec
from motia_core.streams import Stream
from tests.standins import firestore as standins

SPEC = StreamSpec("documents")
PATH = "workspaces/{group}/documents/{id}"


@asynccontextmanager
async def _stream(address: str, *, mapped: bool = True, production: bool = False) -> AsyncIterator[Stream[Any]]:
    options = FirestoreOptions(
        project=PROJECT, emulator=address, poll=3_600.0, mapped=MappedOptions(path=PATH) if mapped else None
    )
    adapter = FirestoreAdapter(StorageSettings("default"), options)
    adapter._connection.is_emulated = not production
    await adapter.open()
    await adapter.prepare(SPEC)
    hub = Hub(adapter, SPEC)
    yield Stream(SPEC, adapter, hub)
    await hub.close()
    await adapter.close()


@asynccontextmanager
async def _standin() -> AsyncIterator[standins.Firestore]:
    async with _server() as address:
        standin = standins.Firestore(address)
        standin.start()
        yield standin
        standin.stop()


def _client(kind: Any, address: str) -> Any:
    os.environ["FIRESTORE_EMULATOR_HOST"] = address
    anonymous: Any = AnonymousCredentials
    try:
        client = kind(project=PROJECT, credentials=anonymous())
        _ = client._firestore_api  # it looks at the environment only now
        return client
    finally:
        del os.environ["FIRESTORE_EMULATOR_HOST"]


def _document(client: Any, id: str) -> Any:
    return client.document("workspaces", "g", "documents", id)


async def _set_ours() -> float:
    async with _server() as address, _stream(address) as docs:
        return await _p50(lambda turn: docs.set("g", f"{turn % 20}", {**VALUE, "turn": turn}))


async def _set_bare() -> float:
    async with _server() as address:
        client = _client(firestore.AsyncClient, address)
        return await _p50(lambda turn: _document(client, f"{turn % 20}").set({**VALUE, "turn": turn}))


async def _delay_ours() -> float:
    async with (
        _standin() as standin,
        _stream(f"127.0.0.1:{standin.port}", production=True) as docs,
        _subscriber(docs) as heard,
    ):
        return await _paced(lambda turn: docs.set("g", f"{turn % 20}", {**VALUE, "turn": turn}), heard)


async def _delay_bare() -> float:
    loop = asyncio.get_running_loop()
    heard: asyncio.Queue[float] = asyncio.Queue()
    async with _standin() as standin:
        address = f"127.0.0.1:{standin.port}"
        client, writer = _client(firestore.Client, address), _client(firestore.AsyncClient, address)

        def told(documents: Any, changes: Any, at: Any) -> None:
            loop.call_soon_threadsafe(heard.put_nowait, time.perf_counter())

        watch = client.collection("workspaces", "g", "documents").on_snapshot(told)
        await heard.get()
        delay = await _paced(lambda turn: _document(writer, f"{turn % 20}").set({**VALUE, "turn": turn}), heard)
        watch.unsubscribe()
    return delay


async def _catch_up_ours() -> float:
    """Milliseconds in which another process tells what a thousand documents have become."""
    async with _server() as address, _stream(address) as docs, _stream(address) as other:
        start = await docs.hub.adapter.head(SPEC)
        for number in range(CHANGES):
            await docs.set("g", f"{number}", VALUE)
        adapter, seen = other.hub.adapter, 0
        await adapter.head(SPEC)  # it listens
        began = time.perf_counter()
        async with aclosing(adapter.watch(SPEC, start)) as batches:
            async for batch in batches:
                seen += sum(1 for change in batch.changes if change.data)
                if seen == CHANGES:
                    return (time.perf_counter() - began) * 1e3
    raise AssertionError


async def _catch_up_bare() -> float:
    """What was there, and what is there now."""
    async with _server() as address:
        client = _client(firestore.AsyncClient, address)
        for number in range(CHANGES):
            await _document(client, f"{number}").set(VALUE)
        query = client.collection_group("documents")
        began, seen = time.perf_counter(), 0
        for _ in range(2):
            async for found in query.stream():
                seen += bool(found.to_dict())
        assert seen == 2 * CHANGES
        return (time.perf_counter() - began) * 1e3


async def _reads(mapped: bool, before: int) -> float:
    """Documents read for each change by a process that watches, after so many changes."""
    turns = 50
    async with (
        _standin() as standin,
        _stream(f"127.0.0.1:{standin.port}", mapped=mapped, production=True) as writer,
        _stream(f"127.0.0.1:{standin.port}", mapped=mapped, production=True) as docs,
    ):
        for number in range(before):
            await writer.set("g", f"{number % 20}", {**VALUE, "number": number})
        reads = 0
        async with _subscriber(docs) as heard:
            for turn in range(turns):
                before_write = standin.billed["reads"]
                await writer.set("g", "x", {"turn": turn})
                await heard.get()
                reads += standin.billed["reads"] - before_write
    return reads / turns


def _row(name: str, unit: str, subjects: Any, floor: str, goal: str) -> Row:
    return Row(name, unit, subjects, next(iter(subjects)), floor, goal, more_is_better=False, rounds=3)


ROWS = (
    [
        _row(
            "firestore mapped set, sequential, p50",
            "ms",
            {"stream.set": _set_ours, "bare document.set": _set_bare},
            "2x",
            "1.5x",
        ),
        _row(
            "firestore mapped set to subscriber, p50",
            "ms",
            {"stream.watch": _delay_ours, "bare on_snapshot": _delay_bare},
            "1.5x",
            "1x",
        ),
        _row(
            "firestore mapped catch-up of 1,000 documents",
            "ms",
            {"adapter.watch": _catch_up_ours, "bare queries, before and now": _catch_up_bare},
            "2x",
            "1x",
        ),
        _row(
            "firestore documents read per set and change, long log",
            "documents",
            {"after 1,000 changes": lambda: _reads(False, 1_000), "after 10 changes": lambda: _reads(False, 10)},
            "1.1x",
            "1x",
        ),
        _row(
            "firestore mapped documents read per set and change, long past",
            "documents",
            {"after 1,000 changes": lambda: _reads(True, 1_000), "after 10 changes": lambda: _reads(True, 10)},
            "1.1x",
            "1x",
        ),
    ]
    if _here()
    else []
)
