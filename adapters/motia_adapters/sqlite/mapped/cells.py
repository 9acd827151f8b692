"""What a cell is as JSON, and which JSON a column can hold (A1).

SQLite converts what is stored by the column's affinity. Numbers may change their kind
(1 is 1.0 in a REAL column): they stay equal. Whatever would not be equal afterwards goes
to the column that takes the rest, or is refused.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isinf
from typing import Any, Final, Literal

import orjson

from motia_core.errors import InvalidValue
from motia_core.values import decode_foreign, encode

Raw = str | int | float | bytes | None
"""A cell as SQLite has it."""
Affinity = Literal["TEXT", "INTEGER", "REAL", "NUMERIC", "BLOB"]
Kind = Literal["plain", "boolean", "json", "blob", "rest"]

_NUMBER = re.compile(r"[ \t\n\v\f\r]*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?[ \t\n\v\f\r]*\Z")
_SUSPICIOUS = re.compile(rb"\\u0000|[0-9]{19}")
_DEEP = 90  # opening brackets from which on nesting is looked at


@dataclass(frozen=True, slots=True)
class Column:
    """A column that is part of the value. ``strict``: of a STRICT table, which refuses instead of converting."""

    name: str
    affinity: Affinity
    kind: Kind = "plain"
    strict: bool = False
    not_null: bool = False


class _Unfit(Exception):
    """The column cannot hold the value; the message ends a sentence."""


def read_cell(column: Column, raw: Raw) -> Any:
    """A cell that is not NULL, as JSON."""
    if isinstance(raw, str):
        if column.kind == "json":
            return _read_json(raw)
        return raw if raw.isascii() else _well_formed(raw)
    if isinstance(raw, bytes):
        return b64encode(raw).decode()
    if column.kind == "boolean" and isinstance(raw, int) and raw in (0, 1):
        return bool(raw)
    if isinstance(raw, float) and isinf(raw):
        return "Infinity" if raw > 0 else "-Infinity"
    return raw


def equal(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal: 1 and 1.0 are, 1 and true are not."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def step(key: str) -> str:
    """The path of an item's key, as in errors."""
    return f"$.{key}" if key.isidentifier() else f"$[{key[:40]!a}]"


class Shape:
    """The columns of a table's values, in order; cells come and go as sequences in that order.

    ``shown``: names of columns that a value shows as well, and that are not stored with it.
    """

    __slots__ = ("_by_name", "_rest", "_shown", "columns", "table")

    def __init__(self, table: str, columns: Sequence[Column], shown: Sequence[str] = ()) -> None:
        self._shown = frozenset(shown)
        self.table = table
        self.columns: Final = tuple(columns)
        self._by_name = {column.name: column for column in columns if column.kind != "rest"}
        self._rest = next((number for number, column in enumerate(columns) if column.kind == "rest"), None)

    def value(self, cells: Sequence[Raw]) -> dict[str, Any]:
        """A row as an item's value: NULL is a key that is not there."""
        value = {
            column.name: read_cell(column, raw)
            for column, raw in zip(self.columns, cells, strict=True)
            if raw is not None and column.kind != "rest"
        }
        if self._rest is not None and cells[self._rest] is not None:
            value = self._read_rest(cells[self._rest]) | value
        return value

    def cells(self, value: Mapping[str, Any], old: Sequence[Raw] | None) -> dict[int, Raw]:
        """The cells that must be written, by column number, so that the row has this value.

        ``old``: the row that is there; its cells that need not change are left out. Without
        one, what is left out is NULL. Raises `InvalidValue` for what the table cannot hold.
        """
        cells: dict[int, Raw] = {}
        rest = {key: member for key, member in value.items() if key not in self._by_name and key not in self._shown}
        if rest and self._rest is None:
            key = next(iter(rest))
            known = ", ".join(map(repr, self._by_name)) or "none"
            raise InvalidValue(
                f"table {self.table!r} has no column for {key!r}, and the mapping no rest_field; columns: {known}",
                path=step(key),
            )
        for number, column in enumerate(self.columns):
            if column.kind == "rest":
                continue
            before = None if old is None else old[number]
            if column.name in value:
                member = value[column.name]
                if before is not None and _unchanged(column, before, member):
                    continue
                try:
                    cells[number] = _store(column, member)
                    continue
                except _Unfit as reason:
                    if self._rest is None or column.kind == "blob":
                        remedy = "" if self._rest is not None else "; a rest_field could take it"
                        raise InvalidValue(
                            f"column {column.name!r} of table {self.table!r} {reason}{remedy}", path=step(column.name)
                        ) from None
                rest[column.name] = member
            if before is not None:
                cells[number] = None
        if self._rest is not None:
            self._store_rest(rest, cells, old)
        return cells

    def difference(self, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
        """A key whose value differs, if any."""
        for key in {**wanted, **found}:
            if key not in wanted or key not in found or not equal(wanted[key], found[key]):
                return key
        return None

    def _read_rest(self, raw: Raw) -> dict[str, Any]:
        """What the rest column holds; what is no object there is seen under the column's own name."""
        assert self._rest is not None
        column = self.columns[self._rest]
        found = _read_json(raw) if isinstance(raw, str) else read_cell(column, raw)
        return found if isinstance(found, dict) else {column.name: found}

    def _store_rest(self, rest: dict[str, Any], cells: dict[int, Raw], old: Sequence[Raw] | None) -> None:
        number = self._rest
        assert number is not None
        if old is not None:
            seen = self._read_rest(old[number]) if old[number] is not None else {}
            hidden = {column.name for column, raw in zip(self.columns, old, strict=True) if raw is not None}
            hidden = (hidden & self._by_name.keys()) | self._shown
            seen = {key: member for key, member in seen.items() if key not in hidden}
            if _encoded(seen) == _encoded(rest):
                return
        needed = rest or self.columns[number].not_null
        cells[number] = encode(rest).decode() if needed else None


def _unchanged(column: Column, raw: Raw, value: Any) -> bool:
    found = read_cell(column, raw)
    return _encoded(found) == _encoded(value) if column.kind == "json" else equal(found, value)


def _encoded(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _store(column: Column, value: Any) -> Raw:
    """What to store, so that it is equal when it is read. Raises `_Unfit`."""
    affinity = column.affinity
    if column.kind == "json":
        return encode(value).decode()
    if column.kind == "blob":
        raise _Unfit("holds bytes (BLOB): they can be read and left alone, not written")
    if isinstance(value, bool):
        if column.kind != "boolean":
            raise _Unfit("cannot hold true or false: it is not declared BOOLEAN, nor listed in json_fields")
        return int(value)
    if isinstance(value, str):
        if affinity in ("INTEGER", "REAL", "NUMERIC") and (column.strict or _NUMBER.match(value)):
            raise _Unfit(f"has {affinity} affinity and cannot hold this text unchanged")
        return value
    if isinstance(value, int | float):
        if affinity == "TEXT":
            raise _Unfit("has TEXT affinity and would make text of this number")
        if column.kind == "boolean" and value in (0, 1):
            raise _Unfit("is declared BOOLEAN and would make true or false of this number")
        if affinity == "REAL" and isinstance(value, int) and int(float(value)) != value:
            raise _Unfit("has REAL affinity and would round this integer")
        if affinity == "INTEGER" and column.strict and isinstance(value, float) and not value.is_integer():
            raise _Unfit("holds integers only")
        return value
    what = "null" if value is None else "a list" if isinstance(value, list) else "an object"
    raise _Unfit(f"cannot hold {what}: it is not listed in json_fields")


def _read_json(text: str) -> Any:
    """The JSON in a text that anybody may have written; text that is none, or none of ours (A1), is itself."""
    text = text if text.isascii() else _well_formed(text)
    raw = text.encode()
    try:
        if _SUSPICIOUS.search(raw) or raw.count(b"[") + raw.count(b"{") > _DEEP:
            value = decode_foreign(raw)
            encode(value, depth=1)
            return value
        return orjson.loads(raw)
    except ValueError:  # InvalidValue is one, too
        return text


def _well_formed(text: str) -> str:
    """Text whose bytes were no UTF-8 (they come as lone surrogates), with U+FFFD in their place."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return text
