"""What the tests of durable triggers share: storages, processes, handlers that remember."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from motia_adapters.sqlite.adapter import SqliteAdapter
from motia_adapters.sqlite.options import SqliteOptions

from motia_core.adapter import Adapter, Retention, StorageSettings
from motia_core.memory import MemoryAdapter, MemoryStore
from motia_core.model import Change, StreamSpec, Write
from motia_core.triggers import Report, RunInfo, Runner, Trigger
from motia_core.values import encode_object

DOCS = StreamSpec("docs")
DEADLINE = 30.0


class World:
    """One store, and the processes that share it."""

    def __init__(self, kind: str, path: Path, stack: AsyncExitStack) -> None:
        self.kind = kind
        self._path = path
        self._stack = stack
        self.store = MemoryStore()
        self.retention = Retention()
        self.reports: list[Report] = []
        self.adapter: Adapter

    async def client(self) -> Adapter:
        """Another client of the store."""
        settings = StorageSettings("default", retention=self.retention)
        adapter: Adapter
        if self.kind == "memory":
            adapter = MemoryAdapter(settings, self.store)
        else:
            adapter = SqliteAdapter(settings, SqliteOptions(path=self._path / "test.db"))
        await adapter.open()
        self._stack.push_async_callback(adapter.close)
        await adapter.prepare(DOCS)
        return adapter

    async def run(self, *triggers: Trigger, lease: float = 1.0, adapter: Adapter | None = None) -> Runner:
        """A worker that runs these."""
        runner = Runner(adapter or await self.client(), triggers, lease=lease, report=self.reports.append)
        await runner.start()
        self._stack.push_async_callback(runner.abort)
        return runner

    async def put(self, item: str, value: dict[str, Any], group: str = "g") -> str:
        """Change an item; returns the position."""
        (result,) = await self.adapter.write(DOCS, [Write("set", group, item, encode_object(value))])
        assert result is not None
        return result.position

    def kinds(self) -> list[str]:
        return [report.kind for report in self.reports]


class Seen:
    """A handler that remembers, and does as it is told."""

    def __init__(self) -> None:
        self.runs: list[tuple[str | None, Any, int]] = []
        """Item, value, attempt."""
        self.infos: list[RunInfo] = []
        self.act: Callable[[Change, RunInfo], Awaitable[None]] | None = None

    async def __call__(self, change: Change, info: RunInfo) -> None:
        self.runs.append((change.id, change.data, info.attempt))
        self.infos.append(info)
        if self.act is not None:
            await self.act(change, info)

    def values(self, item: str | None = None) -> list[Any]:
        return [value.get("n") for id, value, _ in self.runs if item is None or id == item]


def trigger(handle: Callable[[Change, RunInfo], Awaitable[None]], name: str = "step", **options: Any) -> Trigger:
    """A trigger on the documents."""
    options.setdefault("backoff", 0.05)
    options.setdefault("attempts", 3)
    options.setdefault("partitions", 4)
    return Trigger(key=(name, "stream", "docs", "0"), stream=DOCS, handle=handle, **options)


async def until(condition: Callable[[], Any]) -> None:
    """Wait for it, with a generous deadline."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def until_async(condition: Callable[[], Awaitable[Any]]) -> Any:
    """Wait for it, with a generous deadline."""
    async with asyncio.timeout(DEADLINE):
        while not (found := await condition()):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        return found


@pytest.fixture(params=["memory", "sqlite"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        made = World(request.param, tmp_path, stack)
        made.adapter = await made.client()
        yield made
