"""What is stored of an item, and what an entry of the log says."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from motia_adapters.redis.history import Place, parse_entry_id
from motia_core.model import Change, ChangeType, Item

_VERSION = 29
_HEADER = 43  # the version, and the deadline as 14 hex digits
_NO_DEADLINE = b"0" * 14
_LENGTHS = struct.Struct(">BHHBBHBI")
"""Of an entry's id and its values in an announcement; the kind is one byte."""
_TYPES: dict[bytes, ChangeType] = {b"c": "create", b"u": "update", b"d": "delete", b"e": "event", b"n": "event"}


def version_of(raw: bytes) -> str:
    """The version of a stored item."""
    return raw[:_VERSION].decode()


def json_of(raw: bytes) -> bytes:
    """The value of a stored item."""
    return raw[_HEADER:]


def deadline_of(raw: bytes) -> int:
    """When a stored item expires (µs since the epoch); 0: never."""
    return int(raw[_VERSION:_HEADER], 16)


def to_item(group: str, id: str, raw: bytes) -> Item:
    """The item as the contract knows it."""
    return Item(group, id, raw[_HEADER:], raw[:_VERSION].decode(), raw[_VERSION:_HEADER] != _NO_DEADLINE)


def to_change(stream: str, place: Place, fields: Sequence[bytes]) -> Change:
    """The change that an entry of the log tells."""
    # Always k, g, i, s, d, e, p, j with their values between: see scripts/write.lua.
    kind, event, json = fields[1], fields[11], fields[15]
    type = _TYPES[kind]
    position = place.position
    return Change(
        type,
        stream,
        fields[3].decode(),
        None if kind == b"n" else fields[5].decode(),
        json if json or type != "event" else None,
        int(fields[7]) / 1000,
        None if type == "event" else position,
        position,
        event.decode() if type == "event" else None,
    )


def announced(news: bytes) -> list[tuple[bytes, list[bytes]]]:
    """The entries that an announcement carries, as the log has them. Raises `ValueError` for anything else."""
    entries: list[tuple[bytes, list[bytes]]] = []
    at = 0
    while at < len(news):
        try:
            of_id, *lengths = _LENGTHS.unpack_from(news, at)
        except struct.error as error:
            raise ValueError("no announcement") from error
        at += _LENGTHS.size
        if at + of_id + 1 + sum(lengths) > len(news):
            raise ValueError("a part of an announcement")
        parts: list[bytes] = []
        for length in (of_id, 1, *lengths):
            parts.append(news[at : at + length])
            at += length
        id, kind, group, name, stamp, deadline, event, previous, json = parts
        fields = [b"k", kind, b"g", group, b"i", name, b"s", stamp, b"d", deadline, b"e", event, b"p", previous]
        entries.append((id, [*fields, b"j", json]))
    return entries


def place_of(entry: Sequence[Any]) -> tuple[Place, int | None]:
    """An entry's place, and the epoch before its own if it is the first of one."""
    previous = entry[1][13]
    return parse_entry_id(entry[0]), int(previous) if previous else None


def expires_of(fields: Sequence[bytes]) -> int:
    """The deadline (µs) that a change gave its item; 0: none."""
    return int(fields[9])
