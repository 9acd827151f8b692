"""One write transaction, which carries many independent writes.

Rows are read once, the writes are worked out on them in memory, each alone, and the
outcome goes back in a few statements of many rows: each statement costs a release of
the interpreter lock, which a busy event loop does not give back at once.
"""

from __future__ import annotations

import sqlite3
import time
from asyncio import Future
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Final

from motia_adapters.sqlite.history import History, format_position
from motia_core.model import ChangeType, StreamSpec, Write, WriteResult

Key = tuple[int, str, str]
"""Stream number, group, id."""
Row = tuple[bytes, int, float | None]
"""Value, sequence number of its write, deadline in seconds since 1970."""
LogRow = tuple[int, int, ChangeType, str, str | None, bytes | None, float, str | None]
"""Sequence number, stream number, type, group, id, value, timestamp, event type."""

_STEP: Final = 0.001  # ms between two timestamps of one moment; doubles resolve a quarter of that until 2100
_SIZES: Final = (64, 32, 16, 8, 4, 2, 1)

EXPIRED: Final = (
    # Left to itself, SQLite may walk through all items of the namespace's streams.
    "FROM motia_items AS item INDEXED BY motia_items_expires CROSS JOIN motia_streams ON motia_streams.id = stream"
    " WHERE expires <= ? AND namespace = ?"
)
"""Items of a namespace whose deadline has passed: what follows SELECT and its columns."""

_FIND = {
    size: f"WITH wanted(stream, grp, id) AS (VALUES {','.join(['(?,?,?)'] * size)})"
    " SELECT stream, grp, id, json, seq, expires FROM wanted CROSS JOIN motia_items USING (stream, grp, id)"
    for size in _SIZES
}
_STORE = {
    size: "INSERT INTO motia_items (stream, grp, id, json, seq, expires)"
    f" VALUES {','.join(['(?,?,?,?,?,?)'] * size)} ON CONFLICT (stream, grp, id)"
    " DO UPDATE SET json = excluded.json, seq = excluded.seq, expires = excluded.expires"
    for size in _SIZES
}
_LOG = {
    size: "INSERT INTO motia_log (seq, stream, type, grp, id, json, ts, event_type)"
    f" VALUES {','.join(['(?,?,?,?,?,?,?,?)'] * size)}"
    for size in _SIZES
}


class Unit:
    """The writes of one call, which happen all or not at all. None: only the stream is wanted."""

    __slots__ = ("deadline", "error", "future", "results", "spec", "writes")

    def __init__(
        self,
        spec: StreamSpec,
        writes: Sequence[Write],
        future: Future[Sequence[WriteResult | None]],
        deadline: float,
    ) -> None:
        self.spec = spec
        self.writes = writes
        self.future = future
        self.deadline = deadline
        self.results: Sequence[WriteResult | None] = ()
        self.error: Exception | None = None


class Streams:
    """The numbers of one namespace's streams, as committed."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.ids: dict[str, int] = {}

    def enter(self, connection: sqlite3.Connection, spec: StreamSpec) -> int:
        """The number of a stream, given to it now if it has none, inside a write transaction."""
        key = (self.namespace, spec.name)
        find = "SELECT id, logged FROM motia_streams WHERE namespace = ? AND name = ?"
        row = connection.execute(find, key).fetchone()
        if row is None:
            connection.execute("INSERT INTO motia_streams (namespace, name, logged) VALUES (?, ?, ?)", (*key, spec.log))
            row = connection.execute(find, key).fetchone()
        elif bool(row[1]) != spec.log:
            connection.execute("UPDATE motia_streams SET logged = ? WHERE id = ?", (spec.log, row[0]))
        return int(row[0])


class Transaction:
    """What happens between BEGIN IMMEDIATE and COMMIT. ``log`` is what `flush` will log."""

    def __init__(self, connection: sqlite3.Connection, history: History, streams: Streams) -> None:
        self._connection = connection
        self._history = history
        self._ids = streams.ids
        self._streams = streams
        self.entered: dict[str, int] = {}
        """Streams whose numbers this transaction looked up: true once it is committed."""
        if history.read(connection):
            streams.ids.clear()
        self.epoch_begun = history.lost
        if history.lost:
            history.begin_epoch(connection)
        self.before = history.head
        self.epoch = history.epoch
        self.log: list[LogRow] = []
        self._first_seq = self._seq = history.seq
        now = time.time()
        self._now = now
        self._now_ms = now * 1000
        self._ts = history.ts
        self._rows: dict[Key, Row | None] = {}
        self._changed: dict[Key, None] = {}

    @property
    def after(self) -> str:
        """The position up to which this transaction writes."""
        return self.before if self._seq == self._first_seq else format_position(self._seq, self.epoch)

    @property
    def seq(self) -> int:
        """The last number that this transaction took."""
        return self._seq

    def advance(self) -> None:
        """Take note of the numbers that triggers took."""
        self._seq, self._ts = self._connection.execute("SELECT seq, ts FROM motia_clock").fetchone()

    def position(self, seq: int) -> str:
        """The position of a number, be it taken by this transaction or before it."""
        return format_position(seq, self.epoch) if seq > self._first_seq else self._history.position(seq)

    @property
    def dirty(self) -> bool:
        """Whether there is anything to commit."""
        return self._seq != self._first_seq or bool(self.entered) or self.epoch_begun

    def apply(self, units: Iterable[Unit]) -> None:
        """Work out all units; each gets its results or its error."""
        ids = self._ids
        wanted: dict[Key, None] = {}
        for unit in units:
            unit.error = None
            stream = ids.get(unit.spec.name) or self._enter(unit.spec)
            for write in unit.writes:
                if write.kind != "event" or write.expect is not None:
                    assert write.id is not None
                    wanted[stream, write.group, write.id] = None
        self._fetch(wanted)
        for unit in units:
            spec = unit.spec
            stream = ids.get(spec.name) or self.entered[spec.name]
            try:
                if len(unit.writes) == 1:
                    unit.results = (self._apply(stream, spec.log, unit.writes[0]),)
                else:
                    unit.results = self._apply_all(stream, spec.log, unit.writes)
            except Exception as error:  # whatever check and resolve raise is the caller's
                unit.error = error

    def _enter(self, spec: StreamSpec) -> int:
        stream = self.entered.get(spec.name)
        if stream is None:
            stream = self.entered[spec.name] = self._streams.enter(self._connection, spec)
        return stream

    def _apply_all(self, stream: int, log: bool, writes: Sequence[Write]) -> list[WriteResult | None]:
        """All of these writes, or none of them."""
        seq, ts, logged = self._seq, self._ts, len(self.log)
        keys = [(stream, write.group, write.id) for write in writes if write.id is not None]
        before = {key: self._rows[key] for key in keys if key in self._rows}
        try:
            return [self._apply(stream, log, write) for write in writes]
        except BaseException:
            self._seq, self._ts = seq, ts
            del self.log[logged:]
            self._rows.update(before)
            raise

    def _apply(self, stream: int, log: bool, write: Write) -> WriteResult | None:
        """One write. Whatever may raise comes before whatever changes something."""
        group, id = write.group, write.id
        if write.kind == "event":
            if write.expect is not None:
                assert id is not None
                write.check(self._version(self._rows[stream, group, id]))
            position = self._take(stream, log, "event", group, id, write.json, write.event_type)
            return WriteResult("event", group, id, None, None, "", position, self._ts)
        assert id is not None
        key = (stream, group, id)
        row = self._rows[key]
        if write.expect is not None:
            write.check(self._version(row))
        expired = row is not None and row[2] is not None and row[2] <= self._now
        old = None if row is None or expired else row[0]
        new = write.resolve(old)
        if expired:
            assert row is not None
            self._take(stream, log, "delete", group, id, row[0], None)
            self._rows[key] = row = None
            self._changed[key] = None
        type: ChangeType
        if new is not None:
            type = "create" if old is None else "update"
            position = self._take(stream, log, type, group, id, new, None)
            if write.kind == "set":
                deadline = None if write.ttl is None else self._now + write.ttl
            else:
                deadline = None if row is None else row[2]
            self._rows[key] = (new, self._seq, deadline)
        elif old is not None:
            type = "delete"
            position = self._take(stream, log, type, group, id, old, None)
            self._rows[key] = None
        else:
            return None
        self._changed[key] = None
        return WriteResult(type, group, id, old, new, position, position, self._ts)

    def expire(self, limit: int) -> bool:
        """Delete items whose deadline has passed, ``limit`` at most. Whether there may be more."""
        due = self._connection.execute(
            f"SELECT stream, grp, item.id, json, logged {EXPIRED} ORDER BY expires LIMIT ?",
            (self._now, self._streams.namespace, limit),
        ).fetchall()
        for stream, group, id, json, logged in due:
            self._take(stream, bool(logged), "delete", group, id, json, None)
            self._rows[stream, group, id] = self._changed[stream, group, id] = None
        return len(due) == limit

    def committed(self) -> None:
        """Tell what the transaction was given (streams, history) that it is committed."""
        self._ids.update(self.entered)
        self._history.seq, self._history.ts, self._history.lost = self._seq, self._ts, False

    def flush(self) -> None:
        """Write all that was worked out."""
        connection = self._connection
        rows = self._rows
        stored: list[tuple[Any, ...]] = []
        deleted: list[Key] = []
        for key in self._changed:
            row = rows[key]
            if row is None:
                deleted.append(key)
            else:
                stored.append(key + row)
        for chunk in _chunks(stored):
            connection.execute(_STORE[len(chunk)], tuple(chain.from_iterable(chunk)))
        if deleted:
            connection.executemany("DELETE FROM motia_items WHERE stream = ? AND grp = ? AND id = ?", deleted)
        for part in _chunks(self.log):
            connection.execute(_LOG[len(part)], tuple(chain.from_iterable(part)))
        if self._seq != self._first_seq:
            connection.execute("UPDATE motia_clock SET seq = ?, ts = ?", (self._seq, self._ts))

    def _fetch(self, wanted: dict[Key, None]) -> None:
        self._rows.update(dict.fromkeys(wanted))
        for chunk in _chunks(list(wanted)):
            found = self._connection.execute(_FIND[len(chunk)], tuple(chain.from_iterable(chunk)))
            for stream, group, id, json, seq, deadline in found.fetchall():
                self._rows[stream, group, id] = (json, seq, deadline)

    def _version(self, row: Row | None) -> str | None:
        if row is None or (row[2] is not None and row[2] <= self._now):
            return None
        return self.position(row[1])

    def _take(
        self,
        stream: int,
        log: bool,
        type: ChangeType,
        group: str,
        id: str | None,
        json: bytes | None,
        event_type: str | None,
    ) -> str:
        """Take the next place in the order and log the change. Its position."""
        self._seq = seq = self._seq + 1
        earliest = self._ts + _STEP
        self._ts = ts = self._now_ms if self._now_ms > earliest else earliest
        if log:
            self.log.append((seq, stream, type, group, id, json, ts, event_type))
        return f"{seq:016x}-{self.epoch}"


def _chunks(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """``rows`` in pieces of the sizes that statements exist for."""
    start, left = 0, len(rows)
    for size in _SIZES:
        while left >= size:
            yield rows[start : start + size]
            start += size
            left -= size
