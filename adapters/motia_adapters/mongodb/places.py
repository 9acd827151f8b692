"""Positions: a cluster time, a number within it, and whose history it is.

``TTTTTTTT IIIIIIII NNNNNN HHHHHHHHHHHH`` (hex, without spaces): the seconds and the increment
of the operation's cluster time, the number of the change among those of one transaction, and
the identity of the collection: its UUID, which no collection that was dropped and made again,
or restored from a dump, has. A change is number 2, 4, ... of its cluster time; the second half
of a write that is two changes (delete and create) has the odd number after. `LAST` is behind
all changes of its cluster time: positions of heads and snapshots.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from bson import Timestamp

LAST = 0xFFFFFF
LENGTH = 34
_UNITS = 256.0
"""Increments of a cluster time in one millisecond of a change's timestamp: a second holds 256,000 of them."""
_OPERATIONS = 8
"""Operations of a transaction in an increment; twice that is as fine as a float of today's milliseconds is."""


class Place(NamedTuple):
    """A place in the order of the whole server; compares like its positions."""

    seconds: int
    increment: int
    number: int

    @property
    def time(self) -> Timestamp:
        """Its cluster time."""
        return Timestamp(self.seconds, self.increment)

    @property
    def timestamp(self) -> float:
        """Milliseconds since the epoch, rising strictly with the place.

        A transaction of N operations that the oplog keeps in E entries takes N increments, and the
        E-th of them is its cluster time. So what comes next is N - E + 1 increments later at least;
        with eight operations to an increment there is room before it, unless each of eight or more
        operations fills an entry (16 MB) of its own.
        """
        units = (_OPERATIONS * 2 - 1 if self.number == LAST else self.number - 2) / (_OPERATIONS * 2)
        return self.seconds * 1000.0 + (self.increment + units) / _UNITS

    def timestamp_after(self, operations: int) -> float:
        """That of `LAST`, after so many operations at its cluster time."""
        return self.timestamp + max(0, operations - _OPERATIONS) / (_OPERATIONS * _UNITS)

    def position(self, identity: str) -> str:
        """The position in the history of ``identity``."""
        return f"{self.seconds:08x}{self.increment:08x}{self.number:06x}{identity}"


def change(time: Timestamp, number: int, half: int = 0) -> Place:
    """The place of the ``number``-th operation (from 1) of a cluster time."""
    return Place(time.time, time.inc, 2 * number + half)


def end(time: Timestamp) -> Place:
    """The place behind all that happened at a cluster time."""
    return Place(time.time, time.inc, LAST)


def parse(position: str) -> tuple[Place, str] | None:
    """The place and the identity in a position; ``None`` if it is none."""
    if len(position) != LENGTH or not position.isascii() or position.lower() != position:
        return None
    try:
        place = Place(int(position[:8], 16), int(position[8:16], 16), int(position[16:22], 16))
    except ValueError:
        return None
    return (place, position[22:]) if place.position(position[22:]) == position else None


def time_of_token(token: Any) -> Timestamp:
    """The cluster time in a resume token: a key string that begins with the tag of a timestamp."""
    data = token["_data"]
    return Timestamp(int(data[2:10], 16), int(data[10:18], 16))
