"""The rules for names (SEMANTICS A9), alike on every backend."""

from __future__ import annotations

import re

from motia_core.errors import InvalidName

MAX_STREAM_NAME = 64
"""Characters in a stream name, at most."""

MAX_ID_BYTES = 512
"""UTF-8 bytes in a group or item id, at most."""

_STREAM = re.compile(r"[A-Za-z][A-Za-z0-9_-]*\Z")
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def check_stream_name(name: object) -> str:
    """Return ``name`` if it may name a stream, else raise `InvalidName`."""
    if not isinstance(name, str):
        raise InvalidName(f"a stream name must be text, not {type(name).__name__}")
    if len(name) > MAX_STREAM_NAME or not _STREAM.match(name):
        raise InvalidName(
            f"stream name {name[:80]!r}: must be a letter, then letters, digits, '_' or '-', {MAX_STREAM_NAME} at most"
        )
    return name


def check_id(value: object, what: str) -> str:
    """Return ``value`` as plain text if it may be a group or item id, else raise `InvalidName`.

    ``what`` ("group id", "item id") begins the message.
    """
    if not isinstance(value, str):
        raise InvalidName(f"{what} must be text, not {type(value).__name__}")
    if not value:
        raise InvalidName(f"{what} must not be empty")
    found = _FORBIDDEN.search(value)
    if found:
        raise InvalidName(
            f"{what} {value[:40]!r}: character U+{ord(found.group()):04X} at {found.start()}"
            " is not allowed (control characters and lone surrogates)"
        )
    # Four bytes a character at most: short ids need no encoding to be counted.
    if len(value) * 4 > MAX_ID_BYTES:
        size = len(value.encode())
        if size > MAX_ID_BYTES:
            raise InvalidName(f"{what} {value[:40]!r}...: {size} bytes of UTF-8, {MAX_ID_BYTES} at most")
    return value if type(value) is str else str.__str__(value)
