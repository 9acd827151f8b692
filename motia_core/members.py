"""Who is subscribed to a stream in this process, and how changes reach them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from motia_core.errors import MotiaError
from motia_core.model import Change, Snapshot

NOT_LIVE: Final = "\U0010ffff"
"""The position of a member that gets nothing at the moment: greater than all others."""


class Run:
    """Changes that belong to the same subscribers and follow each other: pushed in one call."""

    __slots__ = ("changes", "first", "frame", "last")

    def __init__(self, changes: Sequence[Change]) -> None:
        self.changes = changes
        self.first = changes[0].position
        self.last = changes[-1].position
        self.frame: Any = None
        """Kept here by the server: the changes as encoded for the wire, once for everybody."""


class Sink(Protocol):
    """Where a member's data goes. All calls are synchronous, quick and never raise.

    ``push`` is called for each run of changes; the others rarely.
    """

    def push(self, run: Run) -> None:
        """Take changes as they happen. A sink with several members gets what more than one
        of them wants more than once; what it did not get before has a greater position than all it got."""

    def replay(self, run: Run) -> None:
        """Take changes that a member missed, when it resumes."""

    def sync(self, member: Member, snapshot: Snapshot, reason: str | None) -> None:
        """Take a snapshot that replaces what the member knows."""

    def trim(self, member: Member, floor: str) -> bool:
        """Learn that the ring has let go of what lies before ``floor``.

        True if the sink held some of that and lets go too; it gets nothing more then
        until it asks for a `Hub.resync`.
        """
        raise NotImplementedError

    def failed(self, member: Member, error: MotiaError) -> None:
        """Learn that the member's data is late, or cannot be read."""


class Member:
    """One subscription to a group, or to one item of it."""

    __slots__ = ("group", "id", "position", "push", "sink")

    def __init__(self, sink: Sink, group: str, id: str | None) -> None:
        self.sink = sink
        self.push: Callable[[Run], None] = sink.push
        self.group = group
        self.id = id
        self.position = NOT_LIVE

    @property
    def live(self) -> bool:
        """Whether changes reach it now."""
        return self.position != NOT_LIVE

    def wants(self, change: Change) -> bool:
        """Whether a change belongs to this subscription (C3)."""
        return change.group_id == self.group and (self.id is None or change.id == self.id)
