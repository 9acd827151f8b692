"""One change on its way through a trigger."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from motia_core.model import Change
from motia_core.triggers.definition import OrderKey

if TYPE_CHECKING:
    from motia_core.triggers.partition import Partition


class State(IntEnum):
    """Where an entry stands. Only the first of its key is ever past `QUEUED`."""

    QUEUED = 0
    """Its turn has not come, or it has and no worker has taken it."""
    RUNNING = 1
    WAITING = 2
    """For its next attempt."""
    DYING = 3
    """Out of attempts; its dead letter is not stored yet."""
    DONE = 4
    """Succeeded, or its dead letter is stored."""


class Entry:
    """One change of one partition. The entries of a key are a chain, in position order."""

    __slots__ = (
        "attempts",
        "before",
        "change",
        "counted",
        "era",
        "error",
        "hash",
        "key",
        "matched",
        "next",
        "partition",
        "position",
        "runs",
        "saved_runs",
        "state",
        "stored",
        "unwritten",
    )

    def __init__(self, partition: Partition, change: Change, key: OrderKey, hash16: int, before: str, era: int) -> None:
        self.partition = partition
        self.change = change
        self.key = key
        self.hash = hash16
        self.position = change.position
        self.before = before
        """The position of the change before it in the stream, whosever that was."""
        self.era = era
        self.state = State.QUEUED
        self.next: Entry | None = None
        self.attempts = 0
        """Failed ones, and those that were counted before they began."""
        self.counted = False
        """The coming (or running) attempt is counted already, because it may kill the process."""
        self.error: str | None = None
        self.matched = False
        """The condition said yes once; it is not asked again."""
        self.runs = 0
        """Begun here."""
        self.saved_runs = 0
        """Of these, whose outcome the store knows."""
        self.stored = False
        """The store holds it as parked."""
        self.unwritten = False
        """The parked record has to be written (again)."""

    @property
    def order(self) -> tuple[int, str]:
        """Its place among all of its partition."""
        return self.era, self.position
