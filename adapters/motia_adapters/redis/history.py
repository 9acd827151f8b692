"""Positions: places in the order of one stream's changes.

A position is ``EPOCH-SEQ``, both in hex of fixed width, so that positions compare as
text. ``SEQ`` counts the stream's changes without a hole, also across epochs. ``EPOCH``
is the server's time (µs) when the epoch began: the write script begins one whenever the
server is not the one that wrote last (its run id or replication id differs), or the
stream's keys are gone. The first entry of an epoch names the epoch before it.

So a reader at position P can tell that nothing is missing: the next entry has the next
number, and P's epoch or that one before its own; where there is no next entry, the
stored head is P. After lost writes the numbers repeat, but never within one epoch.
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

    @property
    def entry_id(self) -> str:
        """The id of its entry in the Redis Stream."""
        return f"{self.epoch}-{self.seq}"

    def leads_to(self, entry: Place, previous_epoch: int | None) -> bool:
        """Whether ``entry`` is the very next one; ``previous_epoch``: what it says of the epoch before its own."""
        return entry.seq == self.seq + 1 and self.epoch in (entry.epoch, previous_epoch)


def parse_position(position: str) -> Place | None:
    """The place that a position names, or ``None`` if it is none of ours."""
    match = _POSITION.match(position)
    return Place(int(match[1], 16), int(match[2], 16)) if match else None


def parse_entry_id(entry_id: bytes) -> Place:
    """The place of an entry in the Redis Stream."""
    epoch, _, seq = entry_id.partition(b"-")
    return Place(int(epoch), int(seq))
