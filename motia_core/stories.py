"""Whose story a position belongs to, where a backend tells states instead of steps (SEMANTICS B9).

There each process leaves out what came and went between two of its own looks. So what a
hub tells carries a mark of that hub behind its positions. A subscriber who comes back to
the same hub goes on from its ring; one who comes from elsewhere, or who got only a part of
what `Adapter.resume` tells, has all that is different read anew.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from motia_core.adapter import Adapter
from motia_core.model import Batch, Change, Snapshot, StreamSpec
from motia_core.ring import RING_BYTES, RING_CHANGES

MOST_RESUMES = 8
"""Positions from which readers from elsewhere are brought up to date at once; a sync is cheaper than more."""

_MARK = re.compile(r"~[0-9a-f]{8}\Z")


class Story:
    """One hub's view of a coalesced stream: an adapter's positions, with the hub's mark behind them."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self._resuming: dict[str, asyncio.Task[Batch | None]] = {}
        self.renew()

    def renew(self) -> None:
        """Another history, another story: no position told so far is one of it."""
        self._mark = f"~{secrets.token_hex(4)}"

    def told(self, position: str) -> bool:
        """Whether this very story goes on from a position."""
        return position.endswith(self._mark)

    async def head(self, stream: StreamSpec) -> str:
        """As `Adapter.head`."""
        return await self._adapter.head(stream) + self._mark

    async def snapshot(self, stream: StreamSpec, group: str, id: str | None, *, limit: int | None) -> Snapshot:
        """As `Adapter.snapshot`."""
        mark = self._mark
        snapshot = await self._adapter.snapshot(stream, group, id, limit=limit)
        return replace(snapshot, position=snapshot.position + mark)

    async def watch(self, stream: StreamSpec, after: str) -> AsyncGenerator[Batch, None]:
        """As `Adapter.watch`."""
        mark = self._mark
        async with aclosing(self._adapter.watch(stream, _MARK.sub("", after))) as batches:
            async for batch in batches:
                changes = tuple(replace(change, position=change.position + mark) for change in batch.changes)
                yield replace(batch, changes=changes, position=batch.position + mark)

    async def resume(self, stream: StreamSpec, after: str, until: str) -> Batch | None:
        """All that is different from a position of elsewhere, up to one of this story's own, at ``until`` or later.

        ``None``: too much is asked for at once. Those who ask for the same share one read. The changes have no mark:
        who got only some of them is to ask again. Raises what `Adapter.resume` raises.
        """
        after = _MARK.sub("", after)
        task = self._resuming.get(after)
        if task is None:
            if len(self._resuming) >= MOST_RESUMES:
                return None
            task = self._resuming[after] = asyncio.create_task(self._read(stream, after, until))
            task.add_done_callback(lambda _: self._resuming.pop(after, None))
            task.add_done_callback(lambda task: task.cancelled() or task.exception())  # never "unretrieved"
        return await asyncio.shield(task)

    async def close(self) -> None:
        """End all reading."""
        tasks = list(self._resuming.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, stream: StreamSpec, after: str, until: str) -> Batch | None:
        mark = self._mark
        changes: list[Change] = []
        size = 0
        async with aclosing(self._adapter.resume(stream, after)) as batches:
            async for batch in batches:
                changes += batch.changes
                size += sum(len(change.json or b"") for change in batch.changes)
                if len(changes) > RING_CHANGES or size > RING_BYTES:
                    return None
                position = batch.position + mark
                if position >= until:
                    return Batch(tuple(changes), position)
        return None
