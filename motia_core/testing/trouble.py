"""Clauses B, C and F under a load, while the store restarts and connections break (RELIABILITY rows 1 and 2)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from motia_core.errors import BackendError, BackendUnavailable, OutcomeUnknown
from motia_core.model import StreamSpec
from motia_core.streams import Stream
from motia_core.testing.harness import DEADLINE, Cannot, Reader, World, eventually, read_log
from motia_core.testing.history import check_history, is_coalesced
from motia_core.testing.suite import Suite

SPEC = StreamSpec("documents")
WRITERS = 6


@dataclass(slots=True)
class Outcome:
    """What came of a load; ``wrong`` is empty if nothing was lost, repeated, reordered or stale."""

    wrong: list[str]
    acknowledged: int
    unknown: int
    """Writes whose callers were told that their fate is not known."""
    converged: list[float] = field(default_factory=list)
    """Seconds from the end of each trouble until the subscriber had a write that was made after it."""


class _Load:
    """Writers that each set an item of their own, and note what was acknowledged; an outage is tried again."""

    def __init__(self, docs: Stream[dict[str, Any]]) -> None:
        self.acknowledged: dict[str, tuple[str, int]] = {}
        """Position, with the item and its value."""
        self.unknown = 0
        self._docs = docs
        self._stop = False
        self._tasks = [asyncio.create_task(self._write(f"{number}")) for number in range(WRITERS)]

    async def _write(self, id: str) -> None:
        turn = 0
        while not self._stop:
            turn += 1
            try:
                result = await self._docs.set("g", id, {"n": turn})
                self.acknowledged[result.position] = (id, turn)
            except OutcomeUnknown:
                self.unknown += 1
            except BackendError:
                await asyncio.sleep(0.005)

    async def more(self, count: int) -> None:
        """Wait for so many more acknowledged writes."""
        goal = len(self.acknowledged) + count

        async def reached() -> bool:
            broken = [task for task in self._tasks if task.done()]
            for task in broken:
                task.result()
            return len(self.acknowledged) >= goal

        await eventually(reached, f"{count} more acknowledged writes")

    async def stop(self) -> None:
        self._stop = True
        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(*self._tasks)


async def endure(world: World, trouble: Callable[[], Awaitable[None]], *, rounds: int, writes: int) -> Outcome:
    """Write at full speed, make trouble ``rounds`` times with so many acknowledged ``writes`` before each, and judge.

    Raises what ``trouble`` raises.
    """
    docs = await world.stream()
    adapter = docs.hub.adapter
    theirs = await world.stream() if docs.capabilities.multi_process else docs
    start = await adapter.head(SPEC)
    reader = Reader(theirs.watch("g"))
    await reader.count(1)
    load = _Load(docs)
    converged = []
    try:
        for _ in range(rounds):
            await load.more(writes)
            await trouble()
            since = time.monotonic()
            await load.more(1)
            await reader.until(partial(_reaches, max(load.acknowledged)))
            converged.append(time.monotonic() - since)
        await load.more(writes)
        await load.stop()
        end = (await docs.set("g", "end", {})).position
        seen = await reader.until(partial(_reaches, end))
    finally:
        await load.stop()
        await reader.stop()
    wrong = [] if [entry.type for entry in seen].count("sync") == 1 else ["a new sync that was not called for"]
    stored = await adapter.snapshot(SPEC, "g", None, limit=None)
    final = {("g", item.id): item.value for item in stored.items}
    for who, changes in (("the log", await read_log(adapter, SPEC, start)), ("the subscriber", seen[1:])):
        verdict = check_history(changes, final, coalesced=is_coalesced(docs))
        wrong += [] if verdict else [f"{who}: {verdict}"]
        if is_coalesced(docs):
            continue
        told = {change.position: (change.id, change.data.get("n")) for change in changes}
        lost = [entry for entry in load.acknowledged.items() if told.get(entry[0]) != entry[1]]
        wrong += [f"{who} has lost {len(lost)} acknowledged writes: {lost[:5]}"] if lost else []
        if len(told) > len(load.acknowledged) + load.unknown + 1:
            wrong.append(f"{who} has {len(told)} changes of {len(load.acknowledged)} writes and {load.unknown} unknown")
    for id, number in dict(load.acknowledged.values()).items():
        if final["g", id]["n"] < number:
            wrong.append(f"item {id} is stale: {final['g', id]['n']} after {number}")
    return Outcome(wrong, len(load.acknowledged), load.unknown, converged)


def _reaches(position: str, seen: list[Any]) -> bool:
    return bool(seen[-1].position >= position)


class Trouble(Suite):
    """Outages, under a load and without (SEMANTICS B1, B3, C6, F1, F2)."""

    async def test_B1_restarts_under_load_lose_nothing_that_was_acknowledged(self, world: World) -> None:
        docs = await world.stream()
        if not docs.capabilities.durable:
            pytest.skip("the store is declared not to be durable")
        try:
            outcome = await endure(world, world.harness.restart, rounds=3, writes=60)
        except Cannot as reason:
            pytest.skip(str(reason))
        assert outcome.wrong == []

    async def test_B3_cut_connections_lose_nothing(self, world: World) -> None:
        try:
            outcome = await endure(world, world.harness.cut, rounds=8, writes=20)
        except Cannot as reason:
            pytest.skip(str(reason))
        assert outcome.wrong == []

    async def test_F1_a_store_that_is_away_fails_in_time_and_comes_back(self, world: World) -> None:
        """Every call says so by an error of this project that names the store; nothing hangs, and watches heal."""
        docs = await world.stream()
        adapter = docs.hub.adapter
        await docs.set("g", "x", {"n": 1})
        reader = Reader(docs.watch("g"))
        await reader.count(1)
        calls: list[Callable[[], Awaitable[Any]]] = [
            lambda: docs.get("g", "x"),
            lambda: docs.list("g"),
            docs.list_groups,
            lambda: docs.set("g", "lost", {"n": 2}),
            lambda: docs.update("g", "x", [{"type": "increment", "path": "n", "by": 0}]),
            lambda: adapter.snapshot(SPEC, "g", None, limit=None),
            lambda: adapter.head(SPEC),
            world.adapter,
        ]
        try:
            async with world.harness.away(), asyncio.timeout(2 * DEADLINE):
                for _ in range(2):  # the second time everybody knows already
                    errors = await asyncio.gather(*(call() for call in calls), return_exceptions=True)
                    for number, error in enumerate(errors):
                        assert type(error) in (BackendUnavailable, OutcomeUnknown), f"call {number}: {error!r}"
                        assert adapter.address in str(error), f"the error does not say where: {error}"
        except Cannot as reason:
            await reader.stop()
            pytest.skip(str(reason))

        async def written() -> bool:
            try:
                await docs.set("g", "back", {"n": 3})
            except BackendError:
                return False
            return True

        await eventually(written, "the store to be used again")
        await reader.until(lambda seen: any(entry.id == "back" for entry in seen))
        await reader.stop()
        assert [entry.type for entry in reader.seen].count("sync") == 1
        assert ((await docs.get("g", "x")) or {})["n"] == 1
