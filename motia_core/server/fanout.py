"""Sending to many sockets: each socket that has something waiting is flushed once per turn.

Changes that arrive together are therefore written together, and a socket needs no task
of its own unless its transport is full.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

SOCKETS_PER_TURN = 500
"""Sockets flushed before the event loop gets its turn."""


class Flushable(Protocol):
    """Something with frames waiting."""

    def flush(self) -> None:
        """Write what waits, as far as it goes. Never raises."""


class Fanout:
    """The sockets that have something waiting."""

    def __init__(self) -> None:
        self._ready: deque[Flushable] = deque()
        self._scheduled = False
        self._loop = asyncio.get_running_loop()

    def add(self, socket: Flushable) -> None:
        """Flush this socket soon; to be called once until it is flushed."""
        self._ready.append(socket)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        ready = self._ready
        for _ in range(min(len(ready), SOCKETS_PER_TURN)):
            ready.popleft().flush()
        self._scheduled = bool(ready)
        if ready:
            self._loop.call_soon(self._run)
