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
from bson import DBRef, Decimal128, Int64, ObjectId, json_util
from bson.binary import UUID_SUBTYPE, Binary, UuidRepresentation
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument

from motia_core.errors import InvalidValue

CODEC: CodecOptions[dict[str, Any]] = CodecOptions(
    document_class=dict,
    tz_aware=True,
    uuid_representation=UuidRepresentation.UNSPECIFIED,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    unicode_decode_error_handler="replace",
)
"""How documents of the user's are read: nothing of their types is lost. Bytes that are no UTF-8 are shown as U+FFFD."""
STRICT = CODEC.with_options(unicode_decode_error_handler="strict")
"""How those are read that are written back."""
RAW: CodecOptions[RawBSONDocument] = CODEC.with_options(document_class=RawBSONDocument)
"""As the bytes that they are, to be compared with."""
SIMPLE = {"locale": "simple"}
"""Text is compared byte by byte, whatever the collection's own collation says."""
_COMPARED = 10_000  # pairs of changed members of a list whose fields are compared


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
        befores = _befores(new, old) if isinstance(old, list) else [None] * len(new)
        return [to_bson(member, befores[n], f"{path}[{n}]") for n, member in enumerate(new)]
    if type(new) in (int, float, bool) and type(old) in (int, float, bool) and type(new) is not type(old):
        return new  # 1, 1.0 and true are told apart
    if same(to_json(old), new):
        return old
    if type(new) is int and isinstance(old, Int64):
        return Int64(new)  # else a small number would become an int, which a validator may refuse
    return _as_before(new, old) if isinstance(new, str) else new


def _befores(new: list[Any], old: list[Any]) -> list[Any]:
    """For each member of a list that is written, the one it was before.

    Members that did not change are found wherever they went; documents that did, by the fields that
    did not; the rest by place. What is left is new: it gets the types that the others all have.
    """
    forms, old_forms = [_form(member) for member in new], [_form(to_json(member)) for member in old]
    found = [n if n < len(old) and form == old_forms[n] else -1 for n, form in enumerate(forms)]
    stayed = set(found)
    free = dict.fromkeys(place for place in range(len(old)) if place not in stayed)

    def take(n: int, place: int | None) -> None:
        if place is not None:
            found[n] = place
            del free[place]

    places: dict[bytes, list[int]] = {}
    for place in reversed(free):
        places.setdefault(old_forms[place], []).append(place)
    for n, form in enumerate(forms):
        if found[n] < 0 and places.get(form):
            take(n, places[form].pop())
    for n, place in _likest({n: new[n] for n, place in enumerate(found) if place < 0}, {n: old[n] for n in free}):
        take(n, place)
    last = -1
    for n in range(len(new)):
        if found[n] < 0:
            take(n, next((place for place in (last + 1, n) if place in free), None))
        if found[n] >= 0:
            last = found[n]
    model = _model(old)
    return [old[place] if place >= 0 else model for place in found]


def _likest(new: dict[int, Any], old: dict[int, Any]) -> list[tuple[int, int]]:
    """Pairs of documents that share most fields, as long as they are few enough to compare all."""
    if len(new) * len(old) > _COMPARED:
        return []
    fields = {n: _fields(member) for n, member in new.items() if isinstance(member, dict)}
    old_fields = {n: _fields(to_json(member)) for n, member in old.items() if isinstance(member, dict)}
    shared = [(len(mine & theirs), -n, -place) for n, mine in fields.items() for place, theirs in old_fields.items()]
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for count, n, place in sorted(shared, reverse=True):
        if count and n not in pairs and place not in taken:
            pairs[n] = place
            taken.add(place)
    return [(-n, -place) for n, place in pairs.items()]


def _fields(json: dict[str, Any]) -> set[tuple[str, bytes]]:
    return {(key, _form(member)) for key, member in json.items()}


def _model(members: list[Any]) -> Any:
    """A value of the types that all members have (``None``: they have not the same), of documents field by field."""
    kinds = {type(member) for member in members}
    if len(kinds) != 1:
        return None
    if kinds == {dict}:
        keys = dict.fromkeys(key for member in members for key in member)
        return {key: _model([member[key] for member in members if key in member]) for key in keys}
    if kinds == {list}:
        return [_model([one for member in members for one in member])]
    return members[0]


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal to the last bit, in whatever order their keys are."""
    return _form(one) == _form(other)


def _form(json: Any) -> bytes:
    return orjson.dumps(json, option=orjson.OPT_SORT_KEYS)


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
