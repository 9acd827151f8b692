"""SQLite: ``stream.set`` beside a bare group-commit loop, and what a large stream costs."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import threading
import time
from collections import deque
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from benchmarks.rows import Row, document
from motia_core import Motia, StreamConfig

TASKS = 50
WRITES = 12_000
VALUE = document(256)


class BareLoop:
    """The least that stores an item and its event durably from asyncio: one thread, group commit."""

    def __init__(self, path: Path) -> None:
        self._queue: deque[tuple[str, bytes, asyncio.Future[None]]] = deque()
        self._bell = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._path = path
        self._stop = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    async def set(self, id: str, value: dict[str, Any]) -> None:
        future = self._loop.create_future()
        self._queue.append((id, orjson.dumps(value), future))
        self._bell.set()
        await future

    def close(self) -> None:
        self._stop = True
        self._bell.set()
        self._thread.join()

    def _run(self) -> None:
        db = sqlite3.connect(self._path, isolation_level=None)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute("CREATE TABLE items (grp TEXT, id TEXT, json BLOB, PRIMARY KEY (grp, id)) WITHOUT ROWID")
        db.execute("CREATE TABLE log (seq INTEGER PRIMARY KEY, grp TEXT, id TEXT, json BLOB, ts REAL)")
        while not self._stop:
            self._bell.wait()
            self._bell.clear()
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(len(self._queue), 256))]
                db.execute("BEGIN IMMEDIATE")
                for id, json, _ in batch:
                    db.execute("SELECT json FROM items WHERE grp=? AND id=?", ("g", id)).fetchone()
                    db.execute("INSERT OR REPLACE INTO items VALUES (?,?,?)", ("g", id, json))
                    db.execute("INSERT INTO log (grp, id, json, ts) VALUES (?,?,?,?)", ("g", id, json, time.time()))
                db.execute("COMMIT")
                self._loop.call_soon_threadsafe(self._done, [future for _, _, future in batch])
        db.close()

    @staticmethod
    def _done(futures: list[asyncio.Future[None]]) -> None:
        for future in futures:
            future.set_result(None)


async def _many(write: Any, tasks: int, total: int) -> float:
    async def work(number: int) -> None:
        for turn in range(total // tasks):
            await write(f"{number}-{turn % 20}", VALUE)

    await asyncio.gather(*(work(number) for number in range(tasks)))  # warm
    started = time.perf_counter()
    await asyncio.gather(*(work(number) for number in range(tasks)))
    return total / (time.perf_counter() - started)


@asynccontextmanager
async def _motia(**options: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        storage = {"default": {"adapter": "sqlite", "path": f"{folder}/bench.db", **options}}
        async with Motia(streams=[StreamConfig("documents")], storage=storage) as motia:
            yield motia.streams["documents"]


async def _ours(tasks: int, total: int, *, watched: bool = False) -> float:
    async with _motia() as docs:
        reader = asyncio.create_task(_drain(docs)) if watched else None
        try:
            return await _many(lambda id, value: docs.set("g", id, value), tasks, total)
        finally:
            if reader:
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)


async def _drain(docs: Any) -> None:
    async for _ in docs.watch("g"):
        pass


async def _bare(tasks: int, total: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        loop = BareLoop(Path(folder) / "bare.db")
        try:
            return await _many(loop.set, tasks, total)
        finally:
            loop.close()


class _Sizes:
    """Cost of get, set and join in a stream of few and of many items elsewhere."""

    SMALL, LARGE = 1_000, 1_000_000

    @staticmethod
    async def cost(items: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            storage = {"default": {"adapter": "sqlite", "path": f"{folder}/big.db", "retention": {"count": 1000}}}
            async with Motia(streams=[StreamConfig("documents")], storage=storage) as motia:
                docs = motia.streams["documents"]
                for start in range(0, items, 1000):
                    async with docs.batch() as batch:
                        for number in range(start, start + 1000):
                            batch.set(f"group-{number % 1000}", str(number), {"n": number})
                for number in range(20):
                    await docs.set("mine", str(number), VALUE)
                started = time.perf_counter()
                for turn in range(300):
                    await docs.set("mine", str(turn % 20), VALUE)
                    await docs.get("mine", str(turn % 20))
                    watch = docs.watch("mine")
                    await anext(watch)
                    await watch.aclose()
                return (time.perf_counter() - started) / 300 * 1e6


ROWS = [
    Row(
        "sqlite set, 50 tasks",
        "writes/s",
        {
            "stream.set": lambda: _ours(TASKS, WRITES),
            "stream.set, with a subscriber": lambda: _ours(TASKS, WRITES, watched=True),
            "bare group-commit loop": lambda: _bare(TASKS, WRITES),
        },
        "stream.set",
        "0.6x",
        "0.8x",
    ),
    Row(
        "sqlite set, 1 task",
        "writes/s",
        {"stream.set": lambda: _ours(1, 3_000), "bare group-commit loop": lambda: _bare(1, 3_000)},
        "stream.set",
        "none",
        "none",
    ),
    Row(
        "set + get + join as the stream grows, sqlite",
        "microseconds a turn",
        {
            "1,000,000 items": lambda: _Sizes.cost(_Sizes.LARGE),
            "1,000 items": lambda: _Sizes.cost(_Sizes.SMALL),
        },
        "1,000,000 items",
        "flat",
        "flat",
        more_is_better=False,
        rounds=1,
    ),
]
