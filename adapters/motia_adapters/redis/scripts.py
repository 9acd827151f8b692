"""The Lua scripts that come with this package, and their SHA-1 names."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha1
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Script:
    """A script as the server knows it."""

    source: str
    sha: str


def _load(name: str) -> Script:
    source = files("motia_adapters.redis").joinpath("scripts", f"{name}.lua").read_text(encoding="utf-8")
    return Script(source, sha1(source.encode(), usedforsecurity=False).hexdigest())


WRITE = _load("write")
"""Units of writes."""
PAGE = _load("page")
"""Items of a group with the head they belong to."""
TRIM = _load("trim")
"""Drops old entries of a log."""
PROBE = _load("probe")
"""Whether the user may run what the others need."""

ALL = (WRITE, PAGE, TRIM, PROBE)
