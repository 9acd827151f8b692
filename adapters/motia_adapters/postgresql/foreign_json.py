"""JSON that anybody may have written into a column: whatever it holds, the row can be read.

What is none of our values (A1: lone surrogates, U+0000, numbers past 64 bits or all floats, deep nesting) is shown as
its text.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

from motia_core.errors import InvalidValue
from motia_core.values import decode_foreign, encode

_SUSPICIOUS = re.compile(r"\\u(?:0000|[dD][89a-fA-F])|[0-9]{19}|[eE]\+?[0-9]{3}")
_SURROGATE = re.compile("[\ud800-\udfff]")
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},]')
_DEEP = 90  # opening brackets from which on nesting is looked at


def decoded(raw: str) -> dict[str, Any]:
    """A row as Python has it."""
    try:
        row: dict[str, Any] = decode_foreign(raw.encode())
    except ValueError:  # a column of json holds lone surrogates, numbers past all floats, any depth
        return members(raw)
    return row


def suspicious(raw: str) -> bool:
    """Whether a row may hold what is none of our values."""
    return _SUSPICIOUS.search(raw) is not None or raw.count("[") + raw.count("{") > _DEEP


def members(raw: str, **options: Any) -> dict[str, Any]:
    """A row, from JSON; a member that is nested deeper than Python reads is its text."""
    try:
        row: dict[str, Any] = json.loads(raw, **options)
        return row
    except RecursionError:
        pass
    row, depth, start = {}, 0, 1
    for token in _TOKENS.finditer(raw):
        depth += (token[0] in "[{") - (token[0] in "]}")
        if depth == 0 or (depth == 1 and token[0] == ","):
            member = raw[start : token.start()].lstrip()
            start = token.end()
            name, end = json.JSONDecoder().raw_decode(member)
            text = member[end:].lstrip().removeprefix(":")
            try:
                row[name] = json.loads(text, **options)
            except RecursionError:
                row[name] = text
    return row


def floats(member: Any) -> Any:
    """JSON as `orjson` would have read it."""
    if isinstance(member, Decimal):
        return float(member)
    if isinstance(member, dict):
        return {key: floats(value) for key, value in member.items()}
    if isinstance(member, list):
        return [floats(value) for value in member]
    return member


def ours(member: Any, depth: int) -> Any:
    """JSON that anybody may have written; what is none of ours (A1) is shown as its text."""
    try:
        encode(member, depth=depth)
    except InvalidValue:
        text = json.dumps(member, ensure_ascii=False).replace("\x00", "\\u0000")
        return text if text.isascii() or _SURROGATE.search(text) is None else json.dumps(member)
    return member
