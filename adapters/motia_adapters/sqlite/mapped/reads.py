"""What is read from a mapped table and its history, inside one read transaction (A6, B2)."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from motia_adapters.sqlite.mapped.capture import Mapped, count_unusable
from motia_adapters.sqlite.mapped.cells import Raw
from motia_adapters.sqlite.mapped.table import Table, quote
from motia_adapters.sqlite.transaction import LogRow
from motia_core.adapter import Finding
from motia_core.model import Item

_Result = TypeVar("_Result")

_log = logging.getLogger(__name__)


def lenient(connection: sqlite3.Connection, read: Callable[[], _Result]) -> _Result:
    """``read()``, again if text turns out not to be UTF-8: its odd bytes are lone surrogates then."""
    try:
        return read()
    except sqlite3.OperationalError as error:
        if "decode" not in str(error):
            raise
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    try:
        return read()
    finally:
        connection.text_factory = str


class Rows:
    """The SQL that reads one mapped table."""

    __slots__ = ("_get", "_groups", "_list", "_log", "mapped")

    def __init__(self, mapped: Mapped) -> None:
        self.mapped = mapped
        table = mapped.table
        group, id, name = table.group, table.id, quote(table.name)
        versions = f"LEFT JOIN motia_versions_{mapped.stream} AS v ON v.grp = t.{quote(group.name)}"
        versions += f" AND v.id = t.{quote(id.name)}"
        source = (
            f"SELECT coalesce(v.seq, {mapped.baseline}), {', '.join(table.cells('t')[1:])} FROM {name} AS t {versions}"
        )
        self._get = f"{source} WHERE {group.exact('t')} = ? AND {id.exact('t')} = ?"
        order = f"CAST(t.{quote(id.name)} AS TEXT)" if id.integer else id.exact("t")
        self._list = (
            f"{source} WHERE {group.exact('t')} = ? AND {order} > CAST(? AS TEXT) AND {table.usable('t')}"
            f" ORDER BY {order} LIMIT ?"
        )
        column = group.exact("t")
        start = "" if group.integer else f" WHERE {column} > CAST(:after AS TEXT)"
        self._groups = (
            f"WITH RECURSIVE groups(grp) AS (SELECT min({column}) FROM {name} AS t{start} UNION ALL"
            f" SELECT (SELECT min({column}) FROM {name} AS t WHERE {column} > groups.grp)"
            " FROM groups WHERE grp IS NOT NULL) SELECT grp FROM groups WHERE grp IS NOT NULL AND EXISTS"
            f" (SELECT 1 FROM {name} AS t WHERE {column} = groups.grp AND {table.usable('t')}) LIMIT :limit"
        )
        cells = "".join(f", r.c{number}" for number in range(len(table.columns)))
        self._log = (
            f"SELECT l.seq, l.stream, l.type, l.grp, l.id, l.json, l.ts, l.event_type{cells} FROM motia_log AS l"
            f" LEFT JOIN motia_rows_{mapped.stream} AS r ON r.seq = l.seq AND l.stream = {mapped.stream}"
        )

    @property
    def table(self) -> Table:
        """The table that is read."""
        return self.mapped.table

    def get(self, connection: sqlite3.Connection, group: str, id: str) -> tuple[int, Sequence[Raw]] | None:
        """The number of a row's last change, and its cells. Raises `InvalidName`."""
        keys = (self.table.group.raw(group, "group id"), self.table.id.raw(id, "item id"))
        row = lenient(connection, lambda: connection.execute(self._get, keys).fetchone())
        return None if row is None else (row[0], row[2:])

    def items(
        self, connection: sqlite3.Connection, group: str, after: bytes, limit: int, position: Callable[[int], str]
    ) -> tuple[list[Item], bytes | None]:
        """Items of a group after an id, and where to go on if there may be more."""
        key = self.table.group.raw(group, "group id")
        rows = lenient(connection, lambda: connection.execute(self._list, (key, after, limit)).fetchall())
        json, text = self.table.json, self.table.id.text
        items: list[Item] = []
        for seq, raw, *cells in rows:
            id = text(raw)
            if id is None:
                self._warn()
            else:
                items.append(Item(group, id, json(group, id, cells), position(seq)))
        return items, _cursor(rows[-1][1]) if len(rows) == limit else None

    def groups(self, connection: sqlite3.Connection, after: bytes, limit: int | None) -> tuple[list[str], bytes | None]:
        """Groups after one, and where to go on if there may be more."""
        size = -1 if limit is None or self.table.group.integer else limit
        parameters = {"after": after, "limit": size}
        rows = lenient(connection, lambda: connection.execute(self._groups, parameters).fetchall())
        found = [text for (raw,) in rows if (text := self.table.group.text(raw)) is not None]
        if self.table.group.integer:
            # Numbers are found in their own order; groups are wanted in that of their text.
            found = sorted(text for text in found if text.encode() > after)
            return found if limit is None else found[:limit], None
        if len(found) < len(rows):
            self._warn()
        return found, _cursor(rows[-1][0]) if rows and len(rows) == limit else None

    def log(self, connection: sqlite3.Connection, where: str, parameters: Sequence[Any]) -> Iterator[LogRow]:
        """Rows of the log, with the values of the table's own changes; for `lenient`."""
        return self._rows(connection.execute(f"{self._log} {where}", parameters))

    def _rows(self, rows: Iterable[tuple[Any, ...]]) -> Iterator[LogRow]:
        stream, table = self.mapped.stream, self.table
        for row in rows:
            if row[1] != stream or row[2] == "event":
                yield _log_row(row, row[5])
            elif table.group.text(row[3]) is None or table.id.text(row[4]) is None:
                self._warn()
            else:
                yield _log_row(row, table.json(row[3], row[4], row[8:]))

    def _warn(self) -> None:
        if self.table.name not in _warned:
            _warned.add(self.table.name)
            _log.warning("sqlite: table %r has groups or ids that are not UTF-8; they are not shown", self.table.name)

    def diagnose(self, connection: sqlite3.Connection) -> list[Finding]:
        """What ``doctor`` says about the table."""
        table = self.table
        findings = [
            Finding(
                "ok",
                f"table {table.name!r} is mapped: groups in {table.group.name!r}, ids in {table.id.name!r};"
                " changes are captured by triggers",
            )
        ]
        unusable = count_unusable(connection, table)
        if unusable:
            findings.append(
                Finding(
                    "warning",
                    f"{unusable} rows of table {table.name!r} cannot be items and are not shown:"
                    f" {table.group.name!r} or {table.id.name!r} is NULL, empty, too long, of another type,"
                    " or holds control characters",
                    f"SELECT * FROM {quote(table.name)} AS t WHERE NOT ({table.usable('t')})",
                )
            )
        return findings + [Finding("warning", hint, remedy) for hint, remedy in table.hints]


_warned: set[str] = set()


def _log_row(row: Sequence[Any], json: bytes | None) -> LogRow:
    return row[0], row[1], row[2], row[3], row[4], json, row[6], row[7]


def _cursor(raw: Raw) -> bytes:
    return (raw if isinstance(raw, str) else str(raw)).encode("utf-8", "surrogateescape")
