"""What the writer thread does between writes: expired items, old log, a large WAL file."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterable

from motia_adapters.sqlite.database import Database, begin
from motia_adapters.sqlite.mapped.capture import Mapped
from motia_adapters.sqlite.transaction import EXPIRED, LogRow
from motia_core.adapter import Retention

INTERVAL = 1.0
"""Seconds between two rounds."""
PORTION = 500
"""Rows that one transaction of upkeep deletes (of the log, up to four times as many), so that writes hardly wait."""
_LARGE_WAL = 64 * 2**20
_SETTLE = 10.0  # seconds after which also a small excess is trimmed


class Trimmer:
    """Keeps each stream's log within its retention (B7)."""

    def __init__(self, retention: Retention, namespace: str) -> None:
        self._retention = retention
        self._namespace = namespace
        self._slack = (retention.count or 0) // 20
        self._added: dict[int, int] = {}
        self._trimmed: dict[int, float] = {}
        self._cuts: dict[int, int] = {}
        self._next_aging = 0.0
        self._mapped_seen = 0

    def restart(self) -> None:
        """Forget what was counted: another file may lie at the path."""
        self._added.clear()
        self._trimmed.clear()
        self._cuts.clear()
        self._next_aging = 0.0

    def count(self, log: Iterable[LogRow]) -> None:
        """Take note of rows that were logged."""
        added = self._added
        for row in log:
            added[row[1]] = added.get(row[1], 0) + 1

    def due(self, connection: sqlite3.Connection, mapped: Mapped | None = None) -> list[int]:
        """The streams that are worth a look now."""
        if mapped is not None:
            # Others write to it, too: any number that was taken may be a change of it.
            (seq,) = connection.execute("SELECT seq FROM motia_clock").fetchone()
            if seq != self._mapped_seen:
                self._added[mapped.stream] = self._added.get(mapped.stream, 0) + max(seq - self._mapped_seen, 1)
                self._mapped_seen = seq
        now = time.monotonic()
        due: list[int] = []
        age = self._retention.age
        if now >= self._next_aging:
            # Also the first round: another process may have left more than we keep.
            self._next_aging = now + (min(max(age / 10, 1.0), 60.0) if age is not None else 3600.0)
            rows = connection.execute("SELECT id FROM motia_streams WHERE namespace = ?", (self._namespace,))
            due = [stream for (stream,) in rows.fetchall()] + ([mapped.stream] if mapped is not None else [])
        if self._retention.count is not None:
            due += [
                stream
                for stream, added in self._added.items()
                if added > self._slack or now - self._trimmed.get(stream, 0.0) >= _SETTLE
            ]
        return due

    def trim(self, connection: sqlite3.Connection, stream: int, mapped: Mapped | None = None) -> bool:
        """Delete a portion of what a stream's log has too much, with the mark of how far. Whether more is left.

        Inside a write transaction.
        """
        fresh = stream not in self._cuts
        cut = self._cuts[stream] = self._cut(connection, stream) if fresh else self._cuts[stream]
        # Under a load that never pauses, a portion must outweigh what is logged until the next.
        portion = min(max(PORTION, self._added.get(stream, 0) // 10), 4 * PORTION)
        (last, found) = connection.execute(
            "SELECT max(seq), count(*) FROM"
            " (SELECT seq FROM motia_log WHERE stream = ? AND seq <= ? ORDER BY seq LIMIT ?)",
            (stream, cut, portion),
        ).fetchone()
        if found:
            connection.execute("UPDATE motia_streams SET floor = max(floor, ?) WHERE id = ?", (last, stream))
            connection.execute("DELETE FROM motia_log WHERE stream = ? AND seq <= ?", (stream, last))
            if mapped is not None and mapped.stream == stream:
                connection.execute(f"DELETE FROM motia_rows_{stream} WHERE seq <= ?", (last,))
        if found == portion:
            return True
        del self._cuts[stream]
        if not fresh:  # there may be more by now
            return True
        self._added.pop(stream, None)
        self._trimmed[stream] = time.monotonic()
        return False

    def _cut(self, connection: sqlite3.Connection, stream: int) -> int:
        """The last sequence number that need not be kept."""
        cut = 0
        if self._retention.count is not None:
            row = connection.execute(
                "SELECT seq FROM motia_log WHERE stream = ? ORDER BY seq DESC LIMIT 1 OFFSET ?",
                (stream, self._retention.count),
            ).fetchone()
            cut = row[0] if row else 0
        if self._retention.age is not None:
            oldest = (time.time() - self._retention.age) * 1000
            row = connection.execute(
                "SELECT max(seq) FROM"
                " (SELECT seq, ts FROM motia_log WHERE stream = ? ORDER BY seq LIMIT ?) WHERE ts < ?",
                (stream, PORTION, oldest),
            ).fetchone()
            cut = max(cut, row[0] or 0)
        return cut


class Upkeep:
    """Rounds of upkeep. ``expire`` commits the deletes of some expired items; whether more are left."""

    def __init__(self, database: Database, namespace: str, trimmer: Trimmer, expire: Callable[[], bool]) -> None:
        self._database = database
        self._namespace = namespace
        self._trimmer = trimmer
        self._expire = expire
        self._next = 0.0

    def wait(self) -> float:
        """Seconds until the next round."""
        return max(0.0, self._next - time.monotonic())

    def round(self, interrupted: Callable[[], bool]) -> None:
        """One round, which goes on soon if ``interrupted`` by writes that wait. Raises sqlite3's errors."""
        self._next = time.monotonic() + INTERVAL
        connection = self._database.writer
        expired = f"SELECT 1 {EXPIRED} LIMIT 1"
        if connection.execute(expired, (time.time(), self._namespace)).fetchone():
            while self._expire():
                if interrupted():
                    self._next = 0.0
                    return
        mapped = self._database.mapped
        if mapped is not None:
            self._clear(connection, mapped)
        for stream in self._trimmer.due(connection, mapped):
            while self._trim(connection, stream):
                if interrupted():
                    self._next = 0.0
                    return
        self._checkpoint(connection)

    def _trim(self, connection: sqlite3.Connection, stream: int) -> bool:
        begin(connection, time.monotonic() + self._database.timeout)
        try:
            if self._database.schema_moved():
                connection.execute("ROLLBACK")
                return False
            more = self._trimmer.trim(connection, stream, self._database.mapped)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return more

    def _clear(self, connection: sqlite3.Connection, mapped: Mapped) -> None:
        """Forget rows that an insert was in the way of and did not replace: INSERT OR IGNORE leaves them."""
        if self._database.schema_moved():
            self._database.remap()
            return
        table = f"motia_replaced_{mapped.stream}"
        if connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() is not None:
            connection.execute(f"DELETE FROM {table}")

    def _checkpoint(self, connection: sqlite3.Connection) -> None:
        """Start the WAL file anew where readers that never pause have let it grow."""
        try:
            size = os.stat(f"{self._database.path}-wal").st_size
        except OSError:
            return
        if size > _LARGE_WAL:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
