"""The reference backend: everything in one process's memory. Read it to learn the contract.

`MemoryStore` plays the database: it outlives the adapters that open it, as a server would.
`MemoryAdapter` plays the client. What is a transaction elsewhere is here a stretch of
code without ``await``: nothing else runs between its first line and its last.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

from motia_core.adapter import (
    FULL,
    Adapter,
    AdapterPlugin,
    Capabilities,
    Finding,
    StorageSettings,
    unsupported,
)
from motia_core.errors import BackendUnavailable, OutcomeUnknown, PositionExpired, UnsupportedCapability
from motia_core.model import Batch, Change, ChangeType, Item, Snapshot, StreamSpec, Write, WriteResult

SWEEP_INTERVAL = 0.5
"""Seconds between looks for expired items."""

PAGE = 1_000
"""Changes in one batch of a watch, at most."""

CAPABILITIES = Capabilities(
    exact_values=FULL,
    equal_writes=FULL,
    any_ids=FULL,
    isolation=FULL,
    conditional_writes=FULL,
    batch=FULL,
    ttl=FULL,
    custom_events=FULL,
    history=FULL,
    ordered_versions=FULL,
    restore_detection=FULL,
    durable=unsupported("memory ends with the process"),
    multi_process=unsupported("memory belongs to one process"),
    foreign_writes=unsupported("no other program can reach it"),
    max_batch_writes=1_000,
    max_batch_bytes=16_000_000,
    max_value_bytes=100_000_000,
    max_position_length=33,
    update_attempts=1,
    expiry_bound=5.0,
    notice_bound=0.5,
    progress_bound=1.0,
    tested_items=1_000_000,
)


@dataclass(slots=True)
class _Row:
    json: bytes
    version: str
    expires: float | None  # ms since the epoch, on the store's clock


@dataclass(slots=True)
class _Stream:
    """One stream: its rows, and its log since ``floor``."""

    timestamp: float
    groups: dict[str, dict[str, _Row]] = field(default_factory=dict)
    log: deque[Change] = field(default_factory=deque)
    seq: int = 0
    floor: int = 0
    deadlines: dict[tuple[str, str], float] = field(default_factory=dict)
    bells: set[asyncio.Event] = field(default_factory=set)


class MemoryStore:
    """What a server would hold. ``clock`` gives seconds since the epoch."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.identity = secrets.token_hex(8)
        self.lose_replies = 0
        """So many of the next writes happen, and their callers never hear of it."""
        self.streams: dict[tuple[str, str], _Stream] = {}

    def wipe(self) -> None:
        """Lose everything, as an emptied server does: a new history begins."""
        self.identity = secrets.token_hex(8)
        streams, self.streams = self.streams, {}
        for stream in streams.values():
            for bell in stream.bells:
                bell.set()

    def stream(self, namespace: str, name: str) -> _Stream:
        """The stream, made on first use."""
        key = (namespace, name)
        if key not in self.streams:
            self.streams[key] = _Stream(timestamp=self.clock() * 1000)
        return self.streams[key]

    def position(self, seq: int) -> str:
        """Fixed width, so that positions compare as text; the identity makes them this store's."""
        return f"{seq:016x}-{self.identity}"


class MemoryAdapter(Adapter):
    """A client of a `MemoryStore`: its own private one, unless one is given."""

    def __init__(self, settings: StorageSettings, store: MemoryStore | None = None) -> None:
        super().__init__(settings)
        self.store = store or MemoryStore()
        self._open = False
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """Memory has no address."""
        return "memory"

    def capabilities(self, stream: StreamSpec) -> Capabilities:
        """The same for every stream."""
        return CAPABILITIES

    async def open(self) -> None:
        """Begin to sweep expired items."""
        self._open = True
        self._sweeper = asyncio.create_task(self._sweep(), name="motia-memory-sweeper")

    async def close(self) -> None:
        """End the sweeper and every watch; the store keeps its data."""
        self._open = False
        if self._sweeper:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
            self._sweeper = None
        for stream in self.store.streams.values():
            for bell in stream.bells:
                bell.set()

    async def write(self, stream: StreamSpec, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        """Decide everything first, then store and log: no ``await`` in between, so it is one atomic step."""
        await asyncio.sleep(0)  # the way to the server: others get their turn
        state = self._stream(stream)
        now = self.store.clock() * 1000
        plan: list[tuple[Write, _Row | None, bytes | None]] = []
        for write in writes:
            row = None if write.id is None else self._live(state, write.group, write.id, now)
            write.check(row.version if row else None)
            plan.append((write, row, write.resolve(row.json if row else None)))
        # Nothing below can fail.
        results = [self._store(stream, state, write, row, new, now) for write, row, new in plan]
        if self.store.lose_replies:
            self.store.lose_replies -= 1
            raise OutcomeUnknown(f"storage {self.settings.name!r} (memory): the reply to a write was lost")
        return results

    async def get(self, stream: StreamSpec, group: str, id: str) -> Item | None:
        """The item, unless it has expired."""
        row = self._live(self._stream(stream), group, id, self.store.clock() * 1000)
        return _item(group, id, row) if row else None

    async def list(self, stream: StreamSpec, group: str, *, after: str | None, limit: int | None) -> Sequence[Item]:
        """Text compares by code points in Python, which is the order of its UTF-8 bytes."""
        return self._page(self._stream(stream), group, after, limit)

    async def list_groups(self, stream: StreamSpec, *, after: str | None, limit: int | None) -> Sequence[str]:
        """Groups with at least one live item."""
        state, now = self._stream(stream), self.store.clock() * 1000
        alive = (
            group
            for group, rows in state.groups.items()
            if (after is None or group > after) and any(not _expired(row, now) for row in rows.values())
        )
        return sorted(alive) if limit is None else nsmallest(limit, alive)

    async def snapshot(self, stream: StreamSpec, group: str, id: str | None, *, limit: int | None) -> Snapshot:
        """Items and position are read in one stretch, so they belong together."""
        state = self._stream(stream)
        if id is None:
            items = self._page(state, group, None, limit)
        else:
            row = self._live(state, group, id, self.store.clock() * 1000)
            items = [_item(group, id, row)] if row else []
        return Snapshot(tuple(items), self.store.position(state.seq), state.timestamp)

    async def head(self, stream: StreamSpec) -> str:
        """The position of the last change."""
        return self.store.position(self._stream(stream).seq)

    async def floor(self, stream: StreamSpec) -> str:
        """The position of the last change that was trimmed away."""
        return self.store.position(self._stream(stream).floor)

    async def watch(self, stream: StreamSpec, after: str) -> AsyncGenerator[Batch, None]:
        """Read the log from ``after`` on; sleep on a bell whenever it is read to its end."""
        if not stream.log:
            raise UnsupportedCapability(f"stream {stream.name!r} keeps no log")
        bell = asyncio.Event()
        state = self._stream(stream)
        state.bells.add(bell)
        try:
            position, first = after, True
            while self._open:
                bell.clear()
                if self._stream(stream) is not state:  # the store was wiped
                    state.bells.discard(bell)
                    state = self._stream(stream)
                    state.bells.add(bell)
                seq = self._locate(state, position)
                changes = tuple(_after(state, seq))
                if changes or first:
                    position, first = self.store.position(seq + len(changes)), False
                    yield Batch(changes, position)
                else:
                    await bell.wait()
        finally:
            state.bells.discard(bell)

    async def diagnose(self) -> Sequence[Finding]:
        """Say what memory is."""
        return [Finding("warning", "memory: nothing survives a restart", 'use adapter = "sqlite" to keep data')]

    # -- the store's side ----------------------------------------------------------

    def _stream(self, stream: StreamSpec) -> _Stream:
        if not self._open:
            raise BackendUnavailable(f"storage {self.settings.name!r} (memory) is closed")
        return self.store.stream(self.settings.namespace, stream.name)

    def _live(self, state: _Stream, group: str, id: str, now: float) -> _Row | None:
        row = state.groups.get(group, {}).get(id)
        return None if row is None or _expired(row, now) else row

    def _page(self, state: _Stream, group: str, after: str | None, limit: int | None) -> Sequence[Item]:
        rows, now = state.groups.get(group, {}), self.store.clock() * 1000
        alive = (id for id, row in rows.items() if (after is None or id > after) and not _expired(row, now))
        ids = sorted(alive) if limit is None else nsmallest(limit, alive)
        return [_item(group, id, rows[id]) for id in ids]

    def _store(
        self, stream: StreamSpec, state: _Stream, write: Write, row: _Row | None, new: bytes | None, now: float
    ) -> WriteResult | None:
        """One decided write: the row and its log entry."""
        group, id = write.group, write.id
        if id is None or write.kind == "event":
            entry = self._append(stream, state, "event", group, id, write.json, now, write.event_type)
            return WriteResult("event", group, id, None, None, "", entry.position, entry.timestamp)
        if row is None:
            self._expire(stream, state, group, id, now)
            if new is None:
                return None
        if new is None:
            assert row is not None
            return self._remove(stream, state, group, id, row, now)
        kind: ChangeType = "create" if row is None else "update"
        entry = self._append(stream, state, kind, group, id, new, now)
        expires = row.expires if row and write.kind == "update" else None
        if write.ttl is not None:
            expires = now + write.ttl * 1000
        state.groups.setdefault(group, {})[id] = _Row(new, entry.position, expires)
        if expires is None:
            state.deadlines.pop((group, id), None)
        else:
            state.deadlines[group, id] = expires
        old = row.json if row else None
        return WriteResult(kind, group, id, old, new, entry.position, entry.position, entry.timestamp)

    def _remove(self, stream: StreamSpec, state: _Stream, group: str, id: str, row: _Row, now: float) -> WriteResult:
        entry = self._append(stream, state, "delete", group, id, row.json, now)
        rows = state.groups[group]
        del rows[id]
        if not rows:
            del state.groups[group]
        state.deadlines.pop((group, id), None)
        return WriteResult("delete", group, id, row.json, None, entry.position, entry.position, entry.timestamp)

    def _expire(self, stream: StreamSpec, state: _Stream, group: str, id: str, now: float) -> None:
        """Log the delete of an item that is there but has expired, before anything replaces it."""
        row = state.groups.get(group, {}).get(id)
        if row is not None and _expired(row, now):
            self._remove(stream, state, group, id, row, now)

    def _append(
        self,
        stream: StreamSpec,
        state: _Stream,
        kind: ChangeType,
        group: str,
        id: str | None,
        json: bytes | None,
        now: float,
        event_type: str | None = None,
    ) -> Change:
        """The next entry of the log: dense numbers, timestamps that rise whatever the clock does."""
        state.seq += 1
        state.timestamp = max(now, state.timestamp + 0.001)
        position = self.store.position(state.seq)
        version = None if kind == "event" else position
        change = Change(kind, stream.name, group, id, json, state.timestamp, version, position, event_type)
        if stream.log:
            state.log.append(change)
            self._trim(state)
            for bell in state.bells:
                bell.set()
        else:
            state.floor = state.seq
        return change

    def _trim(self, state: _Stream) -> None:
        """Drop what retention no longer covers, and move the floor with it."""
        keep, now = self.settings.retention, self.store.clock() * 1000
        while state.log and (
            (keep.count is not None and len(state.log) > keep.count)
            or (keep.age is not None and state.log[0].timestamp < now - keep.age * 1000)
        ):
            state.log.popleft()
            state.floor += 1

    def _locate(self, state: _Stream, position: str) -> int:
        """The number behind a position, if this store's history still reaches back to it."""
        number, _, identity = position.partition("-")
        try:
            seq = int(number, 16)
        except ValueError:
            seq = -1
        if (
            identity != self.store.identity
            or not state.floor <= seq <= state.seq
            or position != self.store.position(seq)
        ):
            raise PositionExpired(
                "the history after this position is gone, or was never this store's",
                position=position,
                floor=self.store.position(state.floor),
            )
        return seq

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_INTERVAL)
            now = self.store.clock() * 1000
            for (namespace, name), state in list(self.store.streams.items()):
                if namespace != self.settings.namespace:
                    continue
                for (group, id), deadline in list(state.deadlines.items()):
                    if deadline <= now:
                        self._expire(StreamSpec(name), state, group, id, now)
                self._trim(state)


def _expired(row: _Row, now: float) -> bool:
    return row.expires is not None and row.expires <= now


def _item(group: str, id: str, row: _Row) -> Item:
    return Item(group, id, row.json, row.version, row.expires is not None)


def _after(state: _Stream, seq: int) -> Iterator[Change]:
    """Up to a page of the changes after number ``seq``."""
    start = seq - state.floor
    return (state.log[i] for i in range(start, min(start + PAGE, len(state.log))))


class MemoryOptions(BaseModel):
    """Memory takes no options."""

    model_config = ConfigDict(extra="forbid")


def _from_url(url: str) -> Mapping[str, object]:
    parts = urlsplit(url)
    if parts.netloc or parts.path or parts.query:
        raise ValueError("memory:// takes nothing behind it")
    return {}


def _build(settings: StorageSettings, options: MemoryOptions) -> Adapter:
    return MemoryAdapter(settings)


MEMORY = AdapterPlugin(
    name="memory",
    schemes=("memory",),
    options=MemoryOptions,
    load=lambda: _build,
    from_url=_from_url,
    modes={"managed": CAPABILITIES},
)
