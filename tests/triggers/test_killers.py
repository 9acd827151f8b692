"""Changes that kill their process, where much else goes on: they are buried all the same (rule 22)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial

import pytest

from motia_core.model import Change
from motia_core.triggers import DeadLetter, RunInfo, Runner, Trigger
from motia_core.triggers.partition import CAREFUL_AFTER
from motia_core.triggers.records import hash_key

from .conftest import World, trigger, until, until_async

ATTEMPTS = 3
LEASE = 0.5
PARTITIONS = 8


def _several_run(worker: Runner) -> bool:
    return sum(bool(partition.running) for partition in worker.partitions()) > 1


def _partition(name: str) -> int:
    return hash_key(("g", name)) * PARTITIONS >> 16


class Murder:
    """Handlers that end the worker that runs them, as ``kill -9`` does, and workers that come after it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.deaths = 0
        self.handled = 0
        self.fail_first = False
        self.partitions = 1
        self.innocent_seconds = 0.0
        self.innocents: set[str | None] = set()
        self.runner: Runner | None = None
        self._killed = asyncio.Event()

    def trigger(self) -> Trigger:
        return trigger(self.handle, partitions=self.partitions, attempts=ATTEMPTS, backoff=0.6, window=1_000)

    async def handle(self, change: Change, info: RunInfo) -> None:
        if change.id != "killer":
            await asyncio.sleep(self.innocent_seconds)
            self.handled += 1
            self.innocents.add(change.id)
            return
        if self.fail_first and info.attempt == 1:
            raise ValueError("not yet")
        self._killed.set()
        await asyncio.Event().wait()

    async def worker(self) -> Runner:
        self.runner = await self.world.run(self.trigger(), lease=LEASE)
        return self.runner

    async def letters(self) -> list[DeadLetter]:
        return list(await (await Runner(self.world.adapter, []).dead_letters(self.trigger().key)).list())

    async def until_buried(self) -> DeadLetter:
        """Replace each worker that dies, until there is a dead letter."""
        async with asyncio.timeout(60):
            while True:
                if self._killed.is_set():
                    self._killed.clear()
                    self.deaths += 1
                    assert self.runner is not None
                    await self.runner.abort()
                    self.runner = None
                if self.runner is None:
                    await self.worker()
                if letters := await self.letters():
                    return letters[0]
                await asyncio.sleep(0.02)

    @asynccontextmanager
    async def traffic(self) -> AsyncIterator[None]:
        """Other items change all the time."""

        async def write() -> None:
            n = 0
            while True:
                n += 1
                await self.world.put(f"i{n % 50}", {"n": n})
                await asyncio.sleep(0.01)

        writing = asyncio.create_task(write())
        try:
            yield
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)


@pytest.mark.parametrize("fail_first", [False, True], ids=["at once", "when tried again"])
async def test_a_killer_among_others_is_buried(world: World, fail_first: bool) -> None:
    """Also one that is parked, and does not hold the cursor back."""
    murder = Murder(world)
    murder.fail_first = fail_first
    first = await murder.worker()
    await until(lambda: any(partition.loaded for partition in first.partitions()))
    async with murder.traffic():
        await world.put("killer", {})
        letter = await murder.until_buried()
        handled = murder.handled
        await until(lambda: murder.handled > handled)
    assert letter.change.id == "killer"
    assert letter.attempts == ATTEMPTS
    # An attempt that only failed clears it, once.
    assert murder.deaths <= CAREFUL_AFTER * (1 + fail_first) + ATTEMPTS


async def test_a_killers_neighbours_in_other_partitions_are_not_buried(world: World) -> None:
    """They are handled whenever it strikes: only one attempt in a process may be what killed it."""
    murder = Murder(world)
    murder.partitions = PARTITIONS
    murder.innocent_seconds = 0.2
    names = {f"i{n}" for n in range(8)}
    first = await murder.worker()
    await until(lambda: sum(partition.loaded for partition in first.partitions()) == PARTITIONS)
    await world.put("killer", {})
    for name in names:
        await world.put(name, {})
    letter = await murder.until_buried()
    await until(lambda: murder.innocents == names)
    assert letter.change.id == "killer"
    assert [letter.change.id for letter in await murder.letters()] == ["killer"]


async def test_one_that_ignores_its_timeout_keeps_nobody_else_waiting(world: World) -> None:
    """Where attempts are made one at a time, as owners have died, its turn ends when it is cancelled."""
    names = {name for name in map("i{}".format, range(12)) if _partition(name) != _partition("stubborn")}
    seen: set[str | None] = set()
    dying = True
    release = asyncio.Event()

    async def handle(change: Change, info: RunInfo) -> None:
        if dying:
            await asyncio.Event().wait()
        while change.id == "stubborn" and not release.is_set():
            with suppress(asyncio.CancelledError):
                await release.wait()
        seen.add(change.id)

    made = trigger(handle, partitions=PARTITIONS, timeout=None)
    for death in range(CAREFUL_AFTER):
        worker = await world.run(made, lease=LEASE)
        if death == 0:
            for name in ("stubborn", *sorted(names)):
                await world.put(name, {})
        await until(partial(_several_run, worker))
        await worker.abort()
    dying = False
    try:
        await world.run(replace(made, timeout=0.3), lease=LEASE)
        await until(lambda: names <= seen)
    finally:
        release.set()


async def test_a_killer_that_is_brought_back_is_buried_again(world: World) -> None:
    murder = Murder(world)
    await murder.worker()
    async with murder.traffic():
        await world.put("killer", {})
        await murder.until_buried()
        murder.deaths = 0
        letters = await Runner(world.adapter, []).dead_letters(murder.trigger().key)
        await letters.retry()

        async def gone() -> bool:
            return not await letters.list()

        await until_async(gone)
        await murder.until_buried()

        async def cleared() -> bool:
            (status,) = await Runner(world.adapter, []).status()
            return all(partition.crashes == 0 for partition in status.partitions)

        await until_async(cleared)
    assert murder.deaths <= CAREFUL_AFTER + ATTEMPTS
