"""Time, as the runner sees it: injectable, so that a simulation can own it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Protocol


class Clock(Protocol):
    """Where the runner takes time from; nothing in this package asks anything else."""

    def monotonic(self) -> float:
        """Seconds that only ever grow, of this process alone. Ownership is decided by it."""
        ...

    def time(self) -> float:
        """Seconds since the epoch. Never decides ownership."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Let that much monotonic time pass; 0: let others have their turn."""
        ...


class SystemClock:
    """The clocks of the operating system."""

    def monotonic(self) -> float:
        """``time.monotonic``."""
        return time.monotonic()

    def time(self) -> float:
        """``time.time``."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """``asyncio.sleep``."""
        await asyncio.sleep(seconds)


class Alarm:
    """Calls back at given times, with one sleeping task for all of them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._calls: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._task: asyncio.Task[None] | None = None
        self._sleeping_until = 0.0
        self._closed = False

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call ``call`` in that many seconds; there is no way to take it back."""
        if self._closed:
            return
        when = self._clock.monotonic() + seconds
        heappush(self._calls, (when, next(self._numbers), call))
        if self._task is None or when < self._sleeping_until:
            if self._task is not None:
                self._task.cancel()
            self._sleeping_until = when
            self._task = asyncio.create_task(self._run(), name="motia-trigger-alarm")

    async def close(self) -> None:
        """Forget every call."""
        self._closed = True
        self._calls.clear()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        while self._calls:
            when = self._sleeping_until = self._calls[0][0]
            wait = when - self._clock.monotonic()
            if wait > 0:
                await self._clock.sleep(wait)
                continue
            heappop(self._calls)[2]()
        self._task = None
