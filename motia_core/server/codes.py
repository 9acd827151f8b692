"""Every code that a client can meet, in one table (docs/reference/codes.md is made from it)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Code:
    """A code in an ``error`` frame; ``close``: the socket is closed with that code after it."""

    name: str
    meaning: str
    client: str
    close: int | None = None


CODES: Final[dict[str, Code]] = {
    code.name: code
    for code in (
        Code("INVALID_FRAME", "a frame that is not JSON text, or lacks what its type needs", "mend the client"),
        Code("FRAME_TOO_LARGE", "a frame over the server's limit", "send less; the socket lives"),
        Code("UNKNOWN_MESSAGE", "a frame of a type the server does not know", "mend the client"),
        Code("TOO_MANY_BAD_FRAMES", "bad frames up to the limit", "mend the client, connect anew", 4400),
        Code("TOO_MANY_SUBSCRIPTIONS", "the connection is at its limit of subscriptions", "leave others first"),
        Code("TOO_MANY_CONNECTIONS", "the server is at its limit of connections", "come back later", 1013),
        Code("UNAUTHENTICATED", "authentication failed or took too long", "connect with a valid token", 4401),
        Code("ACCESS_ENDED", "the token expired, or access was revoked", "connect with a new token", 4401),
        Code("STREAM_ACCESS_DENIED", "no such stream, or a join hook did not say yes", "do not join again as you are"),
        Code("GROUP_TOO_LARGE", "the group holds more than one sync may carry", "read it in pages, or join its items"),
        Code("SLOW_CONSUMER", "changes were dropped because the client reads too slowly", "nothing: a sync follows"),
        Code("CLIENT_STALLED", "the client took nothing for too long", "connect anew and resume", 4408),
        Code("BACKEND_UNAVAILABLE", "the storage cannot be reached at the moment", "nothing: changes follow later"),
        Code("SERVER_SHUTDOWN", "the server is going down or is being replaced", "connect anew and resume", 1012),
        Code("INTERNAL_ERROR", "the server failed; its log says why", "try again later"),
    )
}
