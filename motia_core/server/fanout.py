"""Sending to many sockets: each socket that has something waiting is flushed once per turn.

Changes that arrive together are therefore written together. No task waits for a socket
unless its transport is full; ``send`` is driven by hand as far as it goes by itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, MutableMapping
from types import coroutine
from typing import Any, Protocol

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

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


def drive(awaitable: Awaitable[None]) -> Coroutine[Any, Any, None] | None:
    """Run a coroutine up to its first real wait; ``None`` if it finished, else what is left to await.

    Spares a task per message when the transport has room (as eager tasks do in newer Python).
    """
    started = awaitable.__await__()
    try:
        first = next(started)
    except StopIteration:
        return None
    return _rest(started, first)


@coroutine
def _rest_of(started: Generator[Any, Any, None], first: Any) -> Generator[Any, Any, None]:
    # What the coroutine waited for first is waited for by whoever awaits the rest.
    pending = first
    while True:
        try:
            sent = yield pending
        except BaseException as error:
            try:
                pending = started.throw(error)
            except StopIteration:
                return
        else:
            try:
                pending = started.send(sent)
            except StopIteration:
                return


async def _rest(started: Any, first: Any) -> None:
    await _rest_of(started, first)
