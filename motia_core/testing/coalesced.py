"""The reference for storage that keeps no log of each step (SEMANTICS B9).

It stands for a user's own collection behind a listener: other programs write to it,
changes are told as the latest state of each item, an equal write is no change, and a
version is a hash of the content, which can only be compared as equal or not. What came
and went between two looks is left out, unless this very client wrote it or has shown it,
if only by another watch.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace

from motia_core.adapter import FULL, Capabilities, StorageSettings, limited, unsupported
from motia_core.memory import CAPABILITIES as MANAGED
from motia_core.memory import MemoryAdapter, MemoryStore, _Row, _Stream
from motia_core.model import Batch, Change, Item, Snapshot, StreamSpec, Write, WriteResult

PACE = 0.01
"""Seconds between two looks of a watch: what happens in between is told as one."""

CAPABILITIES = replace(
    MANAGED,
    equal_writes=unsupported("an equal value leaves nothing to see"),
    ttl=unsupported("the items are another program's, which knows no deadlines"),
    history=limited("coalesced: the latest state of each item"),
    ordered_versions=limited("hashes of the content: equal or not"),
    multi_process=FULL,
    foreign_writes=FULL,
)


class CoalescedAdapter(MemoryAdapter):
    """A client of a `MemoryStore` that sees states instead of steps; hidden streams are managed."""

    def __init__(self, settings: StorageSettings, store: MemoryStore | None = None) -> None:
        super().__init__(settings, store)
        self._shown: set[tuple[str, str]] = set()

    def capabilities(self, stream: StreamSpec) -> Capabilities:
        """Coalesced for the user's streams."""
        return MANAGED if stream.hidden else CAPABILITIES

    async def write(self, stream: StreamSpec, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        """As it is done; what is written is remembered."""
        results = await super().write(stream, writes)
        self._shown.update((write.group, write.id) for write in writes if write.id is not None)
        return results

    async def get(self, stream: StreamSpec, group: str, id: str) -> Item | None:
        """As it is; what is shown is remembered."""
        item = await super().get(stream, group, id)
        self._shows([item] if item else [])
        return item

    async def list(self, stream: StreamSpec, group: str, *, after: str | None, limit: int | None) -> Sequence[Item]:
        """As they are; what is shown is remembered."""
        items = await super().list(stream, group, after=after, limit=limit)
        self._shows(items)
        return items

    async def snapshot(self, stream: StreamSpec, group: str, id: str | None, *, limit: int | None) -> Snapshot:
        """As they are; what is shown is remembered."""
        snapshot = await super().snapshot(stream, group, id, limit=limit)
        self._shows(snapshot.items)
        return snapshot

    def watch(self, stream: StreamSpec, after: str) -> AsyncGenerator[Batch, None]:
        """Look, tell what is different, wait a little."""
        return self._follow(stream, after, whole=False)

    def resume(self, stream: StreamSpec, after: str) -> AsyncGenerator[Batch, None]:
        """The first time leave out nothing: others may have told of it."""
        return self._follow(stream, after, whole=True)

    async def _follow(self, stream: StreamSpec, after: str, *, whole: bool) -> AsyncGenerator[Batch, None]:
        async with aclosing(super().watch(stream, after)) as batches:
            async for batch in batches:
                if stream.hidden:
                    yield batch
                    continue
                told = list(self.coalesce(batch.changes))
                if whole:  # its reader may have all that is there
                    groups = self.store.stream(self.settings.namespace, stream.name).groups
                    self._shown.update((group, id) for group, rows in groups.items() for id in rows)
                else:
                    told = list(self._without_what_came_and_went(batch.changes, told))
                self._shown.update((change.group_id, change.id) for change in told if change.id is not None)
                yield Batch(tuple(told), batch.position)
                whole = False
                await asyncio.sleep(PACE)

    def _shows(self, items: Iterable[Item]) -> None:
        self._shown.update((item.group, item.id) for item in items)

    def _without_what_came_and_went(self, changes: Iterable[Change], told: Iterable[Change]) -> Iterable[Change]:
        came: dict[object, bool] = {}
        for change in changes:
            if change.type != "event":
                came.setdefault((change.group_id, change.id), change.type == "create")
        for change in told:
            key = (change.group_id, change.id or "")
            if change.type != "delete" or not came[key] or key in self._shown:
                yield change

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
