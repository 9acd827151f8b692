"""Between writes: expired items are removed, and logs are trimmed to what retention covers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import orjson

from motia_adapters.postgresql.database import Database
from motia_core.adapter import Retention
from motia_core.errors import MotiaError

INTERVAL = 1.0
"""Seconds between two looks at all streams."""
PORTION = 500
"""Expired items that one call removes, at most."""
TRIMMED = 5_000
"""Entries that one call trims, at most."""

_log = logging.getLogger(__name__)


class Upkeep:
    """Looks after the streams that this process uses: ``streams`` gives (namespace, name, whether it has a log).

    ``settle`` gives what other programs wrote its places.
    """

    def __init__(
        self,
        database: Database,
        retention: Retention,
        streams: Callable[[], Iterable[tuple[str, str, bool]]],
        settle: Callable[[], Awaitable[None]],
    ) -> None:
        self._database = database
        self._retention = retention
        self._streams = streams
        self._settle = settle
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name=f"motia-{self._database.name}-upkeep")

    async def close(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            by_namespace: dict[str, dict[str, bool]] = {}
            for namespace, name, logged in self._streams():
                by_namespace.setdefault(namespace, {})[name] = logged
            try:
                await self._settle()
                for namespace, streams in by_namespace.items():
                    await self._look_after(namespace, streams)
            except MotiaError as error:  # the next look may do better
                _log.debug("upkeep: %s", error)

    async def _look_after(self, namespace: str, streams: dict[str, bool]) -> None:
        count, age = self._retention.count, self._retention.age
        keep: dict[str, Any] = {"p_count": count, "p_age": None if age is None else round(age * 1_000_000)}
        names = orjson.dumps(list(streams)).decode()
        for name, sweep, trim in await self._database.rpc("due", p_namespace=namespace, p_streams=names, **keep):
            if sweep:
                await self.sweep(namespace, name, streams[name])
            while trim:
                trimmed = await self._database.rpc(
                    "trim", writes=True, p_namespace=namespace, p_stream=name, p_limit=TRIMMED, **keep
                )
                trim = trimmed >= TRIMMED

    async def sweep(self, namespace: str, name: str, logged: bool) -> None:
        """Remove all items of a stream that have expired."""
        swept = PORTION
        while swept >= PORTION:
            swept = await self._database.rpc(
                "sweep", writes=True, p_namespace=namespace, p_stream=name, p_logged=logged, p_limit=PORTION
            )
