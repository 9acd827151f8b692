"""What is read from the file. Each function runs in the reader thread, inside one read transaction."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from motia_adapters.sqlite.history import History
from motia_adapters.sqlite.mapped.reads import Rows, lenient
from motia_adapters.sqlite.transaction import LogRow
from motia_core.errors import PositionExpired
from motia_core.model import Change, Item, Snapshot

PAGE = 1_000
"""Log rows in one page, at most."""
PAGE_BYTES = 4 * 2**20
"""Bytes of values after which a page ends."""
LIST_PAGE = 5_000
"""Items or groups that one read returns, at most, so that others' reads get their turn."""

_COLUMNS = "seq, stream, type, grp, id, json, ts, event_type"


class SchemaMoved(Exception):
    """The file's schema has changed: what is known of the mapped table may be wrong."""


class View:
    """One read transaction: its connection, its moment, and the history as of then."""

    def __init__(self, connection: sqlite3.Connection, namespace: str) -> None:
        self.connection = connection
        self.history = History()
        self.now = 0.0
        self.rows: Rows | None = None
        """The mapped table, if there is one."""
        self._namespace = namespace
        self._streams: dict[str, int] = {}

    def refresh(self) -> None:
        """Begin anew, at the start of a read transaction. Raises `SchemaMoved`."""
        if self.rows is not None:
            (version,) = self.connection.execute("PRAGMA schema_version").fetchone()
            if version != self.rows.mapped.schema_version:
                raise SchemaMoved
        self.now = time.time()
        if self.history.read(self.connection):
            self._streams.clear()

    def stream(self, name: str) -> int | None:
        """The number of a stream, if it has one yet."""
        if self.rows is not None and not name.startswith("$"):
            return self.rows.mapped.stream
        found = self._streams.get(name)
        if found is None:
            row = self.connection.execute(
                "SELECT id FROM motia_streams WHERE namespace = ? AND name = ?", (self._namespace, name)
            ).fetchone()
            if row is None:
                return None
            found = self._streams[name] = row[0]
        return found

    def floor(self, stream: int | None) -> int:
        """The sequence number up to which a stream's log is gone."""
        row = self.connection.execute("SELECT floor FROM motia_streams WHERE id = ?", (stream,)).fetchone()
        return row[0] if row else 0

    def log(self, where: str, parameters: Sequence[object]) -> tuple[list[LogRow], bool]:
        """A portion of the log: rows up to a page's size, and whether there may be more."""
        connection, rows = self.connection, self.rows
        if rows is None:
            return _portion(connection.execute(f"SELECT {_COLUMNS} FROM motia_log AS l {where}", parameters))
        return lenient(connection, lambda: _portion(rows.log(connection, where, parameters)))


@dataclass(frozen=True, slots=True)
class Page:
    """Changes of one stream, and the position up to which they are all."""

    changes: tuple[Change, ...]
    position: str


@dataclass(frozen=True, slots=True)
class Stretch:
    """Changes of several streams by stream number, in order, from one position to another.

    ``more``: the log goes on. ``gapped``: streams of which changes may be missing.
    ``start`` is ``None`` if the position asked for is in no history that is still here.
    """

    start: str | None
    end: str
    changes: Mapping[int, list[Change]]
    gapped: frozenset[int]
    more: bool


def get(view: View, name: str, group: str, id: str) -> Item | None:
    """One item."""
    row = view.connection.execute(
        "SELECT json, seq, expires FROM motia_items WHERE stream = ? AND grp = ? AND id = ?",
        (view.stream(name), group, id),
    ).fetchone()
    if row is None or (row[2] is not None and row[2] <= view.now):
        return None
    return Item(group, id, row[0], view.history.position(row[1]), row[2] is not None)


def list_items(view: View, name: str, group: str, after: str, limit: int) -> list[Item]:
    """Items of a group in the order of their ids."""
    rows = view.connection.execute(
        "SELECT id, json, seq, expires FROM motia_items WHERE stream = ? AND grp = ? AND id > ?"
        " AND (expires IS NULL OR expires > ?) ORDER BY id LIMIT ?",
        (view.stream(name), group, after, view.now, limit),
    ).fetchall()
    position = view.history.position
    return [Item(group, id, json, position(seq), expires is not None) for id, json, seq, expires in rows]


def list_groups(view: View, name: str, after: str, limit: int) -> list[str]:
    """Groups that have items, each found by one step in the index."""
    rows = view.connection.execute(
        """
        WITH RECURSIVE groups(grp) AS (
            SELECT min(grp) FROM motia_items WHERE stream = :stream AND grp > :after
            UNION ALL
            SELECT (SELECT min(grp) FROM motia_items WHERE stream = :stream AND grp > groups.grp)
            FROM groups WHERE grp IS NOT NULL
        )
        SELECT grp FROM groups WHERE grp IS NOT NULL AND EXISTS (
            SELECT 1 FROM motia_items AS item WHERE stream = :stream AND item.grp = groups.grp
            AND (expires IS NULL OR expires > :now)
        ) LIMIT :limit
        """,
        {"stream": view.stream(name), "after": after, "now": view.now, "limit": limit},
    ).fetchall()
    return [group for (group,) in rows]


def snapshot(view: View, name: str, group: str, id: str | None, limit: int | None) -> Snapshot:
    """Items and the position up to which they are true."""
    if id is None:
        items = list_items(view, name, group, "", -1 if limit is None else limit)
    else:
        item = get(view, name, group, id)
        items = [] if item is None or limit == 0 else [item]
    return Snapshot(tuple(items), view.history.head, view.history.ts)


def head(view: View) -> str:
    """The position of the last change."""
    return view.history.head


def start(view: View, name: str) -> tuple[int | None, str]:
    """What a watch needs to begin: the stream's number, if it has one, and the head."""
    return view.stream(name), view.history.head


def floor(view: View, name: str) -> str:
    """The oldest position that a watch can start from."""
    return view.history.position(view.floor(view.stream(name)))


def page(view: View, name: str, after: str) -> Page:
    """The changes of one stream that follow position ``after``. Raises `PositionExpired`."""
    stream = view.stream(name)
    seq = view.history.number(after, view.floor(stream))
    rows, full = view.log("WHERE l.stream = ? AND l.seq > ? ORDER BY l.seq LIMIT ?", (stream, seq, PAGE))
    changes = tuple(to_change(name, row, view.history.position(row[0])) for row in rows)
    return Page(changes, changes[-1].position if full else view.history.head)


def stretch(view: View, names: Mapping[int, str], after: str) -> Stretch:
    """The changes of the streams ``names`` that follow position ``after``."""
    history = view.history
    try:
        seq = history.number(after, 0)
    except PositionExpired:
        return Stretch(None, history.head, {}, frozenset(), False)
    if seq == history.seq:
        return Stretch(after, after, {}, frozenset(), False)
    marks = ",".join("?" * len(names))
    gapped = view.connection.execute(f"SELECT id FROM motia_streams WHERE id IN ({marks}) AND floor > ?", (*names, seq))
    missing = frozenset(stream for (stream,) in gapped.fetchall())
    # "+stream": walk the log by number; the rows of one stream alone lie together in its index.
    which = "l.stream = ?" if len(names) == 1 else f"+l.stream IN ({marks})"
    rows, full = view.log(f"WHERE {which} AND l.seq > ? ORDER BY l.seq LIMIT ?", (*names, seq, PAGE))
    changes: dict[int, list[Change]] = {}
    for row in rows:
        changes.setdefault(row[1], []).append(to_change(names[row[1]], row, history.position(row[0])))
    return Stretch(after, history.position(rows[-1][0]) if full else history.head, changes, missing, full)


def to_change(name: str, row: LogRow, position: str) -> Change:
    """A row of the log, as a change of the stream ``name``."""
    _, _, type, group, id, json, ts, event_type = row
    version = None if type == "event" else position
    return Change(type, name, group, id, json, ts, version, position, event_type)


def _portion(cursor: Iterable[LogRow]) -> tuple[list[LogRow], bool]:
    """Rows up to a page's size, and whether there may be more."""
    rows: list[LogRow] = []
    size = 0
    for row in cursor:
        rows.append(row)
        if row[5] is not None:
            size += len(row[5])
        if size >= PAGE_BYTES:
            return rows, True
    return rows, len(rows) == PAGE
