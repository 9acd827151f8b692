"""Firestore's own types as JSON, and back.

| Firestore | JSON |
|---|---|
| null, boolean, integer, double, string, array, map | the same |
| timestamp | ``{"$timestamp": "2026-01-31T12:00:00.123456Z"}`` |
| reference | ``{"$reference": "users/alice"}`` |
| geographical point | ``{"$geopoint": [52.5, 13.4]}`` (latitude, longitude) |
| bytes | ``{"$bytes": "aGVsbG8="}`` (base64) |
| NaN, infinities | ``{"$double": "NaN"}``, ``"Infinity"``, ``"-Infinity"`` |
"""

from __future__ import annotations

import base64
import binascii
import datetime
import math
import re
from collections.abc import Mapping
from typing import Any

from motia_adapters.firestore.mapped.template import is_document_id
from motia_adapters.firestore.wire import Value
from motia_core.errors import InvalidValue

DEPTH = 20
"""Levels of maps and arrays that Firestore takes."""
_RESERVED = re.compile(r"__.*__", re.DOTALL)
_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,6})?Z")
_DATABASE = re.compile(r"projects/[a-z0-9.:-]+/databases/(\(default\)|[a-z0-9-]+)/documents/")
_DOUBLES = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_EPOCH = datetime.datetime(1970, 1, 1)


def to_json(fields: Mapping[str, Any], documents: str) -> dict[str, Any]:
    """The fields of a document as a JSON object. ``documents`` begins the names of this database's documents."""
    return {name: from_value(value, documents) for name, value in fields.items()}


def to_values(item: Mapping[str, Any], documents: str) -> dict[str, Any]:
    """A JSON object as Firestore's values. Raises `InvalidValue` with the path of what it cannot hold."""
    values = {}
    for name, member in item.items():
        path = checked_name(name, "$")
        values[name] = to_value(member, path, 1, documents)
    return values


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal and of the same types throughout."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(member, other[name]) for name, member in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return one == other and math.copysign(1, one) == math.copysign(1, other)
    return bool(one == other)


def from_value(value: Any, documents: str) -> Any:
    """One of Firestore's values as JSON."""
    kind = value.WhichOneof("value_type")
    if kind is None or kind == "null_value":
        return None
    if kind == "array_value":
        return [from_value(member, documents) for member in value.array_value.values]
    if kind == "map_value":
        return to_json(value.map_value.fields, documents)
    found = getattr(value, kind)
    if kind == "double_value" and not math.isfinite(found):
        return {"$double": "NaN" if math.isnan(found) else "Infinity" if found > 0 else "-Infinity"}
    if kind == "timestamp_value":
        at = _EPOCH + datetime.timedelta(seconds=found.seconds, microseconds=found.nanos // 1000)
        return {"$timestamp": f"{at.isoformat(timespec='microseconds' if at.microsecond else 'seconds')}Z"}
    if kind == "reference_value":
        return {"$reference": found.removeprefix(f"{documents}/")}
    if kind == "geo_point_value":
        return {"$geopoint": [found.latitude, found.longitude]}
    if kind == "bytes_value":
        return {"$bytes": base64.b64encode(found).decode()}
    return found


def is_tagged(member: Any) -> bool:
    """Whether a JSON value stands for one of a type that JSON lacks."""
    return isinstance(member, dict) and len(member) == 1 and next(iter(member)) in _TAGS


def to_value(member: Any, path: str, depth: int, documents: str) -> Any:
    """A JSON value, ``depth`` levels deep (from 1), as one of Firestore's. Raises `InvalidValue`."""
    value = Value()
    if member is None:
        value.null_value = 0
    elif isinstance(member, bool):
        value.boolean_value = member
    elif isinstance(member, int):
        value.integer_value = member
    elif isinstance(member, float):
        value.double_value = member
    elif isinstance(member, str):
        value.string_value = member
    else:
        check_depth(depth, path)
        if isinstance(member, list):
            _put_array(value, member, path, depth, documents)
        elif is_tagged(member):
            ((tag, given),) = member.items()
            _TAGS[tag](value, given, path, documents)
        else:
            value.map_value.SetInParent()
            for name, inner in member.items():
                there = checked_name(name, path)
                value.map_value.fields[name].CopyFrom(to_value(inner, there, depth + 1, documents))
    return value


def _put_array(value: Any, members: list[Any], path: str, depth: int, documents: str) -> None:
    value.array_value.SetInParent()
    for number, member in enumerate(members):
        there = f"{path}[{number}]"
        if isinstance(member, list):
            raise InvalidValue("Firestore takes no array right inside another one: put an object between", path=there)
        value.array_value.values.append(to_value(member, there, depth + 1, documents))


def check_depth(depth: int, path: str) -> None:
    """Raise `InvalidValue` for a map or an array that is too deep inside others."""
    if depth > DEPTH:
        raise InvalidValue(f"Firestore takes {DEPTH} levels of maps and arrays at most", path=path)


def checked_name(name: str, path: str) -> str:
    """The path of a field. Raises `InvalidValue` for a name that Firestore does not take."""
    if not name or _RESERVED.fullmatch(name) or len(name.encode()) > 1_500:
        raise InvalidValue(f"Firestore takes no field named {name[:64]!r}", path=path)
    return f"{path}.{name}"


def _put_timestamp(value: Any, given: Any, path: str, documents: str) -> None:
    match = _STAMP.fullmatch(given) if isinstance(given, str) else None
    try:
        if match is None:
            raise ValueError
        at = datetime.datetime.fromisoformat(match[1]) - _EPOCH
    except ValueError:
        raise InvalidValue(
            f"{given!r} is no timestamp: write it in UTC, as in 2026-01-31T12:00:00.123456Z", path=path
        ) from None
    value.timestamp_value.seconds = at.days * 86_400 + at.seconds
    value.timestamp_value.nanos = int((match[2] or ".0")[1:].ljust(6, "0")) * 1_000


def _put_reference(value: Any, given: Any, path: str, documents: str) -> None:
    text = given if isinstance(given, str) else ""
    other = _DATABASE.match(text)  # a document of another database
    parts = (text[other.end() :] if other else text).split("/")
    if len(parts) % 2 or not all(map(is_document_id, parts)):
        raise InvalidValue(f"{given!r} is no path of a document, as in users/alice", path=path)
    value.reference_value = text if other else f"{documents}/{text}"


def _put_geopoint(value: Any, given: Any, path: str, documents: str) -> None:
    numbers = isinstance(given, list) and len(given) == 2 and all(type(part) in (int, float) for part in given)
    if not numbers or not (-90 <= given[0] <= 90 and -180 <= given[1] <= 180):
        raise InvalidValue(f"{given!r} is no [latitude, longitude]", path=path)
    value.geo_point_value.latitude, value.geo_point_value.longitude = given


def _put_bytes(value: Any, given: Any, path: str, documents: str) -> None:
    try:
        value.bytes_value = base64.b64decode(given, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise InvalidValue(f"{str(given)[:64]!r} is no base64", path=path) from None


def _put_double(value: Any, given: Any, path: str, documents: str) -> None:
    if not isinstance(given, str) or given not in _DOUBLES:
        raise InvalidValue(f"{given!r} is none of {', '.join(_DOUBLES)}", path=path)
    value.double_value = _DOUBLES[given]


_TAGS: dict[str, Any] = {
    "$timestamp": _put_timestamp,
    "$reference": _put_reference,
    "$geopoint": _put_geopoint,
    "$bytes": _put_bytes,
    "$double": _put_double,
}
