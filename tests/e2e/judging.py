"""Judges what subscriptions got against what was really written."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from motia_core.model import Change, StreamSpec
from motia_core.streams import Stream

from .sockets import Frame, kind

Place = tuple[str, str | None]
"""A group, or an item of it."""


class Truth:
    """The whole log of a stream: what each place was at each position."""

    def __init__(self, changes: Sequence[Change]) -> None:
        self.changes = changes
        self._of: dict[Place, list[Change]] = defaultdict(list)
        for change in changes:
            self._of[change.group_id, None].append(change)
            if change.id is not None:
                self._of[change.group_id, change.id].append(change)

    @classmethod
    async def of(cls, stream: Stream[Any], until: str) -> Truth:
        """Read the log from its beginning; ``until``: the last position that was written."""
        adapter, spec = stream.hub.adapter, StreamSpec(stream.name)
        changes: list[Change] = []
        async with aclosing(adapter.watch(spec, await adapter.floor(spec))) as batches:
            async for batch in batches:
                changes += batch.changes
                if batch.position >= until:
                    break
        return cls(changes)

    def after(self, where: Place, position: str, until: str = "\U0010ffff") -> list[str]:
        """Positions of the changes of a place after a position."""
        changes = self._of[where]
        start = bisect_right(changes, position, key=lambda change: change.position)
        return [change.position for change in changes[start:] if change.position <= until]

    def state(self, where: Place, position: str) -> Any:
        """What a sync of a place must hold at a position."""
        items: dict[str, Any] = {}
        for change in self._of[where]:
            if change.position > position:
                break
            if change.id is not None and change.type != "event":
                items[change.id] = None if change.type == "delete" else {"id": change.id, **change.data}
        there = [items[id] for id in sorted(items) if items[id] is not None]
        return there if where[1] is None else (there[0] if there else None)


class Follower:
    """A subscription as a client keeps it: `feed` it all frames of its socket.

    A frame belongs to every subscription that it fits, so those that come before the join is
    answered, or after a warning, may be somebody else's: their order is known afterwards.
    """

    def __init__(self, where: Place, name: str, after: str | None = None) -> None:
        self.where = where
        self.name = name
        self.cursor = after
        """Where it would resume."""
        self.answered = False
        self.steps: list[tuple[str, str | None, str, Any]] = []
        """What it took: kind, cursor before, position, a sync's data."""
        self._early: list[str] = []

    def feed(self, frame: Frame) -> None:
        """Take a frame that came."""
        if frame.get("subscriptionId") == self.name:
            self._settle()
            self._take("joined", frame["position"])
        if frame["type"] != "stream" or frame["groupId"] != self.where[0]:
            return
        mine = frame.get("id") == self.where[1]
        if kind(frame) == "SLOW_CONSUMER" and mine:
            self.answered = False
        elif kind(frame) == "sync" and mine:
            self.steps.append(("sync", self.cursor, frame["position"], frame["event"]["data"]))
            self.cursor = frame["position"]
            self._settle()
        elif kind(frame) in ("create", "update", "delete", "event") and (mine or self.where[1] is None):
            if self.answered:
                self._take("change", frame["position"])
            else:
                self._early.append(frame["position"])

    def cut(self) -> None:
        """The socket is lost: what nobody knows the order of is forgotten."""
        self._early.clear()
        self.answered = False

    def wrong(self, truth: Truth, *, complete: bool) -> list[str]:
        """What was wrong with what came; ``complete``: it must have got all there is."""
        found = []
        for what, before, position, data in self.steps:
            if what == "sync":
                if data != truth.state(self.where, position):
                    found.append(f"the sync at {position} is not what was stored")
                if before is not None and position < before:
                    found.append(f"the sync at {position} is older than {before}")
            else:
                lost = truth.after(self.where, before or "", position)
                if lost != ([position] if what == "change" else []):
                    found.append(f"{what} at {position} after {before}, lost: {lost}")
        if complete and not self.answered:
            found.append("not answered")
        elif complete and (left := truth.after(self.where, self.cursor or "")):
            found.append(f"stale at {self.cursor}, lost: {left}")
        return [f"{self.name} {self.where}: {error}" for error in found]

    def _take(self, what: str, position: str) -> None:
        if self.cursor is not None and position > self.cursor:
            self.steps.append((what, self.cursor, position, None))
            self.cursor = position

    def _settle(self) -> None:
        self.answered = True
        early, self._early = sorted(self._early), []
        for position in early:
            self._take("change", position)


def repeated(frames: Sequence[Frame]) -> list[str]:
    """Positions of changes that a socket got more than once."""
    seen: set[str] = set()
    twice = []
    for frame in frames:
        if frame["type"] == "stream" and kind(frame) in ("create", "update", "delete", "event"):
            if frame["position"] in seen:
                twice.append(frame["position"])
            seen.add(frame["position"])
    return twice
