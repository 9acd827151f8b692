"""What a stored value may be (SEMANTICS A1), and its one encoding: compact UTF-8 JSON.

Values cross the adapter contract as encoded bytes, so that a value is checked once,
encoded once, and can be sent to sockets without being decoded.
"""

from __future__ import annotations

import json
import re
from math import isfinite
from typing import Any

import orjson

from motia_core.errors import InvalidValue

MAX_DEPTH = 100
"""Nesting of objects and lists, at most; a flat object has depth 1."""

MIN_INTEGER = -(2**63)
MAX_INTEGER = 2**63 - 1

decode = orjson.loads
"""Decode one encoded value."""


_MAY_BE_PAST_64_BITS = re.compile(rb"[0-9]{19}")


def decode_foreign(encoded: bytes) -> Any:
    """Decode JSON that somebody else wrote: an integer past 64 bits stays the integer it is.

    `decode` would make a float of it, and nobody could refuse it any more. Raises ``ValueError``.
    """
    value = decode(encoded)
    if not _MAY_BE_PAST_64_BITS.search(encoded):
        return value
    try:
        return json.loads(encoded)
    except RecursionError:
        raise ValueError("nested too deep") from None


def encode(value: Any, *, path: str = "$", depth: int = 0) -> bytes:
    """Check ``value`` and encode it as compact UTF-8 JSON.

    ``path`` names the value in errors; ``depth`` counts the levels it will lie under.
    Raises `InvalidValue` with the path of the first value that cannot be stored to the
    last bit: NaN, infinities, integers past 64 bits (signed), keys that are not text,
    NUL, lone surrogates, nesting past `MAX_DEPTH`, and every type that JSON lacks.
    """
    if not _plain(value, depth):
        value = _normalize(value, path, depth)
    try:
        encoded = orjson.dumps(value)
    except orjson.JSONEncodeError:
        _normalize(value, path, depth)  # lone surrogates: find where
        raise
    # A cheap test first: it also hits an escaped backslash before "u0000".
    if b"\\u0000" in encoded:
        _normalize(value, path, depth)
    return encoded


def encode_object(value: Any, *, path: str = "$") -> bytes:
    """Like `encode`, for an item: the value itself must be a JSON object."""
    if not isinstance(value, dict):
        raise InvalidValue(f"an item must be an object (dict), not {type(value).__name__}", path=path)
    return encode(value, path=path)


def nesting(value: Any) -> int:
    """How deep objects and lists nest in ``value``: 0 for a scalar, 1 for ``{}``."""
    if isinstance(value, dict):
        return 1 + max(map(nesting, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(nesting, value), default=0)
    return 0


def check_size(encoded: bytes, limit: int) -> None:
    """Raise `InvalidValue` if an encoded value is over ``limit`` bytes."""
    if len(encoded) > limit:
        raise InvalidValue(f"{len(encoded)} bytes as compact JSON, {limit} at most")


def _plain(value: Any, depth: int) -> bool:
    """Whether ``value`` is made of exactly the plain JSON types, within the limits."""
    kind = type(value)
    if kind is dict:
        if depth >= MAX_DEPTH:
            return False
        for key, member in value.items():
            if type(key) is not str:
                return False
            if type(member) is not str and not _plain(member, depth + 1):
                return False
        return True
    if kind is str or kind is bool or value is None:
        return True
    if kind is int:
        return bool(MIN_INTEGER <= value <= MAX_INTEGER)
    if kind is float:
        return isfinite(value)
    if kind is list:
        if depth >= MAX_DEPTH:
            return False
        return all(type(member) is str or _plain(member, depth + 1) for member in value)
    return False


def _normalize(value: Any, path: str, depth: int) -> Any:
    """A copy of ``value`` in plain JSON types, or `InvalidValue` with the path of what is wrong.

    Subclasses of the plain types (``defaultdict``, ``StrEnum``, a step's input) become
    the plain type.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(str.__str__(value), path)
    if isinstance(value, int):
        number = int(value)
        if not MIN_INTEGER <= number <= MAX_INTEGER:
            raise InvalidValue("integer does not fit in 64 bits (signed)", path=path)
        return number
    if isinstance(value, float):
        if not isfinite(value):
            raise InvalidValue(f"{float(value)} is not a JSON number", path=path)
        return float(value)
    if isinstance(value, (dict, list)):
        if depth >= MAX_DEPTH:
            raise InvalidValue(f"nested deeper than {MAX_DEPTH} levels", path=_shorten(path))
        if isinstance(value, list):
            return [_normalize(member, f"{path}[{i}]", depth + 1) for i, member in enumerate(value)]
        plain: dict[str, Any] = {}
        for key, member in value.items():
            if not isinstance(key, str):
                raise InvalidValue(f"object key {key!r} is {type(key).__name__}, not text", path=path)
            name = _text(str.__str__(key), f"{path} (key)")
            plain[name] = _normalize(member, f"{path}{_step(name)}", depth + 1)
        return plain
    raise InvalidValue(f"{type(value).__name__} is not a JSON type", path=path)


def _text(value: str, path: str) -> str:
    if "\x00" in value:
        raise InvalidValue("text holds U+0000 (NUL)", path=path)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidValue(f"text holds a lone surrogate at {error.start}", path=path) from None
    return value


def _step(key: str) -> str:
    return f".{key}" if key.isidentifier() else f"[{key[:40]!a}]"


def _shorten(path: str) -> str:
    return path if len(path) <= 120 else f"{path[:60]}...{path[-40:]}"
