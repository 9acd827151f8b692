"""The triggers that write down each change of a mapped table, in the transaction that makes it (B1, B5).

Three triggers on the table tell a view (``motia_change_N``) what happened to a row; the
view's own trigger takes the next number and writes the log, as one subroutine. The cells
are copied as they are into ``motia_rows_N``: JSON is made of them when they are read,
because SQLite's printing of numbers is neither exact nor the same in all versions.

``INSERT OR REPLACE`` removes rows without a delete trigger (unless recursive_triggers is
on). So before an insert or update the rows in its way are put aside, and afterwards those
that are gone are logged. Nothing here relies on ON CONFLICT or on what a statement's own
conflict clause, which triggers inherit, would change.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from motia_adapters.sqlite.mapped.describe import describe
from motia_adapters.sqlite.mapped.table import Key, Table, quote
from motia_adapters.sqlite.options import MappedOptions
from motia_core.errors import ConfigError

OWNER = "*"
"""The namespace of mapped tables' streams: every namespace shares them."""

_MAPS = """
CREATE TABLE IF NOT EXISTS motia_maps (     -- mapped tables
    stream   INTEGER PRIMARY KEY,           -- the number N in the names of what belongs to it
    tbl      TEXT NOT NULL,
    grp      TEXT NOT NULL,                 -- the column of the groups
    id       TEXT NOT NULL,                 -- the column of the ids
    columns  TEXT NOT NULL,                 -- those of the value, c0, c1... in motia_rows_N (a JSON list)
    baseline INTEGER NOT NULL               -- the version of rows that did not change since
)
"""
_NOW = "(julianday('now') - 2440587.5) * 86400000.0"
_TRIGGERS = 5  # on the user's table
_SCANNED = 1_000_000  # rows that are looked at for unusable ones when the file is opened

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Mapped:
    """A table whose changes are captured, as of one version of the file's schema."""

    table: Table
    stream: int
    baseline: int
    schema_version: int


def install(connection: sqlite3.Connection, options: MappedOptions, path: Path) -> Mapped:
    """Have the table's changes captured; inside a write transaction.

    Where the triggers are not exactly those that its columns and indexes need, they are made
    (anew), and history begins anew with them: changes may have passed unseen. Raises `ConfigError`.
    """
    table = describe(connection, options)
    connection.execute(_MAPS)
    row = connection.execute(
        "SELECT stream, grp, id, columns, baseline FROM motia_maps WHERE tbl = ?", (table.name,)
    ).fetchone()
    if row is not None and (row[1], row[2]) != (table.group.name, table.id.name):
        raise ConfigError(
            f"sqlite: table {table.name!r} of {path} is mapped with group_field {row[1]!r} and id_field {row[2]!r}"
            " already; remove that mapping first (see the adapter's README)"
        )
    stream = row[0] if row is not None else _new_stream(connection, table)
    if row is not None and row[3] == _layout(table) and _capturing(connection, table, stream):
        baseline = row[4]
    else:
        if row is not None:
            _log.warning(
                "sqlite: table %r of %s has changed its shape or lost its triggers: its history begins anew",
                table.name,
                path,
            )
        baseline = _capture(connection, table, stream)
    (version,) = connection.execute("PRAGMA schema_version").fetchone()
    return Mapped(table, stream, baseline, version)


def remove(connection: sqlite3.Connection, table: str) -> bool:
    """Take away the triggers, side tables and history of a mapped table; whether it was mapped.

    Inside a write transaction. The table itself stays as it is.
    """
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'motia_maps'").fetchone() is None:
        return False
    streams = connection.execute("SELECT stream FROM motia_maps WHERE tbl = ?", (table,)).fetchall()
    for (stream,) in streams:
        _drop(connection, stream)
        connection.execute("DELETE FROM motia_log WHERE stream = ?", (stream,))
        connection.execute("DELETE FROM motia_streams WHERE id = ?", (stream,))
        connection.execute("DELETE FROM motia_maps WHERE stream = ?", (stream,))
    return bool(streams)


def remove_mapping(path: str | Path, table: str, *, timeout: float = 5.0) -> bool:
    """Undo the mapping of a table while no program has it open as a storage; whether there was one.

    The table and its rows stay exactly as they are. Raises `sqlite3.Error`.
    """
    connection = sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=rw", uri=True, timeout=timeout)
    connection.isolation_level = None
    with contextlib.closing(connection):
        connection.execute("BEGIN IMMEDIATE")
        found = remove(connection, table)
        connection.execute("COMMIT")
    return found


def count_unusable(connection: sqlite3.Connection, table: Table, limit: int = -1) -> int:
    """Rows (of the first ``limit``) that cannot be items, by their group or id."""
    keys = f"{quote(table.group.name)}, {quote(table.id.name)}"
    sql = f"SELECT count(*) FROM (SELECT {keys} FROM {quote(table.name)} LIMIT ?) AS t WHERE NOT ({table.usable('t')})"
    return int(connection.execute(sql, (limit,)).fetchone()[0])


def warn_of_unusable(connection: sqlite3.Connection, table: Table, path: Path) -> None:
    """Say in the log if there are rows that cannot be items (A9)."""
    found = count_unusable(connection, table, _SCANNED)
    if found:
        _log.warning(
            "sqlite: %d rows of table %r of %s cannot be items and are not shown: their %r or %r is NULL, empty, too"
            " long, of another type, or holds control characters",
            found,
            table.name,
            path,
            table.group.name,
            table.id.name,
        )


def _new_stream(connection: sqlite3.Connection, table: Table) -> int:
    key = (OWNER, table.name)
    connection.execute("INSERT INTO motia_streams (namespace, name, logged) VALUES (?, ?, 1)", key)
    (stream,) = connection.execute("SELECT id FROM motia_streams WHERE namespace = ? AND name = ?", key).fetchone()
    return int(stream)


def _capturing(connection: sqlite3.Connection, table: Table, stream: int) -> bool:
    """Whether all is there that captures changes, exactly as it must be.

    Of several triggers SQLite runs the newest first: ours must, to see each change before its consequences.
    """
    wanted = statements(table, stream)
    found = {sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master")}
    if not all(statement in found for statement in wanted):
        return False
    triggers = connection.execute(
        "SELECT sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ? COLLATE NOCASE ORDER BY rowid",
        (table.name,),
    ).fetchall()
    return all(sql in wanted for (sql,) in triggers[-_TRIGGERS:])


def _capture(connection: sqlite3.Connection, table: Table, stream: int) -> int:
    """Make all that captures changes, and begin history anew; the number of the rows as they are now."""
    _drop(connection, stream)
    for statement in statements(table, stream):
        connection.execute(statement)
    connection.execute(f"UPDATE motia_clock SET seq = seq + 1, ts = max({_NOW}, ts + 0.001)")
    (seq,) = connection.execute("SELECT seq FROM motia_clock").fetchone()
    connection.execute("DELETE FROM motia_log WHERE stream = ?", (stream,))
    connection.execute("UPDATE motia_streams SET floor = ? WHERE id = ?", (seq, stream))
    connection.execute(
        "INSERT OR REPLACE INTO motia_maps (stream, tbl, grp, id, columns, baseline) VALUES (?, ?, ?, ?, ?, ?)",
        (stream, table.name, table.group.name, table.id.name, _layout(table), seq),
    )
    return int(seq)


def _layout(table: Table) -> str:
    """The columns of the value. SQLite renames columns in triggers, so those do not tell."""
    return json.dumps([column.name for column in table.columns])


def _drop(connection: sqlite3.Connection, stream: int) -> None:
    names = {
        **{
            f"motia_{stream}_{event}": "TRIGGER"
            for event in ("deleted", "inserting", "inserted", "updating", "updated")
        },
        f"motia_change_{stream}": "VIEW",
        f"motia_rows_{stream}": "TABLE",
        f"motia_versions_{stream}": "TABLE",
        f"motia_replaced_{stream}": "TABLE",
    }
    for name, kind in names.items():
        connection.execute(f"DROP {kind} IF EXISTS {name}")


def statements(table: Table, stream: int) -> list[str]:
    """The SQL that has the table's changes captured as those of stream number ``stream``.

    The user's table is ``t`` below, ``p`` a row that was put aside.
    """
    name, group, id = quote(table.name), table.group, table.id
    cells = [f"c{number}" for number in range(len(table.columns))]
    columns = ", ".join(["grp", "id", *cells])
    old, current = (", ".join(table.cells(row)) for row in ("OLD", "t"))
    change, rows = f"motia_change_{stream}", f"motia_rows_{stream}"
    versions, replaced = f"motia_versions_{stream}", f"motia_replaced_{stream}"

    is_new = f"{group.exact('t')} = NEW.{quote(group.name)} AND {id.exact('t')} = NEW.{quote(id.name)}"
    cause = f"{_cause('for_grp', group)} AND {_cause('for_id', id)}"
    of_new = f"grp IS NEW.{quote(group.name)} AND id IS NEW.{quote(id.name)}"
    of_old = f"grp IS OLD.{quote(group.name)} AND id IS OLD.{quote(id.name)}"
    same = table.same("OLD", "NEW")
    conflicts = " OR ".join(f"({unique.conflict('t', 'NEW')})" for unique in table.uniques)
    watched = sorted({quote(column) for unique in table.uniques for column, how in unique.columns if how})

    put_aside = (
        f"  INSERT INTO {replaced} SELECT NEW.{quote(group.name)}, NEW.{quote(id.name)}, {current}\n"
        f"    FROM {name} AS t WHERE ({conflicts}) AND {table.usable('t')}"
    )
    log_gone = (
        f"  INSERT INTO {change} SELECT 'delete', {', '.join(f'p.{column}' for column in ('grp', 'id', *cells))}\n"
        f"    FROM {replaced} AS p WHERE {cause} AND NOT EXISTS\n"
        f"    (SELECT 1 FROM {name} AS t WHERE {group.exact('t')} = p.grp AND {id.exact('t')} = p.id);\n"
        # Once told, whatever else put them aside (a statement that then did nothing) must not tell it again.
        f"  DELETE FROM {replaced} WHERE rowid IN (SELECT q.rowid FROM {replaced} AS p JOIN {replaced} AS q"
        f" ON q.grp = p.grp AND q.id = p.id\n    WHERE {_cause('p.for_grp', group)} AND {_cause('p.for_id', id)}"
        f" AND NOT EXISTS\n"
        f"    (SELECT 1 FROM {name} AS t WHERE {group.exact('t')} = p.grp AND {id.exact('t')} = p.id));\n"
    )
    was_there = f"EXISTS (SELECT 1 FROM {replaced} WHERE {cause} AND {of_new})"
    forget = f"  DELETE FROM {replaced} WHERE {cause};\n"
    return [
        f"CREATE TABLE {rows} (seq INTEGER PRIMARY KEY{''.join(f', {cell}' for cell in cells)})",
        f"CREATE TABLE {versions} (grp {group.type}, id {id.type}, seq INTEGER NOT NULL,"
        " PRIMARY KEY (grp, id)) WITHOUT ROWID",
        f"CREATE TABLE {replaced} (for_grp {group.type}, for_id {id.type}, grp {group.type}, id {id.type}"
        f"{''.join(f', {cell}' for cell in cells)})",
        f"CREATE INDEX {replaced}_for ON {replaced} (for_grp, for_id)",
        f"CREATE INDEX {replaced}_key ON {replaced} (grp, id)",
        f"CREATE VIEW {change} (type, {columns}) AS SELECT {', '.join(['NULL'] * (len(cells) + 3))}",
        f"CREATE TRIGGER motia_{stream}_log INSTEAD OF INSERT ON {change} BEGIN\n"
        f"  UPDATE motia_clock SET seq = seq + 1, ts = max({_NOW}, ts + 0.001);\n"
        f"  INSERT INTO motia_log (seq, stream, type, grp, id, ts)\n"
        f"    SELECT seq, {stream}, NEW.type, NEW.grp, NEW.id, ts FROM motia_clock;\n"
        f"  INSERT INTO {rows} SELECT seq{''.join(f', NEW.{cell}' for cell in cells)} FROM motia_clock;\n"
        f"  DELETE FROM {versions} WHERE grp = NEW.grp AND id = NEW.id;\n"
        f"  INSERT INTO {versions} SELECT NEW.grp, NEW.id, seq FROM motia_clock WHERE NEW.type <> 'delete';\n"
        "END",
        f"CREATE TRIGGER motia_{stream}_deleted AFTER DELETE ON {name} BEGIN\n"
        f"  DELETE FROM {replaced} WHERE {of_old};\n"
        f"  INSERT INTO {change} SELECT 'delete', {old} WHERE {table.usable('OLD')};\n"
        "END",
        f"CREATE TRIGGER motia_{stream}_inserting BEFORE INSERT ON {name} BEGIN\n{forget}{put_aside};\nEND",
        f"CREATE TRIGGER motia_{stream}_inserted AFTER INSERT ON {name} BEGIN\n{log_gone}"
        f"  INSERT INTO {change} SELECT CASE WHEN {was_there} THEN 'update' ELSE 'create' END, {current}\n"
        f"    FROM {name} AS t WHERE {is_new} AND {table.usable('NEW')};\n{forget}END",
        f"CREATE TRIGGER motia_{stream}_updating BEFORE UPDATE OF {', '.join(watched)} ON {name} BEGIN\n{forget}"
        f"{put_aside}\n    AND NOT ({table.same('t', 'OLD')});\nEND",
        f"CREATE TRIGGER motia_{stream}_updated AFTER UPDATE ON {name} BEGIN\n"
        f"  DELETE FROM {replaced} WHERE {of_old};\n{log_gone}"
        f"  INSERT INTO {change} SELECT 'delete', {old} WHERE {table.usable('OLD')} AND NOT ({same});\n"
        f"  INSERT INTO {change} SELECT CASE WHEN ({same}) OR {was_there} THEN 'update' ELSE 'create' END, {current}\n"
        f"    FROM {name} AS t WHERE {is_new} AND {table.usable('NEW')};\n{forget}END",
    ]


def _cause(column: str, key: Key) -> str:
    """What was put aside for NEW; before an insert, a rowid that SQLite will choose is -1."""
    cell = f"NEW.{quote(key.name)}"
    return f"{column} IN ({cell}, -1)" if key.rowid else f"{column} IS {cell}"
