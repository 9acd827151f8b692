"""Clauses B9 and C2 by subscribers who go from one process to another, at any place, while all of them write."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Sequence
from contextlib import aclosing, suppress
from typing import Any

from motia_core.errors import Conflict
from motia_core.model import StreamSpec
from motia_core.streams import Stream
from motia_core.testing.harness import World
from motia_core.testing.suite import Suite

SPEC = StreamSpec("documents")
PROCESSES = 3
WALKERS = 3
NAMES = 400
"""Items come and go, and come again: there are no more names than these."""

MOST_LINES = 100
"""Of what somebody was told, if it was wrong."""


class _Walker:
    """A subscriber that stays nowhere for long, and shows what it was told."""

    def __init__(self, processes: Sequence[Stream[dict[str, Any]]], chance: random.Random) -> None:
        self.shown: dict[str, Any] = {}
        self.story: list[str] = []
        self.end: str | None = None
        """Where it may stop."""
        self._processes = processes
        self._chance = chance
        self._position: str | None = None

    async def walk(self) -> None:
        """Go on until the end is reached."""
        while self.end is None or self._position is None or self._position < self.end:
            number = self._chance.randrange(len(self._processes))
            self.story.append(f"to {number} from {self._position}")
            watch = self._processes[number].watch("g", after=self._position)
            async with aclosing(watch):
                for _ in range(self._chance.choice((1, 2, 3, 10, 50))):
                    try:
                        change = await asyncio.wait_for(anext(watch), self._chance.choice((0.02, 0.3, 1.0)))
                    except TimeoutError:
                        break
                    self._take(change)
            await asyncio.sleep(self._chance.choice((0, 0.01, 0.1)))

    def _take(self, change: Any) -> None:
        if change.type == "sync":
            self.shown = {item["title"]: item for item in change.data}
        else:
            assert self._position is None or change.position > self._position, f"{change} after {self._position}"
            if change.type == "delete":
                self.shown.pop(change.id, None)
            elif change.type != "event":
                self.shown[change.id] = change.data
        self._position = change.position
        about = " ".join(sorted(self.shown)) if change.type == "sync" else change.id
        self.story.append(f"{change.type} {about} at {change.position}")


class _Traffic:
    """Writes of items that do not live long."""

    def __init__(self, processes: Sequence[Stream[dict[str, Any]]], chance: random.Random) -> None:
        self.done = 0
        self.story: list[str] = []
        self._processes = processes
        self._chance = chance

    async def flow(self, seconds: float) -> None:
        """Begin one life after the other, and wait until all have ended."""
        end = asyncio.get_running_loop().time() + seconds
        async with asyncio.TaskGroup() as lives:
            while asyncio.get_running_loop().time() < end:
                lives.create_task(self._live(f"{self._chance.randrange(NAMES)}"))
                await asyncio.sleep(self._chance.choice((0.005, 0.02, 0.05)))

    async def _live(self, id: str) -> None:
        with suppress(Conflict):  # others write the same (A7)
            await self._come_and_go(id)

    async def _come_and_go(self, id: str) -> None:
        await self._set(id)
        await asyncio.sleep(self._chance.choice((0, 0.01, 0.03, 0.1, 0.3)))
        if self._chance.random() < 0.3:
            await self._set(id)
            await asyncio.sleep(self._chance.choice((0, 0.001, 0.01)))
        if self._chance.random() < 0.95:
            number = self._chance.randrange(len(self._processes))
            gone = await self._processes[number].delete("g", id)
            self.story.append(f"{number} deletes {id} at {gone.position if gone else None}")

    async def _set(self, id: str) -> None:
        self.done += 1
        number = self._chance.randrange(len(self._processes))
        result = await self._processes[number].set("g", id, {"title": id, "n": self.done})
        self.story.append(f"{number} {result.type}s {id} at {result.position}")


async def wander(world: World, *, seconds: float, chance: random.Random) -> tuple[list[str], int]:
    """Let subscribers walk about for ``seconds``; what was wrong with what they were told, and how much was written."""
    first = await world.stream()
    adapter = first.hub.adapter
    several = bool(first.capabilities.multi_process)
    processes = [first]
    while len(processes) < PROCESSES:
        processes.append(await world.stream(adapter=None if several else adapter))
    traffic = _Traffic(processes, chance)
    walkers = [_Walker(processes, chance) for _ in range(WALKERS)]
    async with asyncio.TaskGroup() as tasks:
        for walker in walkers:
            tasks.create_task(walker.walk())
        await traffic.flow(seconds)
        end = (await first.set("g", "end", {"title": "end", "n": secrets.randbelow(2**31)})).position  # never equal
        for walker in walkers:
            walker.end = end
    stored = await adapter.snapshot(SPEC, "g", None, limit=None)
    final = {item.id: item.value for item in stored.items}
    wrong = []
    for number, walker in enumerate(walkers):
        different = {id for id in {*walker.shown, *final} if walker.shown.get(id) != final.get(id)}
        if different:
            about = [told for told in traffic.story if different & set(told.split())]
            begun = next((n for n, told in enumerate(walker.story) if different & set(told.split())), 0)
            story = "\n".join([*about, *walker.story[max(0, begun - 3) :][:MOST_LINES]])
            wrong.append(f"walker {number} is wrong about {sorted(different)}:\n{story}")
    for opened in {process.hub.adapter for process in processes}:
        await world.close(opened)
    return wrong, traffic.done


class Wandering(Suite):
    """Subscribers of many processes (SEMANTICS B9, C2)."""

    async def test_C2_whoever_goes_from_process_to_process_misses_nothing(self, world: World) -> None:
        seed = secrets.randbelow(2**32)
        wrong, _ = await wander(world, seconds=1.0, chance=random.Random(seed))
        assert wrong == [], f"with the seed {seed}:\n" + "\n".join(wrong)
