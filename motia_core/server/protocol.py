"""uvicorn's WebSocket protocol, with its transport offered to the application.

Server frames are not masked (RFC 6455, 5.1), so one encoded frame serves every socket,
and frames that wait together go out in one write. An ASGI server without this extension
works too, one message at a time.
"""

from __future__ import annotations

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

EXTENSION = "motia.transport"
"""Key in the scope's ``extensions``: holds ``write(bytes) -> bool`` and ``abort()``."""


class TransportProtocol(WebSocketsSansIOProtocol):
    """Adds `EXTENSION` to the scope, and ends a dead peer's connection at once."""

    async def run_asgi(self) -> None:
        """Offer the transport, then run the application."""
        self.scope["extensions"][EXTENSION] = {"write": self.write_frames, "abort": self.abort}
        await super().run_asgi()

    def write_frames(self, frames: bytes) -> bool:
        """Write encoded frames; False, and nothing written, while the transport is full."""
        if self.disconnected or self.close_sent or self.transport.is_closing():
            raise ClientDisconnected
        if not self.writable.is_set():
            return False
        self.transport.write(frames)
        return True

    def abort(self) -> None:
        """Drop the connection with all that waits in its buffer."""
        self.transport.abort()

    def keepalive_timeout(self) -> None:
        """A peer that answers no ping takes no close frame either: do not wait for it."""
        super().keepalive_timeout()
        self.transport.abort()
