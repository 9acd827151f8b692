"""Columns of a mapped table: which values they can hold, and how a group or id is told apart."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from typing import Any

from motia_core.errors import InvalidName

_DECIMAL = re.compile(r"(0|-?[1-9][0-9]{0,18})\Z")
_BITS = {"smallint": 16, "integer": 32, "bigint": 64}
_REAL_MAX = 3.4e38


@dataclass(frozen=True, slots=True)
class Key:
    """The column of the groups, or of the ids."""

    name: str
    type: str

    def raw(self, text: str, what: str) -> str | int:
        """The cell, as JSON, for a group or id. Raises `InvalidName` if the column cannot hold it."""
        if self.type == "text":
            return text
        if self.type == "uuid":
            try:
                if str(uuid.UUID(text)) == text:
                    return text
            except ValueError:
                pass
            raise InvalidName(f"{what} {text[:40]!r}: column {self.name!r} is uuid: 8-4-4-4-12 lower-case hex digits")
        bits = _BITS[self.type]
        if _DECIMAL.match(text) and -(2 ** (bits - 1)) <= int(text) < 2 ** (bits - 1):
            return int(text)
        raise InvalidName(f"{what} {text[:40]!r}: column {self.name!r} is {self.type}, so it must be a decimal number")


@dataclass(frozen=True, slots=True)
class Column:
    """A column that is part of the value."""

    name: str
    type: str
    """As PostgreSQL calls it, without its modifier."""
    mod: int = -1
    not_null: bool = False
    default: bool = False
    generated: bool = False
    composite: bool = False
    """Whether it holds rows of a type of the user's."""

    @property
    def is_json(self) -> bool:
        """Whether it holds any JSON."""
        return self.type in ("json", "jsonb")

    @property
    def is_fraction(self) -> bool:
        """Whether it is a numeric that may have a fraction: shown as text, as no float can hold it."""
        return self.type == "numeric" and not self.is_whole

    @property
    def is_whole(self) -> bool:
        """Whether it is a numeric without a fraction."""
        return self.type == "numeric" and self.mod >= 4 and (self.mod - 4) & 0x7FF == 0


class Unfit(Exception):
    """The column cannot hold the value; the message ends a sentence."""


def fitted(column: Column, value: Any) -> Any:
    """The JSON to give for a value, so that it is equal when it is read. Raises `Unfit`."""
    type = column.type
    if value is None:
        raise Unfit("cannot hold null beside NULL, which is a key that is not there")
    if column.is_json:
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if type in _BITS or column.is_whole:
        if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
            value = int(value)
        bits = _BITS.get(type, 64)
        if not number or isinstance(value, float) or not -(2 ** (bits - 1)) <= value < 2 ** (bits - 1):
            raise Unfit(f"is {type}: it holds whole numbers of its range")
    elif type in ("real", "double precision"):
        if not number or (isinstance(value, int) and int(float(value)) != value):
            raise Unfit(f"is {type}: it holds numbers that a float can hold")
        if type == "real" and abs(value) > _REAL_MAX:
            raise Unfit("is real: the number is too large")
    elif type == "boolean":
        if not isinstance(value, bool):
            raise Unfit("is boolean: it holds true and false")
    elif type in ("text", "character varying"):
        if not isinstance(value, str):
            raise Unfit(f"is {type}: it holds text")
        if type == "character varying" and 4 <= column.mod < len(value) + 4:
            raise Unfit(f"is varchar({column.mod - 4}): the text is too long")
    elif type.endswith("[]"):
        if not isinstance(value, list):
            raise Unfit(f"is {type}: it holds lists")
    elif column.composite:
        if not isinstance(value, dict):
            raise Unfit(f"is {type}: it holds objects")
    elif not isinstance(value, str):
        raise Unfit(f"is {type}: its values are text")
    return value
