"""Rows 1, 2, 7, 9 and 10 on every backend whose harness can break it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from motia_core.model import StreamSpec
from motia_core.testing import Cannot, Harness, Reader, World, world
from motia_core.testing.trouble import Outcome, endure

from ..conformance.backends.serving import stop_all
from ..conformance.conftest import BACKENDS
from .figures import Figures, bounded, scaled

pytestmark = pytest.mark.chaos

SPEC = StreamSpec("documents")

__all__ = ["world"]


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name)
async def harness(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Harness, None]:
    harness = request.param(tmp_path)
    await harness.start()
    yield harness
    await harness.stop()


@pytest.fixture(scope="module", autouse=True)
def _servers() -> Any:
    yield
    stop_all()


def _add(figures: Figures, outcome: Outcome) -> None:
    figures.add(acknowledged=outcome.acknowledged, without_an_answer=outcome.unknown)
    figures.spread("up to date after a return", outcome.converged)
    assert outcome.wrong == []


@bounded
async def test_row_1_restarts_under_acknowledged_writes(world: World, figures: Figures) -> None:
    if not (await world.stream()).capabilities.durable:
        pytest.skip("the store is declared not to be durable")
    rounds = scaled(20, least=2)
    try:
        _add(figures, await endure(world, world.harness.restart, rounds=rounds, writes=500))
    except Cannot as reason:
        pytest.skip(str(reason))


@bounded
async def test_row_2_cut_connections(world: World, figures: Figures) -> None:
    rounds = scaled(50, least=5)
    try:
        _add(figures, await endure(world, world.harness.cut, rounds=rounds, writes=100))
    except Cannot as reason:
        pytest.skip(str(reason))


@bounded
async def test_row_7_joins_during_writes(world: World, figures: Figures) -> None:
    docs = await world.stream()
    theirs = await world.stream() if docs.capabilities.multi_process else docs
    if docs.capabilities.history.level != "full":
        pytest.skip("what a coalesced log tells is judged by the suite")
    written, stop = 0, False

    async def write(number: int) -> None:
        nonlocal written
        while not stop:
            await docs.set("g", f"{number}", {"n": written})
            written += 1
            await asyncio.sleep(0.008)

    begun = time.monotonic()
    writers = [asyncio.create_task(write(number)) for number in range(4)]
    readers: list[Reader] = []
    joins = scaled(2_000, least=50)
    for _ in range(joins):
        readers.append(Reader(theirs.watch("g")))
        await readers[-1].count(1)
        await asyncio.sleep(0.002)
        if len(readers) > 100:
            await readers.pop(0).stop()
    stop = True
    await asyncio.gather(*writers)
    seconds = time.monotonic() - begun
    figures.add(joins=joins, joins_a_second=joins / seconds, writes_a_second=written / seconds)
    last = await docs.set("g", "last", {"n": -1})
    stored = await docs.hub.adapter.snapshot(SPEC, "g", None, limit=None)
    final = {("g", item.id): item.value for item in stored.items}
    for reader in readers:
        seen = await reader.until(lambda seen: seen[-1].position >= last.position)
        await reader.stop()
        assert [entry.type for entry in seen].count("sync") == 1
        assert seen[0].type == "sync"
        positions = [entry.position for entry in seen]
        assert positions == sorted(set(positions))
        ends = {entry.id: entry.data for entry in seen[1:]}
        assert all(final["g", id] == data for id, data in ends.items())


@bounded
async def test_row_9_increments_of_many_writers(world: World, figures: Figures) -> None:
    first = await world.stream()
    several = bool(first.capabilities.multi_process)
    streams = [first, *[await world.stream() for _ in range(3 if several else 0)]]
    writers, count = 64, scaled(1_000 if first.capabilities.tested_items >= 100_000 else 50, least=5)

    async def work(number: int) -> None:
        for _ in range(count):
            operation = {"type": "increment", "path": "n", "by": 1}
            await streams[number % len(streams)].update("g", "counter", [operation])

    begun = time.monotonic()
    await asyncio.gather(*(work(number) for number in range(writers)))
    figures.add(increments=writers * count, clients=len(streams))
    figures.add(increments_a_second=writers * count / (time.monotonic() - begun))
    assert (await first.get("g", "counter") or {})["n"] == writers * count


@bounded
async def test_row_10_racing_creates(world: World, figures: Figures) -> None:
    first = await world.stream()
    streams = [first, *[await world.stream() for _ in range(7 if first.capabilities.multi_process else 0)]]
    keys = scaled(1_000 if first.capabilities.tested_items >= 100_000 else 100, least=10)
    created: Counter[str] = Counter()

    async def create(number: int, key: str) -> None:
        result = await streams[number % len(streams)].set("g", key, {"n": number})
        created[key] += result.type == "create"

    begun = time.monotonic()
    for start in range(0, keys, 10):
        await asyncio.gather(*(create(n, f"{key}") for key in range(start, min(start + 10, keys)) for n in range(8)))
    figures.add(keys=keys, writers=8, sets_a_second=8 * keys / (time.monotonic() - begun))
    assert created == Counter({f"{key}": 1 for key in range(keys)})
