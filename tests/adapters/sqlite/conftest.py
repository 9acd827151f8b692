"""What the tests of the SQLite adapter share."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from motia_adapters.sqlite.adapter import SqliteAdapter
from motia_adapters.sqlite.options import SqliteOptions

from motia_core.adapter import Retention, StorageSettings
from motia_core.model import Change, StreamSpec, Write, WriteResult
from motia_core.operations import parse
from motia_core.values import encode, encode_object

DOCS = StreamSpec("docs")
DEADLINE = 20.0


class Watching:
    """A watch that collects in the background."""

    def __init__(self, adapter: SqliteAdapter, after: str, spec: StreamSpec = DOCS) -> None:
        self.changes: list[Change] = []
        self.position = after
        self.batches = 0
        self.ended = False
        self.error: Exception | None = None
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._run(adapter, spec, after))

    async def _run(self, adapter: SqliteAdapter, spec: StreamSpec, after: str) -> None:
        try:
            async with contextlib.aclosing(adapter.watch(spec, after)) as watch:
                async for batch in watch:
                    self.changes += batch.changes
                    self.position = batch.position
                    self.batches += 1
                    self._news.set()
        except Exception as error:
            self.error = error
        self.ended = True
        self._news.set()

    async def until(self, true: Callable[[Watching], Any]) -> Watching:
        """Wait for a condition; an end without it is an error."""
        async with asyncio.timeout(DEADLINE):
            while not true(self):
                assert not self.ended, f"watch ended: {self.error!r}"
                self._news.clear()
                await self._news.wait()
        return self

    async def failed(self) -> Exception:
        """Wait for the error that ends it."""
        async with asyncio.timeout(DEADLINE):
            await self._task
        assert self.error is not None, "watch ended without an error"
        return self.error

    async def end(self) -> None:
        """Wait until it ends without an error."""
        async with asyncio.timeout(DEADLINE):
            await self._task
        assert self.error is None

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class Bench:
    """Adapters on one file, closed at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.adapters: list[SqliteAdapter] = []
        self.watches: list[Watching] = []

    def make(
        self,
        path: Path | None = None,
        *,
        timeout: float = 5.0,
        namespace: str = "motia",
        retention: Retention | None = None,
        **options: Any,
    ) -> SqliteAdapter:
        settings = StorageSettings("default", namespace, timeout, retention or Retention())
        adapter = SqliteAdapter(settings, SqliteOptions(path=str(path or self.path), **options))
        self.adapters.append(adapter)
        return adapter

    async def open(self, path: Path | None = None, **options: Any) -> SqliteAdapter:
        adapter = self.make(path, **options)
        await adapter.open()
        return adapter

    async def watch(self, adapter: SqliteAdapter, after: str | None = None, spec: StreamSpec = DOCS) -> Watching:
        """A watch that has begun."""
        watching = Watching(adapter, after if after is not None else await adapter.head(spec), spec)
        self.watches.append(watching)
        return await watching.until(lambda w: w.batches)

    def refused(self, adapter: SqliteAdapter, after: str) -> Watching:
        """A watch that is expected to fail."""
        watching = Watching(adapter, after)
        self.watches.append(watching)
        return watching

    async def close(self) -> None:
        for watching in self.watches:
            await watching.stop()
        for adapter in self.adapters:
            await adapter.close()


def put(group: str, id: str, value: dict[str, Any], **options: Any) -> Write:
    return Write("set", group, id, encode_object(value), **options)


def change(group: str, id: str, *operations: dict[str, Any], **options: Any) -> Write:
    return Write("update", group, id, operations=parse(list(operations)), finish=encode, **options)


def remove(group: str, id: str, **options: Any) -> Write:
    return Write("delete", group, id, **options)


async def write(adapter: SqliteAdapter, one: Write, spec: StreamSpec = DOCS) -> WriteResult:
    """Do one write that does something."""
    (result,) = await adapter.write(spec, [one])
    assert result is not None
    return result


def adapter_threads() -> list[str]:
    """Threads of adapters that live."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("motia-sqlite")]


class Words:
    """The functions above, for test modules (which cannot import this one)."""

    DOCS = DOCS
    DEADLINE = DEADLINE
    put = staticmethod(put)
    change = staticmethod(change)
    remove = staticmethod(remove)
    write = staticmethod(write)
    adapter_threads = staticmethod(adapter_threads)


@pytest.fixture
def words() -> type[Words]:
    return Words


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path / "streams.db")
    yield bench
    await bench.close()
    assert adapter_threads() == []


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Callable[[], sqlite3.Connection]]:
    """Opens plain connections to the file, as any other program would."""
    connections: list[sqlite3.Connection] = []

    def connect(path: Path | None = None) -> sqlite3.Connection:
        connection = sqlite3.connect(path or tmp_path / "streams.db", isolation_level=None, timeout=10)
        connections.append(connection)
        return connection

    yield connect
    for connection in connections:
        connection.close()


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts ``child.py``, another process that writes to a file."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("child.py")), str(tmp_path / "streams.db"), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
