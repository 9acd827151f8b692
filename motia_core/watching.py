"""A subscriber in this process: what ``stream.watch`` gives."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar

from motia_core.errors import BackendUnavailable, MotiaError
from motia_core.hub import Hub
from motia_core.members import Member, Run
from motia_core.model import Change, Snapshot

T = TypeVar("T")

StreamChangeType = Literal["sync", "create", "update", "delete", "event"]


class StreamChange(Generic[T]):
    """What a subscriber in this process gets. ``type`` is "sync", "create", "update", "delete" or "event".

    ``data`` is the item (of a delete the old one), of an event its data, of a sync the
    list of items (for a single item: the item or ``None``).
    """

    __slots__ = ("_change", "_data", "_read")

    type: StreamChangeType

    def __init__(self, change: Change, read: Callable[[bytes], T]) -> None:
        self._change = change
        self._read: Callable[[bytes], T] | None = read

    @property
    def data(self) -> Any:
        """Decoded at its first use; this subscriber's own, to change at will."""
        read = self._read
        if read is not None:
            change, self._read = self._change, None
            # A custom event's data is no item of the stream: never a model.
            self._data = change.data if change.json is None or change.type == "event" else read(change.json)
        return self._data

    @property
    def reason(self) -> str | None:
        """Of a sync that was not asked for: "expired", "overflow" or "reset"."""
        return None

    @property
    def group_id(self) -> str:
        """The group."""
        return self._change.group_id

    @property
    def id(self) -> str | None:
        """The item, or ``None`` (a group's sync, a group's custom event)."""
        return self._change.id

    @property
    def timestamp(self) -> float:
        """Milliseconds since the epoch, strictly rising along the stream."""
        return self._change.timestamp

    @property
    def version(self) -> str | None:
        """The item's version, for ``expect=``."""
        return self._change.version

    @property
    def position(self) -> str:
        """Where to resume: ``watch(..., after=position)``. Not less than what the write that made it has returned."""
        return self._change.position

    @property
    def event_type(self) -> str | None:
        """Of a custom event: its type."""
        return self._change.event_type

    def __repr__(self) -> str:
        return f"StreamChange({self.type} {self.group_id!r} {self.id!r} at {self.position})"


class _Sync(StreamChange[T]):
    """A snapshot, as a subscriber sees it."""

    __slots__ = ("_reason", "_snapshot")

    def __init__(self, member: Member, snapshot: Snapshot, reason: str | None, read: Callable[[bytes], T]) -> None:
        version = snapshot.items[0].version if member.id is not None and snapshot.items else None
        super().__init__(
            Change("event", "", member.group, member.id, None, snapshot.timestamp, version, snapshot.position), read
        )
        self._snapshot = snapshot
        self._reason = reason

    @property
    def data(self) -> Any:
        """The items (or the one item, or ``None``)."""
        read = self._read
        if read is not None:
            self._read = None
            items = [read(item.json) for item in self._snapshot.items]
            self._data = items if self._change.id is None else (items[0] if items else None)
        return self._data

    @property
    def reason(self) -> str | None:
        """Why it comes: ``None`` for the first."""
        return self._reason


# `type` is read more than all else: plain attributes of small subclasses, not a property.
class _Create(StreamChange[T]):
    __slots__ = ()
    type = "create"


class _Update(StreamChange[T]):
    __slots__ = ()
    type = "update"


class _Delete(StreamChange[T]):
    __slots__ = ()
    type = "delete"


class _Event(StreamChange[T]):
    __slots__ = ()
    type = "event"


_Sync.type = "sync"
_VIEWS: dict[str, type[StreamChange[Any]]] = {"create": _Create, "update": _Update, "delete": _Delete, "event": _Event}


class Queue:
    """What waits for one reader: the hub's sink. A reader that is more than the hub's ring
    behind loses it and gets a sync instead, so what waits never holds memory of its own."""

    __slots__ = ("entries", "error", "overflowed", "waiting")

    def __init__(self) -> None:
        self.entries: deque[Change | tuple[Member, Snapshot, str | None]] = deque()
        self.waiting: asyncio.Future[None] | None = None
        self.overflowed = False
        self.error: MotiaError | None = None

    def push(self, run: Run) -> None:
        """Hub: changes."""
        self.entries.extend(run.changes)
        if self.waiting is not None:
            self.wake()

    replay = push

    def sync(self, member: Member, snapshot: Snapshot, reason: str | None) -> None:
        """Hub: a snapshot; what waits is older than it."""
        self.entries.clear()
        self.overflowed = False
        self.entries.append((member, snapshot, reason))
        self.wake()

    def failed(self, member: Member, error: MotiaError) -> None:
        """Hub: the data is late, or cannot be read."""
        self.error = error
        self.wake()

    def trim(self, member: Member, floor: str) -> bool:
        """Hub: what lies before ``floor`` is held by nobody else any more."""
        if not self.entries:
            return False
        oldest = self.entries[0]
        if (oldest.position if isinstance(oldest, Change) else oldest[1].position) >= floor:
            return False
        self.entries.clear()
        self.overflowed = True
        return True

    def wake(self) -> None:
        """Let the reader go on."""
        waiting, self.waiting = self.waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)


class Watch(Generic[T]):
    """A subscription: iterate it with ``async for``. It ends when it, or the application, is closed."""

    def __init__(self, hub: Hub, group: str, id: str | None, after: str | None, read: Callable[[bytes], T]) -> None:
        self._hub = hub
        self._group = group
        self._id = id
        self._after = after
        self._read = read
        self._queue = Queue()
        self._entries = self._queue.entries
        self._member: Member | None = None
        self._closed = False
        self._waiting = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StreamChange[T]:
        entries = self._entries
        while not entries:
            if self._closed or (self._member is not None and self._hub.is_closed):
                raise StopAsyncIteration
            if self._waiting:
                raise RuntimeError("another task waits for this watch's next change: give each its own watch")
            self._waiting = True
            try:
                await self._wait()
            finally:
                self._waiting = False
        entry = entries.popleft()
        if type(entry) is Change:
            return _VIEWS[entry.type](entry, self._read)
        assert isinstance(entry, tuple)
        return _Sync(*entry, self._read)

    async def aclose(self) -> None:
        """Unsubscribe; whoever waits for the next change gets the end of the iteration."""
        self._close()
        self._queue.wake()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        self._close()

    def _close(self) -> None:
        self._closed = True
        if self._member is not None:
            self._hub.leave(self._member)

    async def _wait(self) -> None:
        queue = self._queue
        if self._member is None:
            member = await self._hub.join(queue, self._group, self._id, self._after)
            self._member = member
            if self._closed:
                self._hub.leave(member)
            return
        if queue.overflowed:
            queue.overflowed = False
            self._hub.resync(self._member, "overflow")
        if queue.error is not None:
            error, queue.error = queue.error, None
            # An outage heals by itself, and nothing will have been missed.
            if not isinstance(error, BackendUnavailable):
                self._close()
                raise error
        if not self._entries:
            queue.waiting = asyncio.get_running_loop().create_future()
            await queue.waiting
