"""Positions: places in the order of one stream's changes.

A position is ``EPOCH-SEQ``, both in hex of fixed width, so that positions compare as text.
``SEQ`` counts the stream's changes without a hole. ``EPOCH`` is the server's time (µs) when
the stretch of its life began in which the change was written: `motia.epoch()` begins one
whenever the server is not the one that wrote last. A place is known if the log holds exactly
it, or if it is the log's floor: what was lost with a restore has an epoch that never returns.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_POSITION = re.compile(r"([0-9a-f]{14})-([0-9a-f]{14})\Z", re.ASCII)

LENGTH = 29
"""Characters of a position."""


class Place(NamedTuple):
    """A position in parts. Places of one stream compare as their positions do."""

    epoch: int
    seq: int

    @property
    def position(self) -> str:
        """The position as the contract knows it."""
        return f"{self.epoch:014x}-{self.seq:014x}"


def parse_position(position: str) -> Place | None:
    """The place that a position names, or ``None`` if it is none of ours."""
    match = _POSITION.match(position)
    return Place(int(match[1], 16), int(match[2], 16)) if match else None
