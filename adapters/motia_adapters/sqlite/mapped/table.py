"""What is known of a mapped table: its keys, its columns, and conditions on them in SQL."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orjson import dumps

from motia_adapters.sqlite.mapped.cells import Column, Raw, Shape, equal, step
from motia_core.errors import InvalidName, InvalidValue
from motia_core.names import check_id
from motia_core.values import MAX_INTEGER, MIN_INTEGER

_DECIMAL = re.compile(r"(0|-?[1-9][0-9]{0,18})\Z")


def quote(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True, slots=True)
class Key:
    """The column of the groups, or of the ids: TEXT, or INTEGER with decimal numbers as ids."""

    name: str
    integer: bool
    rowid: bool
    """It is the table's INTEGER PRIMARY KEY."""

    @property
    def type(self) -> str:
        """Its affinity."""
        return "INTEGER" if self.integer else "TEXT"

    def raw(self, text: str, what: str) -> str | int:
        """The cell for a group or id. Raises `InvalidName` if the column cannot hold it."""
        if not self.integer:
            return text
        if _DECIMAL.match(text) and MIN_INTEGER <= int(text) <= MAX_INTEGER:
            return int(text)
        raise InvalidName(f"{what} {text[:40]!r}: column {self.name!r} is INTEGER, so it must be a decimal number")

    def text(self, raw: Raw) -> str | None:
        """The group or id that a cell stands for; ``None`` if it cannot be one."""
        try:
            return check_id(raw if isinstance(raw, str) else str(raw), "id")
        except InvalidName:
            return None

    def exact(self, row: str) -> str:
        """The column of ``row`` in SQL, compared byte by byte."""
        return f"{row}.{quote(self.name)}" + ("" if self.integer else " COLLATE BINARY")

    def usable(self, row: str) -> str:
        """A condition in SQL: the cell can be a group or id (bytes that are not UTF-8 are found later)."""
        cell = f"{row}.{quote(self.name)}"
        if self.integer:
            return f"typeof({cell}) = 'integer'"
        return (
            f"(typeof({cell}) = 'text' AND length(CAST({cell} AS BLOB)) BETWEEN 1 AND 512"
            f" AND instr(CAST({cell} AS BLOB), x'00') = 0 AND {cell} NOT GLOB"
            f" '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159) || ']*')"
        )


@dataclass(frozen=True, slots=True)
class Unique:
    """Columns, with their collations, of which the table holds each combination once.

    A rowid that no column shows has none.
    """

    columns: tuple[tuple[str, str], ...]

    def conflict(self, row: str, other: str) -> str:
        """A condition in SQL: two rows cannot both be in the table."""
        collate = {name: f" COLLATE {quote(how)}" if how else "" for name, how in self.columns}
        return " AND ".join(f"{row}.{quote(n)}{how} = {other}.{quote(n)}" for n, how in collate.items())


@dataclass(frozen=True, slots=True)
class Table:
    """A table that can be mapped."""

    name: str
    group: Key
    id: Key
    shape: Shape
    uniques: tuple[Unique, ...]
    """What makes an ``INSERT OR REPLACE`` remove other rows."""
    hints: tuple[tuple[str, str], ...]
    """What ``doctor`` says about it, with the remedies."""
    include_ids: bool
    """Whether values show group and id."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of the value."""
        return self.shape.columns

    def value(self, group: str, id: str, cells: Sequence[Raw]) -> dict[str, Any]:
        """A row as an item's value."""
        return {**self.shape.value(cells), **self._ids(group, id)}

    def json(self, group: str, id: str, cells: Sequence[Raw]) -> bytes:
        """A row as an item's encoded value."""
        return dumps(self.value(group, id, cells))

    def wanted(self, group: str, id: str, value: dict[str, Any]) -> dict[str, Any]:
        """A value that is to be stored, as it will be read. Raises `InvalidValue` if it shows another id."""
        ids = self._ids(group, id)
        for name, member in ids.items():
            if name in value and not equal(value[name], member):
                raise InvalidValue(
                    f"column {name!r} of table {self.name!r} is the item's own {member!r}: leave it out, or as it is",
                    path=step(name),
                )
        return {**value, **ids}

    def _ids(self, group: str, id: str) -> dict[str, str | int]:
        if not self.include_ids:
            return {}
        return {self.group.name: self.group.raw(group, "group id"), self.id.name: self.id.raw(id, "item id")}

    def check_names(self, group: str, id: str | None) -> None:
        """Raise `InvalidName` if the columns cannot hold them."""
        self.group.raw(group, "group id")
        if id is not None:
            self.id.raw(id, "item id")

    def usable(self, row: str) -> str:
        """A condition in SQL: the row can be an item."""
        return f"{self.group.usable(row)} AND {self.id.usable(row)}"

    def same(self, row: str, other: str) -> str:
        """A condition in SQL: two rows have the same group and id, be they NULL."""
        return " AND ".join(f"{key.exact(row)} IS {other}.{quote(key.name)}" for key in (self.group, self.id))

    def cells(self, row: str) -> list[str]:
        """The columns of ``row`` in SQL: group, id, and those of the value."""
        return [f"{row}.{quote(name)}" for name in (self.group.name, self.id.name, *(c.name for c in self.columns))]
