"""A changed value over the one that is stored: whatever is as it was keeps its native value, of whatever type it is.

A member of a map is the one of that name. A member of an array is one of the old members
with the same JSON form, else the one that stood in its place: so an array that gets a
member in front, or loses one, keeps the others as they are.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from motia_adapters.firestore.mapped.values import check_depth, checked_name, is_tagged, same, to_value
from motia_adapters.firestore.wire import Value
from motia_core.errors import InvalidValue

MAX_DOCUMENT = 1_048_576
"""Bytes of a document, at most, as Firestore counts them."""


def rewritten(
    item: Mapping[str, Any], old: Mapping[str, Any] | None, fields: Mapping[str, Any], documents: str
) -> dict[str, Any]:
    """The fields of a document for ``item``, where those of ``old`` are stored. Raises `InvalidValue`."""
    return _members(item, old or {}, fields, "$", 1, documents)


def _members(
    item: Mapping[str, Any], old: Mapping[str, Any], fields: Mapping[str, Any], path: str, depth: int, documents: str
) -> dict[str, Any]:
    made = {}
    for name, member in item.items():
        if name in old:
            made[name] = _value(member, old[name], fields[name], f"{path}.{name}", depth, documents)
        else:
            made[name] = to_value(member, checked_name(name, path), depth, documents)
    return made


def _value(member: Any, old: Any, native: Any, path: str, depth: int, documents: str) -> Any:
    if same(member, old):
        return native
    kind = native.WhichOneof("value_type")
    value = Value()
    if kind == "map_value" and isinstance(member, dict) and not is_tagged(member):
        check_depth(depth, path)
        value.map_value.SetInParent()
        inner = _members(member, old, native.map_value.fields, path, depth + 1, documents)
        for name, part in inner.items():
            value.map_value.fields[name].CopyFrom(part)
        return value
    if kind == "array_value" and isinstance(member, list):
        check_depth(depth, path)
        value.array_value.SetInParent()
        value.array_value.values.extend(_elements(member, old, native.array_value.values, path, depth + 1, documents))
        return value
    return to_value(member, path, depth, documents)


def _elements(
    members: Sequence[Any], old: Sequence[Any], natives: Sequence[Any], path: str, depth: int, documents: str
) -> list[Any]:
    places: dict[bytes, deque[int]] = defaultdict(deque)
    for at, element in enumerate(old):
        places[_form(element)].append(at)
    taken = [places[form].popleft() if places.get(form := _form(member)) else None for member in members]
    used = {place for place in taken if place is not None}
    made = []
    for number, (member, place) in enumerate(zip(members, taken, strict=True)):
        there = f"{path}[{number}]"
        if place is not None:
            made.append(natives[place])
        elif isinstance(member, list):
            raise InvalidValue("Firestore takes no array right inside another one: put an object between", path=there)
        elif number < len(old) and number not in used:
            made.append(_value(member, old[number], natives[number], there, depth, documents))
        else:
            made.append(to_value(member, there, depth, documents))
    return made


def _form(element: Any) -> bytes:
    return orjson.dumps(element, option=orjson.OPT_SORT_KEYS)


def check_size(path: str, fields: Mapping[str, Any]) -> None:
    """Raise `InvalidValue` for a document that is larger than Firestore takes; ``path`` is under ``documents``."""
    name = sum(len(part.encode()) + 1 for part in path.split("/")) + 16
    size = name + 32 + sum(len(field.encode()) + 1 + _size(value) for field, value in fields.items())
    if size > MAX_DOCUMENT:
        raise InvalidValue(
            f"the document would have {size:,} bytes as Firestore counts them, which takes {MAX_DOCUMENT:,} at most",
            path="$",
        )


def _size(value: Any) -> int:
    kind = value.WhichOneof("value_type")
    if kind in (None, "null_value", "boolean_value"):
        return 1
    if kind in ("string_value", "reference_value"):
        return len(getattr(value, kind).encode()) + 1
    if kind == "bytes_value":
        return len(value.bytes_value)
    if kind == "array_value":
        return sum(map(_size, value.array_value.values))
    if kind == "map_value":
        return sum(len(name.encode()) + 1 + _size(member) for name, member in value.map_value.fields.items())
    return 16 if kind == "geo_point_value" else 8
