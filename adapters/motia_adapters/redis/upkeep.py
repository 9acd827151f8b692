"""Between writes: expired items are removed, and logs are trimmed to what retention covers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from motia_adapters.redis.connection import Connection
from motia_adapters.redis.keys import Keys
from motia_adapters.redis.scripts import TRIM
from motia_adapters.redis.writer import Writer
from motia_core.adapter import Retention
from motia_core.errors import BackendError, OutcomeUnknown

INTERVAL = 1.0
"""Seconds between two looks at all streams."""
PORTION = 200
"""Expired items that one call removes, at most."""
TRIMMED = 5_000
"""Entries that one call trims, at most."""
_SOME = 50  # streams that are looked at without a pause

_log = logging.getLogger(__name__)


class Upkeep:
    """Looks after the streams that this process uses."""

    def __init__(
        self,
        connection: Connection,
        retention: Retention,
        streams: Callable[[], Iterable[tuple[Keys, Writer, bool]]],
    ) -> None:
        self._connection = connection
        self._retention = retention
        self._streams = streams
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name="motia-redis-upkeep")

    async def close(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            for number, (keys, writer, log) in enumerate(list(self._streams())):
                if number % _SOME == _SOME - 1:
                    await asyncio.sleep(0.01)
                try:
                    await sweep(writer)
                    if log:
                        await self._trim(keys)
                except (BackendError, OutcomeUnknown) as error:  # the next look may do better
                    _log.debug("upkeep: %s", error)

    async def _trim(self, keys: Keys) -> None:
        count, age = self._retention.count, self._retention.age
        if count is None and age is None:
            return
        arguments = ("" if count is None else count, "" if age is None else round(age * 1_000_000), TRIMMED)
        more = True
        while more:
            more = bool(await self._connection.run(keys, TRIM, *arguments))


async def sweep(writer: Writer) -> None:
    """Remove all items of a stream that have expired."""
    swept = PORTION
    while swept == PORTION:
        swept = await writer.maintain(sweep=PORTION)
