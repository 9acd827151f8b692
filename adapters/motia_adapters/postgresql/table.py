"""What is known of a mapped table: its keys, its columns, and what a row is as a value (A1).

The database gives rows as JSON (``to_json``, with fixed settings for dates, bytes and
intervals) and takes them as JSON (``json_populate_record``), so that a column's type alone
decides how its values are spelt. Numbers may change their kind (1 is 1.0): they stay equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import orjson

from motia_adapters.postgresql.columns import Column, Key, Unfit, fitted
from motia_adapters.postgresql.failures import MIGRATE
from motia_adapters.postgresql.foreign_json import decoded, floats, members, ours, suspicious
from motia_adapters.postgresql.options import MappedOptions
from motia_core.errors import ConfigError, InvalidValue
from motia_core.values import MAX_INTEGER, MIN_INTEGER


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


class Table:
    """A mapped table, as `motia.mapped` describes it."""

    def __init__(self, mapped: MappedOptions, found: Mapping[str, Any]) -> None:
        self.mapped = mapped
        self.shown = mapped.table
        """Its name in messages."""
        self.include_ids = mapped.include_ids
        self.learn(found)

    def learn(self, found: Mapping[str, Any]) -> None:
        """Take what `motia.mapped` says, perhaps again: its columns may change while we run."""
        rest = self.mapped.rest_field
        self.group = Key(found["group"], found["group_type"])
        self.id = Key(found["id"], found["id_type"])
        columns = [Column(**column) for column in found["columns"]]
        self.columns = {
            column.name: column
            for column in columns
            if column.name not in (self.group.name, self.id.name) and column.name != rest
        }
        self.rest = next((column for column in columns if column.name == rest), None)
        self._exact = any(column.type == "numeric" for column in columns)

    # -- out of the database ------------------------------------------------------------

    def value(self, group: str, id: str, raw: str) -> dict[str, Any]:
        """A row as an item's value: NULL is a key that is not there."""
        row = self._decode(raw)
        row.pop(self.group.name, None)
        row.pop(self.id.name, None)
        value = {key: member for key, member in row.items() if member is not None}
        if self.rest is not None and self.rest.name in value:
            rest = value.pop(self.rest.name)
            value = (rest if isinstance(rest, dict) else {self.rest.name: rest}) | value
        return value | self._ids(group, id)

    def json(self, group: str, id: str, raw: str) -> bytes:
        """A row as an item's encoded value."""
        return orjson.dumps(self.value(group, id, raw))

    def _decode(self, raw: str) -> dict[str, Any]:
        row: dict[str, Any]
        if self._exact:
            row = members(raw, parse_float=Decimal)
            row = {key: self._exactly(key, member) for key, member in row.items()}
        else:
            row = decoded(raw)
        if suspicious(raw):
            rest = None if self.rest is None else self.rest.name
            row = {key: ours(member, 0 if key == rest else 1) for key, member in row.items()}
        return row

    def _exactly(self, name: str, member: Any) -> Any:
        column = self.columns.get(name)
        if column is not None and column.type == "numeric" and member is not None:
            whole = column.is_whole and isinstance(member, int) and MIN_INTEGER <= member <= MAX_INTEGER
            return member if whole else f"{member:f}" if isinstance(member, Decimal) else str(member)
        return floats(member)

    # -- into the database --------------------------------------------------------------

    def wanted(self, group: str, id: str, value: dict[str, Any]) -> dict[str, Any]:
        """A value that is to be stored, as it will be read. Raises `InvalidValue` if it shows another id."""
        ids = self._ids(group, id)
        for name, member in ids.items():
            if name in value and not equal(value[name], member):
                raise InvalidValue(
                    f"column {name!r} of table {self.shown!r} is the item's own {member!r}: leave it out, or as it is",
                    path=step(name),
                )
        return {**value, **ids}

    def cells(self, group: str, id: str, value: Mapping[str, Any], old: Mapping[str, Any] | None) -> dict[str, Any]:
        """The columns to write, as JSON, so that the row has this value.

        ``old``: the value that is there; columns that need not change are left out. Without
        one, all are written. Raises `InvalidValue` for what the table cannot hold.
        """
        cells: dict[str, Any] = {}
        removed = False
        fits, rest = self._split(value, old or {})
        for name, column in self.columns.items():
            if column.generated:
                continue
            if name in fits:
                if old is None or name not in old or not equal(old[name], value[name]):
                    cells[name] = fits[name]
            elif old is None or name in old:
                cells[name] = None
                removed = old is not None
        if self.rest is not None and (old is None or removed or not equal(self._split(old, old)[1], rest)):
            cells[self.rest.name] = rest if rest or self.rest.not_null else None
        cells[self.group.name] = self.group.raw(group, "group id")
        cells[self.id.name] = self.id.raw(id, "item id")
        return cells

    def defaults(self, value: Mapping[str, Any]) -> list[str]:
        """Columns that take no null and may be left out: a new row has their defaults, one that is there keeps them."""
        return [
            column.name
            for column in self.columns.values()
            if column.not_null and column.default and column.name not in value
        ]

    def check_names(self, group: str, id: str | None) -> None:
        """Raise `InvalidName` if the columns cannot hold them."""
        self.group.raw(group, "group id")
        if id is not None:
            self.id.raw(id, "item id")

    def _split(self, value: Mapping[str, Any], old: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the columns take, as they take it, and what is left for the rest column."""
        fits: dict[str, Any] = {}
        rest: dict[str, Any] = {}
        for name, member in value.items():
            if name in (self.group.name, self.id.name) and self.include_ids:
                continue
            column = self.columns.get(name)
            if column is None:
                if self.rest is None and not (name in old and equal(old[name], member)):
                    known = ", ".join(map(repr, self.columns)) or "none"
                    raise InvalidValue(
                        f"table {self.shown!r} has no column for {name!r}, and the mapping no rest_field;"
                        f" columns: {known}",
                        path=step(name),
                    )
                rest[name] = member
                continue
            try:
                if column.generated and not (name in old and equal(old[name], member)):
                    raise Unfit("is generated: it cannot be written")
                fits[name] = fitted(column, member)
            except Unfit as reason:
                if self.rest is None or column.generated:
                    remedy = "" if self.rest is not None else "; a rest_field could take it"
                    raise InvalidValue(
                        f"column {name!r} of table {self.shown!r} {reason}{remedy}", path=step(name)
                    ) from None
                rest[name] = member
        return fits, rest

    def _ids(self, group: str, id: str) -> dict[str, str | int]:
        if not self.include_ids:
            return {}
        return {self.group.name: self.group.raw(group, "group id"), self.id.name: self.id.raw(id, "item id")}


def row_of(cells: Mapping[str, Any]) -> str:
    """The columns to write, as the function takes them."""
    return orjson.dumps(cells).decode()


def unusable(table: str, count: int, keys: Sequence[str]) -> str:
    """What is said of rows that cannot be items."""
    return (
        f"{count} rows of table {table!r} cannot be items and are not shown: {' or '.join(map(repr, keys))} is NULL,"
        " empty, too long, or holds control characters"
    )


def known_table(who: str, mapped: MappedOptions, found: Any) -> tuple[str, Table]:
    """The table that a mapping means, and its stream's name. Raises `ConfigError` if it is not ready."""
    if found is None:
        raise ConfigError(f"{who}: table {mapped.table!r} does not exist, or is not mapped: {MIGRATE}")
    if (found["group"], found["id"]) != (mapped.group_field, mapped.id_field):
        raise ConfigError(
            f"{who}: table {mapped.table!r} is mapped with group_field {found['group']!r} and id_field {found['id']!r};"
            " undo that with motia.unmap_table first, or correct the options"
        )
    if not found["captured"]:
        raise ConfigError(
            f"{who}: table {mapped.table!r} has lost its triggers (dropped, disabled, or the table was made anew or"
            f" restored, or its columns of groups and ids were changed), and changes pass unseen: {MIGRATE}; history"
            " begins anew then"
        )
    if found["obstacle"]:
        raise ConfigError(f"{who}: table {mapped.table!r} {found['obstacle']}")
    table = Table(mapped, found)
    rest = mapped.rest_field
    if rest is not None and (table.rest is None or not table.rest.is_json):
        columns = ", ".join(repr(column["name"]) for column in found["columns"])
        problem = "has no column" if table.rest is None else f"cannot have a {table.rest.type} column"
        raise ConfigError(
            f"{who}: table {mapped.table!r} {problem} {rest!r} as rest_field: a json or jsonb one; it has {columns}"
        )
    return found["stream"], table
