"""One TCP connection to a Redis server: commands go out as they come, replies come back in order."""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop, Future
from collections import deque
from collections.abc import Callable
from typing import Any, cast

from hiredis import ProtocolError, Reader, ReplyError, pack_command

Argument = str | bytes | int


class Lost(Exception):
    """The connection is gone. Whether a command that was sent has run is not known."""


class Link(asyncio.Protocol):
    """A connection. `send` may be called at any time: commands wait for nobody's reply.

    A command whose reply has not come within ``timeout`` seconds ends the connection: on
    one connection all that follow would wait behind it. With ``listen`` each reply goes
    there instead of to a future, as Pub/Sub needs it.
    """

    def __init__(
        self,
        loop: AbstractEventLoop,
        timeout: float,
        listen: Callable[[Any], None] | None = None,
        lost: Callable[[], None] | None = None,
    ) -> None:
        self.closed: Lost | None = None
        """Why it is gone, if it is."""
        self._loop = loop
        self._timeout = timeout
        self._listen = listen
        self._when_lost = lost
        self._reader = Reader(replyError=ReplyError, protocolError=ProtocolError)
        self._pending: deque[tuple[Future[Any], float]] = deque()
        self._out: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._watchdog: asyncio.TimerHandle | None = None
        self._ended: Future[None] = loop.create_future()

    # -- for callers --------------------------------------------------------------------

    def send(self, *command: Argument) -> Future[Any]:
        """Send a command with what else is sent in this turn of the loop; the future gets its reply.

        It raises `hiredis.ReplyError` for an error reply, and `Lost` if none comes.
        """
        future: Future[Any] = self._loop.create_future()
        if self.closed is not None:
            future.set_exception(Lost(str(self.closed)))
            future.exception()  # its caller may have left: that is no loose end
            return future
        if not self._pending and self._transport is not None:
            self._transport.write(_packed(command))  # nothing to share a packet with: it leaves at once
        else:
            if not self._out:
                self._loop.call_soon(self._flush)
            self._out.append(_packed(command))
        self._pending.append((future, self._loop.time() + self._timeout))
        if self._watchdog is None:
            self._watchdog = self._loop.call_later(self._timeout, self._look)
        return future

    def push(self, *command: Argument) -> None:
        """Send a command whose replies `listen` gets."""
        if self._transport is not None and self.closed is None:
            self._transport.write(_packed(command))

    def abort(self, why: str) -> None:
        """End the connection at once; whoever waits is told ``why``."""
        self._fail(Lost(why))

    async def end(self) -> None:
        """End the connection, and wait until its socket is closed."""
        if self._transport is not None:
            self._fail(Lost("closed"))
            await asyncio.shield(self._ended)

    # -- for the loop ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are of no such class

    def data_received(self, data: bytes) -> None:
        """Hand out the replies that are complete."""
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                if self._listen is not None:
                    self._listen(reply)
                elif self._pending:
                    future, _ = self._pending.popleft()
                    if future.done():  # its caller was cancelled
                        continue
                    if isinstance(reply, ReplyError):
                        future.set_exception(reply)
                        future.exception()
                    else:
                        future.set_result(reply)
                else:
                    raise ProtocolError(f"a reply that nobody asked for: {str(reply)[:80]}")
        except ProtocolError as error:
            self._fail(Lost(f"it does not speak Redis's protocol: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._fail(Lost(str(exc) if exc else "the server closed the connection"))
        if not self._ended.done():
            self._ended.set_result(None)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if out and self._transport is not None and self.closed is None:
            self._transport.write(b"".join(out) if len(out) > 1 else out[0])

    def _look(self) -> None:
        """The oldest command has had its time."""
        self._watchdog = None
        if not self._pending:
            return
        left = self._pending[0][1] - self._loop.time()
        if left <= 0:
            self._fail(Lost(f"no reply within {self._timeout:g} s"))
        else:
            self._watchdog = self._loop.call_later(left, self._look)

    def _fail(self, why: Lost) -> None:
        if self.closed is not None:
            return
        self.closed = why
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        self._out.clear()
        pending, self._pending = self._pending, deque()
        for future, _ in pending:
            if not future.done():
                future.set_exception(Lost(str(why)))
                future.exception()
        if self._transport is not None:
            self._transport.abort()
        if self._when_lost is not None:
            self._when_lost()


_packed: Callable[[tuple[Argument, ...]], bytes] = pack_command  # type: ignore[assignment]  # it takes any number
