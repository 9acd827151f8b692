"""Between writes: expired items are removed, and logs are trimmed to what retention covers.

Looks cost money, so they are few: at a stream's deadlines when one is due that this
process knows of, and otherwise once a minute; at its log when this process has written a
tenth of what is to be kept, or by age once in a tenth of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from motia_adapters.firestore.connection import LostRace
from motia_adapters.firestore.managed import Managed
from motia_adapters.firestore.mapped.stream import MappedStream
from motia_core.adapter import Retention
from motia_core.errors import BackendError, Conflict

INTERVAL = 0.5
"""Seconds between two rounds, which cost nothing by themselves."""
SELDOM = 60.0
"""Seconds between looks for what other processes have left."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Seen:
    swept: float = 0.0
    deadline: int = 0
    trimmed: float = 0.0
    written: int = 0


class Upkeep:
    """Looks after the streams that this process uses."""

    def __init__(self, retention: Retention, streams: Callable[[], Sequence[Managed | MappedStream]]) -> None:
        self._retention = retention
        self._streams = streams
        self._seen: dict[Managed | MappedStream, _Seen] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name="motia-firestore-upkeep")

    async def close(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self._seen.clear()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            for stream in self._streams():
                seen = self._seen.setdefault(stream, _Seen(trimmed=asyncio.get_running_loop().time()))
                try:
                    if isinstance(stream, MappedStream):
                        await stream.trim()
                        continue
                    await self._sweep(stream, seen)
                    if stream.stream.log:
                        await self._trim(stream, seen)
                except (BackendError, Conflict, LostRace) as error:  # the next look may do better
                    _log.debug("upkeep: %s", error)

    async def _sweep(self, stream: Managed, seen: _Seen) -> None:
        now = asyncio.get_running_loop().time()
        known = [at for at in (seen.deadline, stream.writer.take_deadline()) if at]
        seen.deadline = min(known, default=0)
        due = seen.deadline and seen.deadline <= stream.now()
        if not due and seen.swept and now - seen.swept < SELDOM:
            return
        await stream.sweep()
        seen.deadline = await stream.next_deadline()
        seen.swept = now

    async def _trim(self, stream: Managed, seen: _Seen) -> None:
        now = asyncio.get_running_loop().time()
        count, age = self._retention.count, self._retention.age
        many = count is not None and stream.writer.written - seen.written > max(10, min(count // 10, 1_000))
        long = age is not None and now - seen.trimmed > max(0.1, min(age / 10, SELDOM))
        if many or long:
            seen.trimmed, seen.written = now, stream.writer.written
            await stream.trim(self._retention)
