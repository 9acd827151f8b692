"""The last changes of one stream, from which joins and resumes go on without a read."""

from __future__ import annotations

from bisect import bisect_right

from motia_core.model import Change

RING_CHANGES = 8_192
"""Changes that a ring keeps, at most."""

RING_BYTES = 16_000_000
"""Bytes of values that a ring keeps, at most."""

MARKS = 4_096
"""Positions without a change that a ring remembers, at most."""


class Ring:
    """The last changes, in order. Complete for every position from ``floor`` on."""

    def __init__(self) -> None:
        self.floor = ""
        self._changes: list[Change] = []
        self._bytes = 0
        self._marks: set[str] = set()

    def restart(self, floor: str) -> None:
        """Forget everything; complete from ``floor`` on."""
        self.floor = floor
        self._changes.clear()
        self._bytes = 0
        self._marks = {floor}

    def append(self, change: Change) -> bool:
        """Take the next change; True if the oldest had to go for it."""
        self._changes.append(change)
        self._bytes += len(change.json or b"")
        if len(self._changes) > RING_CHANGES or self._bytes > RING_BYTES:
            self._shrink()
            return True
        return False

    def prepend(self, floor: str, older: list[Change]) -> bool:
        """Reach back to ``floor`` with the changes between it and the present floor.

        ``older`` may go on past the present floor. False, and nothing done, if it is too much.
        """
        older = [change for change in older if change.position <= self.floor]
        if len(self._changes) + len(older) > RING_CHANGES:
            return False
        self._changes[:0] = older
        self._bytes += sum(len(change.json or b"") for change in older)
        self.floor = floor
        self._marks.add(floor)
        return True

    def after(self, position: str) -> list[Change]:
        """The changes after a position, which must not lie before the floor."""
        start = bisect_right(self._changes, position, key=_position)
        return self._changes[start:]

    def knows(self, position: str) -> bool:
        """Whether this very position is one of this history."""
        at = bisect_right(self._changes, position, key=_position)
        return position in self._marks or (at > 0 and self._changes[at - 1].position == position)

    def mark(self, position: str) -> None:
        """Remember a position that is no change's as one of this history."""
        if len(self._marks) < MARKS:
            self._marks.add(position)

    def _shrink(self) -> None:
        """Drop the older half at once, so that dropping costs little per change."""
        drop = max(1, len(self._changes) // 2)
        dropped, self._changes = self._changes[:drop], self._changes[drop:]
        self._bytes -= sum(len(change.json or b"") for change in dropped)
        self.floor = dropped[-1].position
        self._marks = {self.floor}


def _position(change: Change) -> str:
    return change.position
