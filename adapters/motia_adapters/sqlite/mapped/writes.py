"""Our own writes to a mapped table: ordinary SQL, captured by the same triggers as everybody's (A1-A7)."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from motia_adapters.sqlite.failures import primary_code
from motia_adapters.sqlite.mapped.cells import Raw, step
from motia_adapters.sqlite.mapped.reads import Rows, lenient
from motia_adapters.sqlite.mapped.table import quote
from motia_adapters.sqlite.transaction import LogRow, Transaction, Unit
from motia_core.errors import BackendError, InvalidValue, MotiaError
from motia_core.model import ChangeType, Write, WriteResult
from motia_core.values import decode

_REFUSALS = (sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG)
_COLUMN = re.compile(r"NOT NULL constraint failed: .*\.(.+)\Z")
_TAKE = "UPDATE motia_clock SET seq = seq + 1, ts = max((julianday('now') - 2440587.5) * 86400000.0, ts + 0.001)"


class Undone(Exception):
    """A constraint or trigger of the user's took the whole transaction back; ``reason`` is for who caused it."""

    def __init__(self, reason: MotiaError) -> None:
        super().__init__(str(reason))
        self.reason = reason


def is_refusal(error: BaseException) -> bool:
    """Whether the table refuses a write by its own rules."""
    return primary_code(error) in _REFUSALS


def refusal(table: str, error: sqlite3.Error) -> MotiaError:
    """This project's error for a write that the table refuses."""
    found = _COLUMN.search(str(error))
    path = step(found[1]) if found else "$"
    translated: MotiaError
    if is_refusal(error):
        translated = InvalidValue(f"table {table!r} refuses it: {error}", path=path)
    else:
        translated = BackendError(f"sqlite: cannot write to table {table!r}: {error}")
    translated.__cause__ = error
    return translated


class TableWrites:
    """Applies units to the mapped table, one after the other, inside one transaction."""

    def __init__(self, connection: sqlite3.Connection, rows: Rows, transaction: Transaction) -> None:
        self._connection = connection
        self._rows = rows
        self._table = rows.table
        self._transaction = transaction
        self._name = quote(rows.table.name)
        self._keys = (quote(rows.table.group.name), quote(rows.table.id.name))
        self._where = f"WHERE {self._table.group.exact(self._name)} = ? AND {self._table.id.exact(self._name)} = ?"

    def apply(self, units: Iterable[Unit]) -> None:
        """Each unit gets its results or its error. Raises `Undone`, and what is nobody's fault."""
        for unit in units:
            unit.error = None
            self._connection.execute("SAVEPOINT motia_unit")
            log: list[LogRow] = []
            try:
                unit.results = [self._apply(write, log) for write in unit.writes]
            except sqlite3.Error as error:
                if not is_refusal(error) and primary_code(error) != sqlite3.SQLITE_ERROR:
                    raise
                unit.error = refusal(self._table.name, error)
            except Exception as error:  # whatever check and resolve raise is the caller's
                unit.error = error
            if unit.error is None:
                self._connection.execute("RELEASE motia_unit")
                self._transaction.log += log
            elif not self._connection.in_transaction:
                reason = unit.error
                raise Undone(reason if isinstance(reason, MotiaError) else BackendError(str(reason)))
            else:
                self._connection.execute("ROLLBACK TO motia_unit")
                self._connection.execute("RELEASE motia_unit")
                self._transaction.advance()

    def _apply(self, write: Write, log: list[LogRow]) -> WriteResult | None:
        group, id = write.group, write.id
        keys = self._table.group.raw(group, "group id"), None if id is None else self._table.id.raw(id, "item id")
        found = None if id is None else self._rows.get(self._connection, group, id)
        write.check(None if found is None else self._transaction.position(found[0]))
        if write.kind == "event":
            return self._send(write, log)
        assert id is not None
        cells = None if found is None else found[1]
        old = None if cells is None else self._table.json(group, id, cells)
        new = write.resolve(old)
        wanted: dict[str, Any] = {}
        if new is None:
            if old is None:
                return None
            self._connection.execute(f"DELETE FROM {self._name} {self._where}", keys)
        else:
            wanted = self._table.wanted(group, id, decode(new))
            self._store(keys, wanted, cells)
        mine = [row for row in self._captured(log) if (row[3], row[4]) == (group, id)]
        if not mine:
            raise InvalidValue(f"table {self._table.name!r} ignored it (a trigger of its own did)")
        if new is not None:
            self._check(wanted, mine[0])
        last = mine[-1]
        type: ChangeType = "delete" if new is None else "create" if old is None else "update"
        position = self._transaction.position(last[0])
        return WriteResult(type, group, id, old, None if last[2] == "delete" else last[5], position, position, last[6])

    def _store(self, keys: Sequence[object], value: dict[str, Any], old: Sequence[Raw] | None) -> None:
        """Insert or update a row, writing only the cells that change."""
        shape = self._table.shape
        cells = shape.cells(value, old)
        if old is None:
            row = [cells.get(number) for number in range(len(shape.columns))]
            names = ", ".join([*self._keys, *(quote(column.name) for column in shape.columns)])
            marks = ", ".join("?" * (len(row) + 2))
            self._connection.execute(f"INSERT INTO {self._name} ({names}) VALUES ({marks})", (*keys, *row))
            return
        # With nothing to change it is a change all the same (A2).
        changes = [f"{quote(shape.columns[number].name)} = ?" for number in cells] or [
            f"{self._keys[0]} = {self._keys[0]}"
        ]
        sql = f"UPDATE {self._name} SET {', '.join(changes)} {self._where}"
        self._connection.execute(sql, (*cells.values(), *keys))

    def _check(self, wanted: dict[str, Any], captured: LogRow) -> None:
        """Raise `InvalidValue` if the table holds something else than it was given."""
        found = {} if captured[5] is None else decode(captured[5])
        key = self._table.shape.difference(wanted, found)
        if key is not None:
            raise InvalidValue(
                f"table {self._table.name!r} would hold {repr(found.get(key))[:80]} in its place"
                " (by a column's type, or a trigger of its own)",
                path=step(key),
            )

    def _send(self, write: Write, log: list[LogRow]) -> WriteResult:
        self._connection.execute(_TAKE)
        self._connection.execute(
            "INSERT INTO motia_log (seq, stream, type, grp, id, json, ts, event_type)"
            " SELECT seq, ?, 'event', ?, ?, ?, ts, ? FROM motia_clock",
            (self._rows.mapped.stream, write.group, write.id, write.json, write.event_type),
        )
        (row,) = self._captured(log)
        return WriteResult("event", write.group, write.id, None, None, "", self._transaction.position(row[0]), row[6])

    def _captured(self, log: list[LogRow]) -> list[LogRow]:
        """What was logged since the last look."""
        before = self._transaction.seq
        self._transaction.advance()
        where = "WHERE l.stream = ? AND l.seq > ? ORDER BY l.seq"
        parameters = (self._rows.mapped.stream, before)
        rows = lenient(self._connection, lambda: list(self._rows.log(self._connection, where, parameters)))
        log += rows
        return rows
