"""What goes over the wire: addresses, frames, and how long to wait before trying again."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlencode, urlsplit, urlunsplit

from motia_core.client._errors import AccessDenied, StreamError

Status = Literal["connecting", "open", "live", "reconnecting", "closed"]
"""``connecting`` until there is a socket, ``open`` until the server has answered the join,
``live``; after a loss ``reconnecting``, ``open`` and ``live`` again; ``closed`` at the end."""

BUILT_IN = frozenset({"sync", "create", "update", "delete", "event", "status", "error"})
"""Names that custom events cannot be listened to under."""

UNAUTHENTICATED = 4401
FORBIDDEN = 4403
RESTARTING = frozenset({1001, 1012})

SLOW_CONSUMER = "SLOW_CONSUMER"
"""This subscription fell behind; the server sends it a fresh ``sync`` by itself."""

PASSING = frozenset({"BACKEND_UNAVAILABLE", "INTERNAL_ERROR"})
"""Trouble that passes: a join is worth another try, a live subscription goes on by itself."""

SERVER_SHUTDOWN = "SERVER_SHUTDOWN"
"""Announces a close that is followed by a new connection anyway."""

_DENIED = frozenset({"STREAM_ACCESS_DENIED", "UNAUTHENTICATED", "ACCESS_ENDED", "FORBIDDEN"})
_HEADER_SAFE = re.compile(r"[\x21-\x7e]+\Z")


@dataclass(frozen=True, slots=True)
class StreamChange:
    """One delivery: a snapshot (``sync``), a create, update, delete, or custom event."""

    type: Literal["sync", "create", "update", "delete", "event"]
    stream_name: str
    group_id: str
    id: str | None
    """``None``: a snapshot of a group, or an event sent to all of it."""
    data: Any
    """The item now (of a delete: as it was); of a group's ``sync`` the list of its items,
    of an item's the item or ``None``; of an event what was sent with it."""
    timestamp: float | None
    """Milliseconds since the epoch, rising along the stream."""
    version: str | None
    """Opaque, for a conditional write; changes of items have it."""
    position: str | None
    """The place in the stream's order: opaque, and compares as plain text."""
    event_type: str | None = None
    """The custom event's name."""


def change_of(frame: dict[str, Any]) -> StreamChange | None:
    """The change in a ``stream`` frame; ``None`` where there is none that this client knows."""
    event = frame["event"]
    kind, data, name = event.get("type"), event.get("data"), None
    if kind == "event":
        inner = event.get("event") or {}
        data, name = inner.get("data"), inner.get("type")
    elif kind not in ("sync", "create", "update", "delete"):
        return None
    return StreamChange(
        type=kind,
        stream_name=frame["streamName"],
        group_id=frame["groupId"],
        id=frame.get("id"),
        data=data,
        timestamp=frame.get("timestamp"),
        version=frame.get("version"),
        position=frame.get("position"),
        event_type=name,
    )


def error_of(data: Any) -> StreamError:
    """An error frame's ``data`` as an exception."""
    said = data if isinstance(data, dict) else {}
    code = str(said.get("code") or "UNKNOWN")
    kind = AccessDenied if code in _DENIED else StreamError
    return kind(code, str(said.get("message") or ""), data=data)


def socket_url(url: str) -> str:
    """``url`` as a WebSocket address. Raises `ValueError` if it is not one."""
    parts = urlsplit(url)
    scheme = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}.get(parts.scheme)
    if scheme is None or not parts.hostname:
        # Not quoted whole: an address may hold a password.
        raise ValueError(f"url must begin with ws://, wss://, http:// or https:// and name a host, not {url[:8]!r}...")
    return urlunsplit((scheme, parts.netloc, parts.path or "/", parts.query, ""))


def host_of(url: str) -> str:
    """Host and port, for messages: nothing secret."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


def with_token(url: str, token: str | None) -> tuple[str, dict[str, str]]:
    """Where the token goes: a header if one can hold it, else the query."""
    if not token:
        return url, {}
    if _HEADER_SAFE.match(token):
        return url, {"Authorization": f"Bearer {token}"}
    parts = urlsplit(url)
    query = "&".join(filter(None, [parts.query, urlencode({"authToken": token})]))
    return urlunsplit(parts._replace(query=query)), {}


class Backoff:
    """Delays between attempts: exponential with full jitter, up to ``cap`` seconds."""

    def __init__(self, base: float = 0.25, cap: float = 10.0) -> None:
        self.base = base
        self.cap = cap
        self.attempt = 0

    def reset(self) -> None:
        """An attempt succeeded: begin with short delays again."""
        self.attempt = 0

    def next(self, *, soon: bool = False) -> float:
        """Seconds to wait now; ``soon``: the server said that it is only restarting."""
        limit = 2 * self.base if soon else min(self.cap, self.base * 2.0**self.attempt)
        self.attempt = min(self.attempt + 1, 10)
        return random.uniform(0, limit)
