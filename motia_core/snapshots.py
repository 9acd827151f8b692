"""One snapshot for all who join the same group at about the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from motia_core.model import Item, Snapshot
from motia_core.ring import Ring

SNAPSHOT_REUSE = 0.5
"""Seconds for which one snapshot serves further joins of its group."""


class SharedSnapshot:
    """One snapshot for all who join the same group at about the same time."""

    def __init__(self, reading: Coroutine[Any, Any, Snapshot], written: str) -> None:
        self.task = asyncio.create_task(reading)
        self.task.add_done_callback(lambda task: task.cancelled() or task.exception())  # never "unretrieved"
        self._loop = asyncio.get_running_loop()
        self._begun = self._loop.time()
        self._written = written
        self._forward: Snapshot | None = None

    def usable(self, floor: str, written: str) -> bool:
        """Whether a join that begins now may have it: it must hold all local writes so far."""
        if not self.task.done():
            return self._written == written
        if self._loop.time() - self._begun > SNAPSHOT_REUSE or self.task.cancelled() or self.task.exception():
            return False
        snapshot = self.task.result()
        # An item with a deadline may have vanished since: not to be shown again (A10).
        fresh = snapshot.position >= floor and snapshot.position >= written
        return fresh and not any(item.expires for item in snapshot.items)

    async def get(self) -> Snapshot:
        """The snapshot; a caller that is cancelled takes it from nobody."""
        return await asyncio.shield(self.task)

    def brought_forward(self, ring: Ring, seen: str, group: str, id: str | None) -> Snapshot:
        """The snapshot with what the ring has seen since, so that it is never behind.

        A socket that already gets this group's changes must not get a sync older than
        what it got: published clients would drop it.
        """
        base = self._forward or self.task.result()
        if base.position >= seen:
            return base
        items = {item.id: item for item in base.items}
        timestamp = base.timestamp
        for change in ring.after(base.position):
            timestamp = change.timestamp
            if change.group_id != group or change.id is None or (id is not None and change.id != id):
                continue
            if change.type == "delete":
                items.pop(change.id, None)
            elif change.type != "event":
                assert change.json is not None
                items[change.id] = Item(group, change.id, change.json, change.version or "")
        ordered = tuple(items[key] for key in sorted(items))
        self._forward = Snapshot(ordered, seen, timestamp)
        return self._forward
