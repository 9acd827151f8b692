"""The reference for storage that keeps no log of each step (SEMANTICS B9).

It stands for a user's own collection behind a listener: other programs write to it,
changes are told as the latest state of each item, an equal write is no change, and a
version is a hash of the content, which can only be compared as equal or not.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace

from motia_core.adapter import FULL, Capabilities, limited, unsupported
from motia_core.memory import CAPABILITIES as MANAGED
from motia_core.memory import MemoryAdapter, _Row, _Stream
from motia_core.model import Batch, Change, StreamSpec, Write, WriteResult

PACE = 0.01
"""Seconds between two looks of a watch: what happens in between is told as one."""

CAPABILITIES = replace(
    MANAGED,
    equal_writes=unsupported("an equal value leaves nothing to see"),
    ttl=unsupported("the items are another program's, which knows no deadlines"),
    history=limited("coalesced: the latest state of each item"),
    ordered_versions=limited("hashes of the content: equal or not"),
    foreign_writes=FULL,
)


class CoalescedAdapter(MemoryAdapter):
    """A client of a `MemoryStore` that sees states instead of steps; hidden streams are managed."""

    def capabilities(self, stream: StreamSpec) -> Capabilities:
        """Coalesced for the user's streams."""
        return MANAGED if stream.hidden else CAPABILITIES

    async def watch(self, stream: StreamSpec, after: str) -> AsyncGenerator[Batch, None]:
        """Look, tell what is different, wait a little."""
        async with aclosing(super().watch(stream, after)) as batches:
            async for batch in batches:
                if stream.hidden:
                    yield batch
                    continue
                yield Batch(tuple(self.coalesce(batch.changes)), batch.position)
                await asyncio.sleep(PACE)

    def coalesce(self, changes: Iterable[Change]) -> Iterable[Change]:
        """Of each item the last change, by its position; told as seen from before the first."""
        last: dict[object, Change] = {}
        new: set[object] = set()
        for change in changes:
            key: object = change.position if change.type == "event" else (change.group_id, change.id)
            if key not in last and change.type == "create":
                new.add(key)
            last.pop(key, None)
            last[key] = change
        for key, change in last.items():
            if change.type in ("event", "delete"):
                yield change
            else:
                yield replace(change, type="create" if key in new else "update")

    def write_as_another_program(self, stream: StreamSpec, writes: Sequence[Write]) -> None:
        """What happens in the store when somebody writes past every adapter."""
        state = self.store.stream(self.settings.namespace, stream.name)
        now = self.store.clock() * 1000
        for write in writes:
            row = self._live(state, write.group, write.id or "", now)
            self._store(stream, state, write, row, write.resolve(row.json if row else None), now)

    def _store(
        self, stream: StreamSpec, state: _Stream, write: Write, row: _Row | None, new: bytes | None, now: float
    ) -> WriteResult | None:
        if stream.hidden or write.kind == "event" or write.id is None:
            return super()._store(stream, state, write, row, new, now)
        if row is not None and new == row.json:
            position = self.store.position(state.seq)
            return WriteResult("update", write.group, write.id, new, new, row.version, position, state.timestamp)
        result = super()._store(stream, state, write, row, new, now)
        if result is None:
            return None
        version = "gone" if new is None else hashlib.sha256(new).hexdigest()
        state.log[-1] = replace(state.log[-1], version=version)
        if new is not None:
            state.groups[write.group][write.id].version = version
        return replace(result, version=version)
