"""uvicorn's WebSocket protocol, with its transport offered to the application.

Server frames are not masked (RFC 6455, 5.1), so one encoded frame serves every socket,
and frames that wait together go out in one write. An ASGI server without this extension
works too, one message at a time.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

try:
    import fcntl
    import termios
except ImportError:  # not on Windows
    fcntl = termios = None  # type: ignore[assignment]

EXTENSION = "motia.transport"
"""Key in the scope's ``extensions``: a dict with ``transport``, a `motia_core.server.connection.Transport`."""

CLOSE_GRACE = 2.0
"""Seconds that a client has to take what is left for it when its connection ends."""


class TransportProtocol(WebSocketsSansIOProtocol):
    """Adds `EXTENSION` to the scope; tells a slow peer from a dead one, and waits for neither for ever."""

    _resumed = 0
    _taken_at_ping = (0, 0)
    _last_call: asyncio.TimerHandle | None = None

    async def run_asgi(self) -> None:
        """Offer the transport, then run the application."""
        extensions: dict[str, Any] = self.scope.setdefault("extensions", {})
        extensions[EXTENSION] = {"transport": Transport(self)}
        await super().run_asgi()
        self._end_soon()

    def shutdown(self) -> None:
        """Say goodbye to the peer, who may not be listening."""
        super().shutdown()
        self._end_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        if self._last_call is not None:
            self._last_call.cancel()
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        """The peer has taken something."""
        self._resumed += 1
        super().resume_writing()

    def taken(self) -> tuple[int, int]:
        """How far the peer is: it takes something whenever this grows."""
        return self._resumed, -self.transport.get_write_buffer_size() - _unacknowledged(self.transport)

    def send_keepalive_ping(self) -> None:
        """Ping, unless the connection is ending."""
        super().send_keepalive_ping()
        self._taken_at_ping = self.taken()

    def keepalive_timeout(self) -> None:
        """No pong: it may be behind much that a slow peer is still reading, else the peer is dead."""
        taken = self.taken()
        if taken > self._taken_at_ping and self.ping_timeout is not None:
            self._taken_at_ping = taken
            self.pong_timer = self.loop.call_later(self.ping_timeout, self.keepalive_timeout)
            return
        super().keepalive_timeout()
        # It takes no close frame either: do not wait for it.
        self.transport.abort()

    def _end_soon(self) -> None:
        if not self.disconnected and self._last_call is None:
            self._last_call = self.loop.call_later(CLOSE_GRACE, self.transport.abort)


def _unacknowledged(transport: asyncio.Transport) -> int:
    """Bytes in the system's send buffer, where the system tells."""
    socket = transport.get_extra_info("socket")
    if fcntl is None or termios is None or socket is None or socket.fileno() < 0:
        return 0
    try:
        return int.from_bytes(fcntl.ioctl(socket.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:
        return 0


class Transport:
    """What `EXTENSION` offers of one connection."""

    __slots__ = ("_protocol",)

    def __init__(self, protocol: TransportProtocol) -> None:
        self._protocol = protocol

    def write(self, frames: bytes) -> bool:
        """Write encoded frames; False, and nothing written, while the transport is full."""
        protocol = self._protocol
        if protocol.disconnected or protocol.close_sent or protocol.transport.is_closing():
            raise ClientDisconnected
        if not protocol.writable.is_set():
            return False
        protocol.transport.write(frames)
        return True

    async def writable(self, limit: float) -> None:
        """Wait until it may be written to. ``TimeoutError``: the peer took nothing for ``limit`` seconds."""
        taken = self._protocol.taken()
        while True:
            try:
                async with asyncio.timeout(limit):
                    await self._protocol.writable.wait()
                    return
            except TimeoutError:
                before, taken = taken, self._protocol.taken()
                if taken <= before:
                    raise

    def abort(self) -> None:
        """Drop the connection with all that waits in its buffer."""
        self._protocol.transport.abort()
