"""One attempt at a time of what may kill the process, in all of it (rule 22)."""

from __future__ import annotations

from typing import Protocol


class Careful(Protocol):
    """Who asks for the turn: a partition whose owners died again and again."""

    def try_next(self) -> None:
        """Ask for the turn if there is an attempt to be made."""


class Turn:
    """Given to one partition at a time, so that a killer's neighbours are not blamed for its deaths.

    Attempts are written down before they start; were two of them running when the process
    dies, an innocent change would be counted out together with the killer.
    """

    def __init__(self) -> None:
        self._holder: Careful | None = None
        self._waiting: dict[Careful, None] = {}

    def take(self, partition: Careful) -> bool:
        """Whether it is this partition's turn now; if not, its `try_next` is called when it is."""
        if self._holder is None:
            self._holder = partition
        if self._holder is partition:
            return True
        self._waiting[partition] = None
        return False

    def give(self, partition: Careful) -> None:
        """The partition's attempt is over, or it wants none: the next one that waits is asked."""
        self._waiting.pop(partition, None)
        if self._holder is not partition:
            return
        self._holder = None
        while self._holder is None and self._waiting:
            following = next(iter(self._waiting))
            del self._waiting[following]
            following.try_next()
