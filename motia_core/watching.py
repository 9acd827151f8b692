"""A subscriber in this process: what ``stream.watch`` is made of."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Any, Generic, Literal, TypeVar

from motia_core.errors import BackendUnavailable, MotiaError
from motia_core.hub import Hub, Member
from motia_core.model import Change, Snapshot

T = TypeVar("T")

QUEUE_CHANGES = 10_000
"""Changes that wait for a slow reader, at most; then it gets a sync instead."""

QUEUE_BYTES = 16_000_000
"""Bytes of values that wait for a slow reader, at most."""


class StreamChange(Generic[T]):
    """What a subscriber in this process gets. ``type`` is "sync", "create", "update", "delete" or "event".

    ``data`` is the item (of a delete the old one), of an event its data, of a sync the
    list of items (for a single item: the item or ``None``).
    """

    __slots__ = ("_data", "event_type", "group_id", "id", "position", "reason", "timestamp", "type", "version")

    def __init__(
        self,
        type: Literal["sync", "create", "update", "delete", "event"],
        group_id: str,
        id: str | None,
        data: Callable[[], Any],
        timestamp: float,
        version: str | None,
        position: str,
        event_type: str | None = None,
        reason: str | None = None,
    ) -> None:
        self.type = type
        self.group_id = group_id
        self.id = id
        self.timestamp = timestamp
        self.version = version
        self.position = position
        self.event_type = event_type
        self.reason = reason
        """Of a sync that was not asked for: "expired", "overflow" or "reset"."""
        self._data: Any = data

    @property
    def data(self) -> Any:
        """Decoded at its first use; this subscriber's own, to change at will."""
        if callable(self._data):
            self._data = self._data()
        return self._data

    def __repr__(self) -> str:
        return f"StreamChange({self.type} {self.group_id!r} {self.id!r} at {self.position})"


class Watcher(Generic[T]):
    """A queue between the hub and one reader, bounded by count and bytes (SEMANTICS C5)."""

    def __init__(self, hub: Hub, read: Callable[[bytes], T]) -> None:
        self._hub = hub
        self._read = read
        self._queue: deque[Change | StreamChange[T]] = deque()
        self._bytes = 0
        self._waiting: asyncio.Future[None] | None = None
        self._overflowed = False
        self._error: MotiaError | None = None
        self._member: Member | None = None

    async def join(self, group: str, id: str | None, after: str | None) -> None:
        """Subscribe; raises what `Hub.join` raises."""
        self._member = await self._hub.join(self, group, id, after)

    def close(self) -> None:
        """Unsubscribe."""
        if self._member is not None:
            self._hub.leave(self._member)

    async def changes(self) -> AsyncGenerator[StreamChange[T], None]:
        """What comes, for ever."""
        queue = self._queue
        while True:
            while queue:
                entry = queue.popleft()
                if isinstance(entry, Change):
                    if entry.json is not None:
                        self._bytes -= len(entry.json)
                    yield self._view(entry)
                else:
                    yield entry
            if self._overflowed:
                self._overflowed = False
                assert self._member is not None
                self._hub.resync(self._member, "overflow")
            if self._error is not None:
                error, self._error = self._error, None
                # An outage heals by itself, and nothing will have been missed.
                if not isinstance(error, BackendUnavailable):
                    raise error
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None

    def push(self, change: Change) -> None:
        """Hub: one change."""
        if self._overflowed:
            return
        self._queue.append(change)
        if change.json is not None:
            self._bytes += len(change.json)
        if len(self._queue) > QUEUE_CHANGES or self._bytes > QUEUE_BYTES:
            self._queue.clear()
            self._bytes = 0
            self._overflowed = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def sync(self, member: Member, snapshot: Snapshot, reason: str | None) -> None:
        """Hub: a snapshot; what waits is older than it."""
        self._queue.clear()
        self._bytes = 0
        self._overflowed = False

        def data() -> Any:
            items = [self._read(item.json) for item in snapshot.items]
            if member.id is None:
                return items
            return items[0] if items else None

        self._queue.append(
            StreamChange(
                "sync",
                member.group,
                member.id,
                data,
                snapshot.timestamp,
                snapshot.items[0].version if member.id is not None and snapshot.items else None,
                snapshot.position,
                reason=reason,
            )
        )
        self._wake()

    def failed(self, member: Member, error: MotiaError) -> None:
        """Hub: the data is late, or cannot be read."""
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _view(self, change: Change) -> StreamChange[T]:
        # A custom event's data is no item of the stream: never a model.
        def data() -> Any:
            if change.json is None:
                return None
            return change.data if change.type == "event" else self._read(change.json)

        return StreamChange(
            change.type,
            change.group_id,
            change.id,
            data,
            change.timestamp,
            change.version,
            change.position,
            change.event_type,
        )
