"""BSON values as JSON, and back.

| BSON | JSON |
|---|---|
| null, boolean, text, document, list, finite number | the same |
| ObjectId | its 24 hex digits |
| date | ``"2026-01-31T12:00:00.000Z"`` (milliseconds, UTC) |
| Decimal128 | its digits as text |
| binary of subtype 4 (UUID) | ``"xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"`` |
| other binary | base64 text |
| NaN, infinities | ``"NaN"``, ``"Infinity"``, ``"-Infinity"`` |
| everything else | MongoDB's extended JSON |

On the way back a value that equals what the document shows stays the BSON value that it is. A
text in the place of one of these types becomes that type again if it is its exact form.
"""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Any

import orjson
from bson import DBRef, Decimal128, ObjectId, json_util
from bson.binary import UUID_SUBTYPE, Binary, UuidRepresentation
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS

from motia_core.errors import InvalidValue

CODEC: CodecOptions[dict[str, Any]] = CodecOptions(
    document_class=dict,
    tz_aware=True,
    uuid_representation=UuidRepresentation.UNSPECIFIED,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
)
"""How documents of the user's are read: nothing of their types is lost."""


def to_json(value: Any) -> Any:
    """A BSON value as JSON."""
    kind = type(value)
    if kind is dict:
        return {key: to_json(member) for key, member in value.items()}
    if kind is list:
        return [to_json(member) for member in value]
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if isinstance(value, float):
        return value if isfinite(value) else {"inf": "Infinity", "-inf": "-Infinity"}.get(str(value), "NaN")
    if isinstance(value, int):
        return int(value)
    if isinstance(value, ObjectId):
        return str(value)
    if isinstance(value, datetime):
        utc = value.astimezone(UTC)
        return f"{utc:%Y-%m-%dT%H:%M:%S}.{utc.microsecond // 1000:03}Z" if utc.year >= 1000 else _extended(value)
    if isinstance(value, Decimal128):
        return str(value)
    if isinstance(value, Binary):
        if value.subtype == UUID_SUBTYPE and len(value) == 16:
            return str(uuid.UUID(bytes=bytes(value)))
        return base64.b64encode(value).decode()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, DBRef):
        return to_json(dict(value.as_doc()))
    if isinstance(value, Mapping):
        return {key: to_json(member) for key, member in value.items()}
    return _extended(value)


def _extended(value: Any) -> Any:
    return orjson.loads(json_util.dumps(value, json_options=json_util.CANONICAL_JSON_OPTIONS))


def to_bson(new: Any, old: Any, path: str = "$") -> Any:
    """The BSON value for ``new`` (JSON), in the place of ``old``. Raises `InvalidValue`."""
    if isinstance(new, dict):
        if isinstance(old, DBRef):
            old = dict(old.as_doc())
        before = old if isinstance(old, dict) else {}
        if not isinstance(old, dict) and old is not None and same(to_json(old), new):
            return old
        result = {}
        for key, member in new.items():
            where = f"{path}.{key}" if key.isidentifier() else f"{path}[{key[:40]!r}]"
            if key.startswith("$") and key not in before:
                raise InvalidValue("a key that begins with '$' means something else to MongoDB", path=where)
            result[key] = to_bson(member, before.get(key), where)
        return result
    if isinstance(new, list):
        befores = old if isinstance(old, list) else []
        return [to_bson(m, befores[n] if n < len(befores) else None, f"{path}[{n}]") for n, m in enumerate(new)]
    if type(new) in (int, float, bool) and type(old) in (int, float, bool) and type(new) is not type(old):
        return new  # 1, 1.0 and true are told apart
    if same(to_json(old), new):
        return old
    return _as_before(new, old) if isinstance(new, str) else new


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal to the last bit, in whatever order their keys are."""
    return orjson.dumps(one, option=orjson.OPT_SORT_KEYS) == orjson.dumps(other, option=orjson.OPT_SORT_KEYS)


def _as_before(text: str, old: Any) -> Any:
    """A text in the place of a value of another type: that type, if this is its exact form."""
    made: Any = None
    try:
        if isinstance(old, ObjectId):
            made = ObjectId(text)
        elif isinstance(old, (datetime, DatetimeMS)):
            made = datetime.fromisoformat(text)
        elif isinstance(old, Decimal128):
            made = Decimal128(text)
        elif isinstance(old, Binary) and old.subtype == UUID_SUBTYPE:
            made = Binary(uuid.UUID(text).bytes, UUID_SUBTYPE)
        elif isinstance(old, bytes):
            made = Binary(base64.b64decode(text, validate=True), getattr(old, "subtype", 0))
    except (ValueError, TypeError, ArithmeticError, binascii.Error):
        return text
    except Exception:  # bson's own errors have no common base that is public
        return text
    return made if made is not None and to_json(made) == text else text
