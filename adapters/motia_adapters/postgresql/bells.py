"""Who waits for a stream's news. A bell says "look": one that is lost costs time and no change.

News of a small write brings its changes. A watch that stands right before them takes them; any other looks.

Two things ring: the database's own news (`Database.listen`), and a look at the heads of
all watched streams, in one call, which is all there is while no news comes in.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import orjson

from motia_adapters.postgresql.database import Database, News
from motia_core.errors import MotiaError

HEALTHY = 1.0
"""Seconds between two looks while news comes in."""
DEAF = 0.25
"""Seconds between two looks while none can."""
OFFERED = 64
"""Pieces of news that a watch may leave unread; beyond, it reads the log."""
_SOONEST = 0.05  # seconds until the first new attempt to listen
_SLOWEST = 5.0  # seconds between two attempts, at most; what lasts longer begins at the soonest again

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Bell:
    """One watch's bell, and how far it has read."""

    position: str
    event: asyncio.Event = field(default_factory=asyncio.Event)
    look: bool = True
    """Whether the log is to be read."""
    offered: deque[News] = field(default_factory=deque)
    """Changes that came with the news."""

    def ring(self, news: News | None = None) -> None:
        """Have the watch look, or take what the news brings."""
        if news is not None and news.before is not None and len(self.offered) < OFFERED:
            self.offered.append(news)
        else:
            self.look = True
        self.event.set()


class Bells:
    """The bells of one adapter. Connections and looks exist while somebody listens."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._bells: dict[tuple[str, str], set[Bell]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._hearing = False

    @property
    def hears(self) -> bool:
        """Whether news comes in."""
        return self._hearing

    @contextmanager
    def listen(self, namespace: str, name: str, position: str) -> Iterator[Bell]:
        """A bell that rings when the stream has changes after its position, or may have."""
        bell = Bell(position)
        self._bells.setdefault((namespace, name), set()).add(bell)
        if not self._tasks:
            who = self._database.name
            self._tasks = [
                asyncio.create_task(self._hear(), name=f"motia-{who}-news"),
                asyncio.create_task(self._look(), name=f"motia-{who}-looks"),
            ]
        try:
            yield bell
        finally:
            bells = self._bells[namespace, name]
            bells.discard(bell)
            if not bells:
                del self._bells[namespace, name]

    async def close(self) -> None:
        """End it, and ring every bell."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        self._hearing = False
        self._ring_all()

    async def _hear(self) -> None:
        delay = _SOONEST
        clock = asyncio.get_running_loop().time

        def hear(news: News | None) -> None:
            if news is None:
                self._hearing = True
                self._ring_all()  # what happened before it could be heard
            else:
                for bell in self._bells.get((news.namespace, news.stream), ()):
                    bell.ring(news)

        while True:
            began = clock()
            try:
                await self._database.listen(hear)
            except Exception as error:  # whatever it is: the looks go on
                _log.debug("%s: no news: %r", self._database.name, error)
            self._hearing = False
            # Who is let in and thrown out again, as over a rate limit, does not storm the door.
            if clock() - began > _SLOWEST:
                delay = _SOONEST
            await asyncio.sleep(delay)
            delay = min(_SLOWEST, delay * 2)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(HEALTHY if self._hearing else DEAF)
            by_namespace: dict[str, list[str]] = {}
            for namespace, name in self._bells:
                by_namespace.setdefault(namespace, []).append(name)
            for namespace, names in by_namespace.items():
                try:
                    heads = await self._database.rpc(
                        "row_heads" if namespace == "*" else "heads",
                        p_namespace=namespace,
                        p_streams=orjson.dumps(names).decode(),
                    )
                    self._compare(namespace, names, heads)
                except MotiaError as error:
                    _log.debug("%s: no look: %s", self._database.name, error)
                    self._ring_all()  # each finds out for itself

    def _compare(self, namespace: str, names: Sequence[str], heads: Sequence[list[int] | None]) -> None:
        for name, head in zip(names, heads, strict=True):
            place = None if head is None else f"{head[0]:014x}-{head[1]:014x}"
            for bell in self._bells.get((namespace, name), ()):
                if bell.position != place:
                    bell.ring()

    def _ring_all(self) -> None:
        for bells in self._bells.values():
            for bell in bells:
                bell.ring()


async def rung(bell: Bell, seconds: float | None) -> None:
    """Wait until the bell rings, or for so many seconds."""
    if seconds is None:
        await bell.event.wait()
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await bell.event.wait()
