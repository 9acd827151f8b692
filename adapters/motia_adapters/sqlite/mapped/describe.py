"""Reads the description of the user's table, and says what stands against mapping it."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from motia_adapters.sqlite.mapped.cells import Affinity, Column, Kind, Shape
from motia_adapters.sqlite.mapped.table import Key, Table, Unique, quote
from motia_adapters.sqlite.options import MappedOptions
from motia_core.errors import ConfigError

_ALIASES = ("rowid", "_rowid_", "oid")


@dataclass(frozen=True, slots=True)
class _Index:
    columns: tuple[tuple[str | None, str], ...]
    unique: bool
    partial: bool
    name: str

    @property
    def plain(self) -> bool:
        """Of columns only, and of all rows."""
        return not self.partial and all(name is not None for name, _ in self.columns)


def describe(connection: sqlite3.Connection, options: MappedOptions) -> Table:
    """Read the table's description. Raises `ConfigError` with what stands against mapping it."""
    name = options.table
    columns, strict, rowid = _columns(connection, name)
    for option, field in options.fields():
        if field not in columns:
            shown = ", ".join(map(repr, columns))
            raise _error(name, f"has no column {field!r} ({option}); its columns: {shown}")
        if columns[field].hidden:
            raise _error(name, f"cannot have {field!r} as {option}: it is a generated column")
    indexes = _indexes(connection, name)
    rowid_alias = _rowid_alias(connection, name, columns) if rowid else None
    group = _key(name, columns[options.group_field], "group_field", rowid_alias)
    id = _key(name, columns[options.id_field], "id_field", rowid_alias)
    _check_unique(name, indexes, group, id)

    named = {field for _, field in options.fields()} - {group.name, id.name}
    values = [
        _column(name, column, options, strict)
        for column in columns.values()
        if column.name in named or not (column.hidden or column.name in (group.name, id.name, rowid_alias))
    ]
    uniques = [Unique(tuple((c or "", how) for c, how in index.columns)) for index in indexes if _usable(index)]
    alias = next((alias for alias in _ALIASES if alias not in map(str.lower, columns)), None)
    if rowid and (rowid_alias or alias):
        uniques.append(Unique(((rowid_alias, "BINARY") if rowid_alias else (alias or "", ""),)))
    hints = [*_slow(name, indexes, group, id)]
    hints += [
        (
            f"rows of table {name!r} that another program's INSERT OR REPLACE removes because of the unique index"
            f" {index.name!r} (partial, or of expressions) go unnoticed",
            "use DELETE and INSERT, or INSERT ... ON CONFLICT DO UPDATE",
        )
        for index in indexes
        if index.unique and not _usable(index)
    ]
    also = (group.name, id.name) if options.include_ids else ()
    return Table(name, group, id, Shape(name, values, also), tuple(uniques), tuple(hints), options.include_ids)


@dataclass(frozen=True, slots=True)
class _Described:
    name: str
    type: str
    not_null: bool
    key: int
    hidden: bool

    @property
    def affinity(self) -> Affinity:
        """SQLite's rules, in their order."""
        type = self.type.upper()
        if "INT" in type:
            return "INTEGER"
        if any(part in type for part in ("CHAR", "CLOB", "TEXT")):
            return "TEXT"
        if "BLOB" in type or not type:
            return "BLOB"
        return "REAL" if any(part in type for part in ("REAL", "FLOA", "DOUB")) else "NUMERIC"


def _columns(connection: sqlite3.Connection, name: str) -> tuple[dict[str, _Described], bool, bool]:
    """The columns; whether the table is STRICT; whether its rows have a rowid."""
    (encoding,) = connection.execute("PRAGMA encoding").fetchone()
    if encoding != "UTF-8":
        raise _error(name, f"lies in a database of encoding {encoding}; only UTF-8 can be mapped")
    if name.lower().startswith(("motia_", "sqlite_")):
        raise _error(name, "is no table of yours")
    found = connection.execute("SELECT type, sql FROM sqlite_master WHERE name = ?", (name,)).fetchone()
    if found is None:
        names = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'motia\\_%' ESCAPE '\\'"
            " AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name LIMIT 20"
        )
        raise _error(name, f"does not exist; tables: {', '.join(repr(n) for (n,) in names) or 'none'}")
    kind, sql = found
    if kind != "table":
        raise _error(name, f"is {'an index' if kind == 'index' else f'a {kind}'}, not a table")
    if re.match(r"\s*CREATE\s+VIRTUAL\b", sql or "", re.IGNORECASE):
        raise _error(name, "is a virtual table, which has no triggers")
    rows = connection.execute(f"PRAGMA table_xinfo({quote(name)})").fetchall()
    columns = {
        column: _Described(column, type, bool(not_null), key, bool(hidden))
        for _, column, type, not_null, _, key, hidden in rows
    }
    for _, _, _, _, without_rowid, strict in connection.execute(f"PRAGMA table_list({quote(name)})").fetchall():
        return columns, bool(strict), not without_rowid
    # Before SQLite 3.37, which knew no STRICT either.
    return columns, False, "WITHOUT" not in (sql or "").rpartition(")")[2].upper()


def _rowid_alias(connection: sqlite3.Connection, table: str, columns: dict[str, _Described]) -> str | None:
    """The column that is the rowid, if one is: a lone INTEGER PRIMARY KEY without an index of its own."""
    keys = [column for column in columns.values() if column.key]
    if len(keys) != 1 or keys[0].type.upper() != "INTEGER":
        return None
    origins = [row[3] for row in connection.execute(f"PRAGMA index_list({quote(table)})").fetchall()]
    return None if "pk" in origins else keys[0].name


def _key(table: str, column: _Described, option: str, rowid_alias: str | None) -> Key:
    if column.affinity not in ("TEXT", "INTEGER"):
        type = column.type or "no type"
        raise _error(
            table,
            f"cannot have {column.name!r} as {option}: it must be TEXT or INTEGER, and is {type}"
            f" ({column.affinity} affinity), in which ids of different kinds could not be told apart",
        )
    return Key(column.name, column.affinity == "INTEGER", column.name == rowid_alias)


def _column(table: str, column: _Described, options: MappedOptions, strict: bool) -> Column:
    affinity = column.affinity
    if strict and column.type.upper() == "ANY":
        affinity = "BLOB"
    kind: Kind = "plain"
    if column.name == options.rest_field or column.name in options.json_fields:
        kind = "rest" if column.name == options.rest_field else "json"
        if affinity not in ("TEXT", "BLOB") or (strict and column.type.upper() == "BLOB"):
            option = "rest_field" if kind == "rest" else "json_fields"
            raise _error(table, f"cannot have {column.name!r} in {option}: it is {column.type}, and must be TEXT")
    elif "BLOB" in column.type.upper():
        kind = "blob"
    elif "BOOL" in column.type.upper():
        kind = "boolean"
    return Column(column.name, affinity, kind, strict and column.type.upper() != "ANY", column.not_null)


def _indexes(connection: sqlite3.Connection, table: str) -> list[_Index]:
    indexes: list[_Index] = []
    for _, name, unique, _, partial in connection.execute(f"PRAGMA index_list({quote(table)})").fetchall():
        parts = connection.execute(f"PRAGMA index_xinfo({quote(name)})").fetchall()
        columns = tuple((part[2], part[4]) for part in parts if part[5])
        indexes.append(_Index(columns, bool(unique), bool(partial), name))
    return indexes


def _usable(index: _Index) -> bool:
    return index.unique and index.plain


def _exactly(columns: Collection[tuple[str | None, str]], keys: Sequence[Key]) -> bool:
    return {(name, how.upper()) for name, how in columns} == {(key.name, "BINARY") for key in keys}


def _check_unique(table: str, indexes: Sequence[_Index], group: Key, id: Key) -> None:
    if id.rowid or group.rowid:
        return
    if any(
        _usable(index) and (_exactly(index.columns, (group, id)) or _exactly(index.columns, (id,))) for index in indexes
    ):
        return
    raise _error(
        table,
        "has nothing that keeps group and id unique (a primary key or unique index of exactly these columns, compared"
        f" byte by byte): CREATE UNIQUE INDEX {quote(f'{table}_items')} ON {quote(table)}"
        f" ({quote(group.name)}, {quote(id.name)})",
    )


def _slow(table: str, indexes: Sequence[_Index], group: Key, id: Key) -> list[tuple[str, str]]:
    """What reads more rows than it returns, and the index that would help."""
    wanted = [(group.name, "BINARY")] if id.rowid else [(group.name, "BINARY"), (id.name, "BINARY")]
    fit = any(
        index.plain and [(name, how.upper()) for name, how in index.columns[: len(wanted)]] == wanted
        for index in indexes
    )
    names = ", ".join(quote(name) for name, _ in wanted)
    if fit or group.rowid:
        return []
    return [
        (
            f"groups, lists and snapshots of table {table!r} read more of it than they return: it has no index that"
            f" begins with {names}",
            f"CREATE INDEX {quote(f'{table}_groups')} ON {quote(table)} ({names})",
        )
    ]


def _error(table: str, problem: str) -> ConfigError:
    return ConfigError(f"sqlite: mapped table {table!r} {problem}")
