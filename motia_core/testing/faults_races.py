"""Faults of size and of the moment: on page borders, in races, in what is read by another way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from motia_core.adapter import FULL, Capabilities
from motia_core.errors import OutcomeUnknown, PositionExpired
from motia_core.memory import CAPABILITIES, MemoryAdapter
from motia_core.model import ABSENT, Batch, Item, Snapshot, StreamSpec, Write, WriteResult
from motia_core.testing.faults import _OwnWatch, _whole, fault
from motia_core.values import encode

PAGE = 1_000


# -- reading -----------------------------------------------------------------------------


@fault("A1")
class LossyLog(_OwnWatch):
    """In the log, and only there, 1.0 is 1."""

    def tamper(self, batch: Batch, after: str, first: bool) -> Batch:
        changes = (replace(c, json=encode(_whole(c.data))) if c.json else c for c in batch.changes)
        return Batch(tuple(changes), batch.position)


@fault("A2")
class ListsWithoutVersions(MemoryAdapter):
    """Items of a list have no version."""

    async def list(self, stream: StreamSpec, group: str, *, after: str | None, limit: int | None) -> Sequence[Item]:
        return [replace(item, version="") for item in await super().list(stream, group, after=after, limit=limit)]


@fault("A6")
class ListsOnePage(MemoryAdapter):
    """A list without a limit ends where the first page does."""

    async def list(self, stream: StreamSpec, group: str, *, after: str | None, limit: int | None) -> Sequence[Item]:
        return await super().list(stream, group, after=after, limit=min(limit or PAGE, PAGE))


@fault("A6")
class RepeatsTheCursor(MemoryAdapter):
    """A page begins with the item that the one before ended with."""

    async def list(self, stream: StreamSpec, group: str, *, after: str | None, limit: int | None) -> Sequence[Item]:
        items = await super().list(stream, group, after=None, limit=None)
        return [item for item in items if after is None or item.id >= after][:limit]


@fault("A6")
class NeedsTheCursorsItem(MemoryAdapter):
    """After an item that is gone nothing comes."""

    async def list(self, stream: StreamSpec, group: str, *, after: str | None, limit: int | None) -> Sequence[Item]:
        if after is not None and await self.get(stream, group, after) is None:
            return []
        return await super().list(stream, group, after=after, limit=limit)


@fault("A6")
class SnapshotsFromTheEnd(MemoryAdapter):
    """A snapshot with a limit holds the last items."""

    async def snapshot(self, stream: StreamSpec, group: str, id: str | None, *, limit: int | None) -> Snapshot:
        whole = await super().snapshot(stream, group, id, limit=None)
        return whole if limit is None else replace(whole, items=whole.items[-limit:])


@fault("A9")
class SnapshotsOfSeveralGroups(MemoryAdapter):
    """A snapshot holds the items of groups whose names begin alike."""

    async def snapshot(self, stream: StreamSpec, group: str, id: str | None, *, limit: int | None) -> Snapshot:
        snapshot = await super().snapshot(stream, group, id, limit=limit)
        if id is not None:
            return snapshot
        items = list(snapshot.items)
        for other in await self.list_groups(stream, after=group, limit=None):
            if other.startswith(group):
                items += await self.list(stream, other, after=None, limit=None)
        return replace(snapshot, items=tuple(items)[:limit])


@fault("A10")
class SnapshotsTheExpired(MemoryAdapter):
    """A snapshot of one item shows it until it is swept."""

    async def snapshot(self, stream: StreamSpec, group: str, id: str | None, *, limit: int | None) -> Snapshot:
        snapshot = await super().snapshot(stream, group, id, limit=limit)
        row = self._stream(stream).groups.get(group, {}).get(id or "")
        return (
            snapshot
            if row is None or id is None
            else replace(snapshot, items=(Item(group, id, row.json, row.version),))
        )


@fault("B2")
class TornItemSnapshot(MemoryAdapter):
    """The snapshot of one item is its value, and then the position of a moment later."""

    async def snapshot(self, stream: StreamSpec, group: str, id: str | None, *, limit: int | None) -> Snapshot:
        snapshot = await super().snapshot(stream, group, id, limit=limit)
        if id is None:
            return snapshot
        await asyncio.sleep(0)
        return replace(snapshot, position=await self.head(stream))


class _Shared(MemoryAdapter):
    """Says that several processes may share the store."""

    def capabilities(self, stream: StreamSpec) -> Capabilities:
        return replace(CAPABILITIES, multi_process=FULL)


@fault("F5")
class OldHead(_Shared):
    """Another process's head is a moment old."""

    async def head(self, stream: StreamSpec) -> str:
        read, head = vars(self).setdefault("_heads", {}).get(stream, (0.0, ""))
        if time.monotonic() - read > 0.3:
            read, head = time.monotonic(), await super().head(stream)
            vars(self)["_heads"][stream] = read, head
        return str(head)

    async def write(self, stream: StreamSpec, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        try:
            return await super().write(stream, writes)
        finally:
            vars(self).pop("_heads", None)


# -- writing -----------------------------------------------------------------------------


@fault("A4")
class ForeignOldValue(MemoryAdapter):
    """The old value that a write returns was read before it waited for its turn."""

    async def write(self, stream: StreamSpec, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        before = await self.get(stream, writes[0].group, writes[0].id or "")
        (result, *others) = await super().write(stream, writes)
        if before is not None and result is not None and result.type == "update":
            result = replace(result, old_json=before.json)
        return [result, *others]


@fault("A5")
class ChecksTooEarly(MemoryAdapter):
    """A condition is checked, and what others do before the write is not noticed."""

    async def write(self, stream: StreamSpec, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        (write, *others) = writes
        if others or write.expect is None or (write.kind == "set" and write.expect != ABSENT):
            return await super().write(stream, writes)
        item = await self.get(stream, write.group, write.id or "")
        write.check(item.version if item else None)
        await asyncio.sleep(0)
        return await super().write(stream, [replace(write, expect=None)])


@fault("A7")
class SplitsLargeBatches(MemoryAdapter):
    """A batch of more than 100 writes is several."""

    async def write(self, stream: StreamSpec, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        results: list[WriteResult | None] = []
        for start in range(0, len(writes), 100):
            results += await super().write(stream, writes[start : start + 100])
        return results


@fault("A7")
class CancelsHalfABatch(MemoryAdapter):
    """A batch is checked as a whole and written by one write after the other."""

    async def write(self, stream: StreamSpec, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        if len(writes) == 1:
            return await super().write(stream, writes)
        results: list[WriteResult | None] = []
        async with vars(self.store).setdefault("lock", asyncio.Lock()):
            for write in writes:
                item = await self.get(stream, write.group, write.id or "")
                write.check(item.version if item else None)
                write.resolve(item.json if item else None)
            for write in writes:
                results += await super().write(stream, [write])
        return results


@fault("A10")
class KeepsTheFirstDeadline(MemoryAdapter):
    """A deadline stays with an id, whatever takes the item's place."""

    def _store(self, stream: StreamSpec, state: Any, write: Write, row: Any, new: Any, now: float) -> Any:
        first = row.expires if row else None
        result = super()._store(stream, state, write, row, new, now)
        if first is not None and new is not None and write.id is not None:
            state.groups[write.group][write.id].expires = first
            state.deadlines[write.group, write.id] = first
        return result


@fault("B6")
class EventsMakeVersions(MemoryAdapter):
    """An event to an item gives it a new version."""

    async def write(self, stream: StreamSpec, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        results = await super().write(stream, writes)
        for result in results:
            if result is not None and result.type == "event":
                row = self._stream(stream).groups.get(result.group, {}).get(result.id or "")
                if row is not None:
                    row.version = result.position
        return results


@fault("F2")
class RetriesBatches(MemoryAdapter):
    """A batch whose reply was lost is sent again."""

    async def write(self, stream: StreamSpec, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        try:
            return await super().write(stream, writes)
        except OutcomeUnknown:
            if len(writes) == 1:
                raise
            return await super().write(stream, writes)


# -- following ---------------------------------------------------------------------------


@fault("B3", "B1", "C2")
class LosesThePagesLast(_OwnWatch):
    """The last change of a full page is skipped."""

    def tamper(self, batch: Batch, after: str, first: bool) -> Batch:
        return Batch(batch.changes[:-1], batch.position) if len(batch.changes) == PAGE else batch


@fault("B3", "B1", "C2")
class RunsAhead(_OwnWatch):
    """The position of a page is that of the log's end."""

    def tamper(self, batch: Batch, after: str, first: bool) -> Batch:
        if len(batch.changes) < PAGE:
            return batch
        state = self.store.stream(self.settings.namespace, batch.changes[0].stream)
        return Batch(batch.changes, self.store.position(state.seq))


@fault("B3")
class WatchesShareACursor(MemoryAdapter):
    """What one watch has told no other watch of the process tells, unless it begins later."""

    async def watch(self, stream: StreamSpec, after: str) -> AsyncGenerator[Batch, None]:
        told: set[str] = vars(self).setdefault("_told", set())
        first = True
        async with aclosing(super().watch(stream, after)) as batches:
            async for batch in batches:
                changes = tuple(c for c in batch.changes if first or c.position not in told)
                told |= {change.position for change in changes}
                first = False
                yield Batch(changes, batch.position)


@fault("B7")
class SkipsWhatWasTrimmed(MemoryAdapter):
    """A watch that is overtaken by trimming goes on behind the gap."""

    async def watch(self, stream: StreamSpec, after: str) -> AsyncGenerator[Batch, None]:
        begun = False
        while True:
            try:
                async with aclosing(super().watch(stream, after)) as batches:
                    async for batch in batches:
                        begun, after = True, batch.position
                        yield batch
                return
            except PositionExpired as error:
                if not begun or error.floor is None or not after.endswith(self.store.identity):
                    raise
                after = error.floor
