"""Changes that kill their process, where much else goes on: they are buried all the same (rule 22)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from motia_core.model import Change
from motia_core.triggers import DeadLetter, RunInfo, Runner, Trigger
from motia_core.triggers.partition import CAREFUL_AFTER

from .conftest import World, trigger, until, until_async

ATTEMPTS = 3
LEASE = 0.5


class Murder:
    """Handlers that end the worker that runs them, as ``kill -9`` does, and workers that come after it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.deaths = 0
        self.handled = 0
        self.fail_first = False
        self.runner: Runner | None = None
        self._killed = asyncio.Event()

    def trigger(self) -> Trigger:
        return trigger(self.handle, partitions=1, attempts=ATTEMPTS, backoff=0.6, window=1_000)

    async def handle(self, change: Change, info: RunInfo) -> None:
        if change.id != "killer":
            self.handled += 1
            return
        if self.fail_first and info.attempt == 1:
            raise ValueError("not yet")
        self._killed.set()
        await asyncio.Event().wait()

    async def worker(self) -> Runner:
        self.runner = await self.world.run(self.trigger(), lease=LEASE)
        return self.runner

    async def letter(self) -> DeadLetter | None:
        letters = await (await Runner(self.world.adapter, []).dead_letters(self.trigger().key)).list()
        return letters[0] if letters else None

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
                if letter := await self.letter():
                    return letter
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
