"""Who waits for a stream's news: one Pub/Sub connection rings the bells of all watches.

A bell says "look", and carries the entries of the log while they are few: a watch that
stands right before them need not read them (`Reads.told` proves that it does). One that is
lost (the connection, a user who may not subscribe) costs time and no change: all bells ring
once a second by themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hiredis import ReplyError

from motia_adapters.redis.failures import refused
from motia_adapters.redis.link import Link
from motia_adapters.redis.node import Node
from motia_core.errors import BackendError

PING = 2.0
"""Seconds between two looks whether the connection is alive."""
SILENCE = 3 * PING
"""Seconds without a sign of life after which it counts as dead."""
LOOK = 1.0
"""Seconds after which every bell rings, whatever was announced."""
NEWS = 100
"""Announcements that wait for one watch, at most: one that is further behind reads the log."""
_SLOWEST = 5.0  # seconds between two attempts to connect, at most

_log = logging.getLogger(__name__)


class Bell:
    """Rings when there is something new; `take` gives what was announced."""

    __slots__ = ("_news", "rung")

    def __init__(self) -> None:
        self.rung = asyncio.Event()
        self._news: list[bytes] = []

    def ring(self, news: bytes = b"") -> None:
        """Say "look", or what there is to see."""
        if not news or len(self._news) >= NEWS:
            self._news.clear()  # with a gap the rest is of no use
        else:
            self._news.append(news)
        self.rung.set()

    def take(self) -> list[bytes]:
        """What was announced since the last time, in order."""
        self.rung.clear()
        news, self._news = self._news, []
        return news


class Bells:
    """The bells of one adapter. The connection exists while somebody listens."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._bells: dict[str, set[Bell]] = {}
        self._link: Link | None = None
        self._task: asyncio.Task[None] | None = None
        self._clock: asyncio.TimerHandle | None = None
        self._broken = asyncio.Event()
        self._heard = 0.0
        self._warned = False

    @contextmanager
    def listen(self, channel: str) -> Iterator[Bell]:
        """A bell that rings whenever the channel does, and once when it is connected."""
        bell = Bell()
        new = channel not in self._bells
        self._bells.setdefault(channel, set()).add(bell)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="motia-redis-bells")
        elif new and self._link is not None:
            self._link.push("SUBSCRIBE", channel)
        if self._clock is None:
            self._clock = asyncio.get_running_loop().call_later(LOOK, self._strike)
        try:
            yield bell
        finally:
            bells = self._bells[channel]
            bells.discard(bell)
            if not bells:
                del self._bells[channel]
                if self._link is not None:
                    self._link.push("UNSUBSCRIBE", channel)
            if not self._bells:
                self._stop_clock()

    async def close(self) -> None:
        """End the connection, and ring every bell."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self._stop_clock()
        self._ring_all()

    async def _run(self) -> None:
        delay = 0.05
        while True:
            self._broken.clear()
            link: Link | None = None
            try:
                link = await self._node.listen(self._hear, self._broken.set)
                delay = 0.05
                self._link = link
                self._heard = asyncio.get_running_loop().time()
                for channel in self._bells:
                    link.push("SUBSCRIBE", channel)
                await self._stay(link)
            except BackendError as error:
                _log.debug("no announcements: %s", error)
            finally:
                self._link = None
                if link is not None:
                    await link.end()
            await asyncio.sleep(delay)
            delay = min(_SLOWEST, delay * 2)

    async def _stay(self, link: Link) -> None:
        """Until the connection is gone, or silent for too long."""
        loop = asyncio.get_running_loop()
        while not self._broken.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PING):
                    await self._broken.wait()
            if loop.time() - self._heard > SILENCE:
                return
            link.push("PING")

    def _hear(self, reply: Any) -> None:
        self._heard = asyncio.get_running_loop().time()
        if isinstance(reply, ReplyError):
            if not self._warned:
                self._warned = True
                _log.warning("changes are noticed a second late: %s", refused(reply, self._node.address, "subscribe"))
        elif isinstance(reply, list) and reply and reply[0] in (b"message", b"subscribe"):
            # Between the first look of a watch and its subscription something may have happened.
            news = reply[2] if reply[0] == b"message" else b""
            for bell in self._bells.get(reply[1].decode(), ()):
                bell.ring(news)

    def _strike(self) -> None:
        self._clock = asyncio.get_running_loop().call_later(LOOK, self._strike)
        self._ring_all()

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _ring_all(self) -> None:
        for bells in self._bells.values():
            for bell in bells:
                bell.ring()
