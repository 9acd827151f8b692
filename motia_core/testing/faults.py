"""Adapters with one defect each: what the suite must be able to see.

`FAULTS` maps a name to a `Fault`: the adapter (on a `MemoryStore`), the clause whose
test must fail on it, and the clauses that cannot help failing too. A test of the suite
runs it against every fault, and demands just that.
"""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, NamedTuple

import orjson

from motia_core.adapter import StorageSettings
from motia_core.errors import OutcomeUnknown
from motia_core.memory import MemoryAdapter, MemoryStore
from motia_core.model import Batch, Change, Item, Snapshot, StreamSpec, Write, WriteResult


class Fault(NamedTuple):
    """One defect. ``also`` names clauses that it breaks by its nature, beside ``clause``."""

    make: Callable[[StorageSettings, MemoryStore], MemoryAdapter]
    clause: str
    also: frozenset[str] = frozenset()


FAULTS: dict[str, Fault] = {}
"""Every fault, by name."""


def fault(clause: str, *also: str) -> Callable[[type[MemoryAdapter]], type[MemoryAdapter]]:
    """Register a faulty adapter; its docstring says what is wrong with it."""

    def register(adapter: type[MemoryAdapter]) -> type[MemoryAdapter]:
        words = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in adapter.__name__)
        FAULTS[words.strip("_")] = Fault(adapter, clause, frozenset(also))
        return adapter

    return register


# -- A: data ---------------------------------------------------------------------------


@fault("A1", "A3")
class LossyNumber(MemoryAdapter):
    """1.0 comes back as 1."""

    async def get(self, stream: StreamSpec, group: str, id: str) -> Item | None:
        item = await super().get(stream, group, id)
        return item and replace(item, json=orjson.dumps(_whole(item.value)))


@fault("A2", "A4", "A3")
class CreateReportedTwice(MemoryAdapter):
    """The second set of an item says "create" again."""

    async def write(self, stream: StreamSpec, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        results = await super().write(stream, writes)
        return [replace(result, type="create") if result and result.type == "update" else result for result in results]


@fault("A2", "B1", "C1", "C3", "A7", "B2", "B6")
class ForgetsDeletes(MemoryAdapter):
    """A delete is stored and not logged."""

    async def write(self, stream: StreamSpec, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        results = await super().write(stream, writes)
        for result in results:
            if result is not None and result.type == "delete":
                _lose(self, stream, result.position)
        return results


@fault("A2", "B1")
class ReusesVersions(MemoryAdapter):
    """Versions start again when an item is created anew."""

    async def write(self, stream: StreamSpec, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        results = await super().write(stream, writes)
        state = self.store.stream(self.settings.namespace, stream.name)
        for result in results:
            if result is not None and result.type == "create":
                state.groups[result.group][result.id or ""].version = "v1"
        return [replace(r, version="v1") if r is not None and r.type == "create" else r for r in results]


@fault("A3")
class HalfAnUpdate(MemoryAdapter):
    """Operations before the one that fails are kept."""

    async def write(self, stream: StreamSpec, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        (write, *others) = writes
        if write.operations is not None and not others and len(write.operations.operations) > 1:
            first = replace(write.operations, operations=write.operations.operations[:1])
            try:
                write.resolve((await self._old(stream, write)) or b"{}")
            except Exception:
                await super().write(stream, [replace(write, operations=first)])
                raise
        return await super().write(stream, writes)

    async def _old(self, stream: StreamSpec, write: Write) -> bytes | None:
        item = await self.get(stream, write.group, write.id or "")
        return item.json if item else None


@fault("A4", "A3", "C1", "F3", "A10", "A5")
class NonAtomicUpdate(MemoryAdapter):
    """An update reads, lets others run, and writes what it made of the old value."""

    async def write(self, stream: StreamSpec, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        (write, *others) = writes
        if write.kind == "update" and not others:
            item = await self.get(stream, write.group, write.id or "")
            write.check(item.version if item else None)
            value = write.resolve(item.json if item else None)
            await asyncio.sleep(0.001)
            return await super().write(stream, [Write("set", write.group, write.id, value)])
        return await super().write(stream, writes)


@fault("A5", "F5", "A7", "A10")
class IgnoresExpect(MemoryAdapter):
    """``expect=`` is accepted and not looked at."""

    async def write(self, stream: StreamSpec, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        return await super().write(stream, [replace(write, expect=None) for write in writes])


@fault("A6")
class UnsortedPages(MemoryAdapter):
    """Items come in the order of their creation."""

    async def list(self, stream: StreamSpec, group: str, *, after: str | None, limit: int | None) -> Sequence[Item]:
        items = await super().list(stream, group, after=after, limit=limit)
        return sorted(items, key=lambda item: item.version)


@fault("A6", "A10", "F2")
class EmptyGroupsStay(MemoryAdapter):
    """A group whose last item is deleted is still listed."""

    def __init__(self, settings: StorageSettings, store: MemoryStore) -> None:
        super().__init__(settings, store)
        self._ever: dict[str, set[str]] = {}

    async def write(self, stream: StreamSpec, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        results = await super().write(stream, writes)
        self._ever.setdefault(stream.name, set()).update(r.group for r in results if r and r.type == "create")
        return results

    async def list_groups(self, stream: StreamSpec, *, after: str | None, limit: int | None) -> Sequence[str]:
        ever = sorted(group for group in self._ever.get(stream.name, set()) if after is None or group > after)
        return ever[:limit]


@fault("A7")
class PartialBatch(MemoryAdapter):
    """The writes of a batch before the one that fails are kept."""

    async def write(self, stream: StreamSpec, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        results: list[WriteResult | None] = []
        for write in writes:
            results += await super().write(stream, [write])
        return results


@fault("A8", "A9", "A7")
class SkipsTheSchema(MemoryAdapter):
    """Updates are computed without `Write.resolve`, and so without schema and limits."""

    async def write(self, stream: StreamSpec, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        for write in writes:
            if write.operations is not None:
                write.finish = lambda value: orjson.dumps(dict(value))
        return await super().write(stream, writes)


@fault("A9")
class CollidesTwoIds(MemoryAdapter):
    """Ids are normalized: two that look alike are one."""

    async def get(self, stream: StreamSpec, group: str, id: str) -> Item | None:
        return await super().get(stream, group, unicodedata.normalize("NFC", id))


@fault("A9")
class LeaksAcrossGroups(MemoryAdapter):
    """A group's listing holds the items of groups whose names begin alike."""

    async def list(self, stream: StreamSpec, group: str, *, after: str | None, limit: int | None) -> Sequence[Item]:
        found: dict[str, Item] = {}
        for other in await self.list_groups(stream, after=None, limit=None):
            if other.startswith(group):
                found |= {item.id: item for item in await super().list(stream, other, after=after, limit=limit)}
        return [found[id] for id in sorted(found)][:limit]


@fault("A9")
class IgnoresTheNamespace(MemoryAdapter):
    """Two applications on one server share their data."""

    def __init__(self, settings: StorageSettings, store: MemoryStore) -> None:
        super().__init__(replace(settings, namespace="all"), store)


@fault("A10")
class ExpiredItemVisible(MemoryAdapter):
    """An expired item can be read until it is swept."""

    async def get(self, stream: StreamSpec, group: str, id: str) -> Item | None:
        row = self._stream(stream).groups.get(group, {}).get(id)
        return Item(group, id, row.json, row.version) if row else None


@fault("A10")
class ExpiryWithoutDelete(MemoryAdapter):
    """What expires vanishes without a change in the log."""

    def _expire(self, stream: StreamSpec, state: Any, group: str, id: str, now: float) -> None:
        state.groups.get(group, {}).pop(id, None)
        state.deadlines.pop((group, id), None)


@fault("A10")
class UpdateEndsTheDeadline(MemoryAdapter):
    """An update makes an item live for ever."""

    async def write(self, stream: StreamSpec, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        results = await super().write(stream, writes)
        state = self.store.stream(self.settings.namespace, stream.name)
        for write in writes:
            row = state.groups.get(write.group, {}).get(write.id or "")
            if write.kind == "update" and row is not None:
                row.expires = None
        return results


# -- B: order ----------------------------------------------------------------------------


@fault("B1", "F3")
class LosesTheEventOnCancel(MemoryAdapter):
    """A write that is cancelled after it was stored is not in the log."""

    async def write(self, stream: StreamSpec, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        results = await super().write(stream, writes)
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            for result in results:
                if result is not None:
                    _lose(self, stream, result.position)
            raise
        return results


class _OwnWatch(MemoryAdapter):
    """Shows the log through `tamper`."""

    async def watch(self, stream: StreamSpec, after: str) -> AsyncGenerator[Batch, None]:
        first = True
        async with aclosing(super().watch(stream, after)) as batches:
            async for batch in batches:
                yield self.tamper(batch, after, first)
                first = False

    def tamper(self, batch: Batch, after: str, first: bool) -> Batch:
        """What a watcher gets instead."""
        raise NotImplementedError


@fault("B2", "A2", "A7", "A10", "B1", "B3", "B4", "B6", "B7", "B10", "C1", "C2", "C5", "C3", "A9")
class ReordersTwoItems(_OwnWatch):
    """Two changes of different items that come together change places."""

    def tamper(self, batch: Batch, after: str, first: bool) -> Batch:
        changes = list(batch.changes)
        for at in range(len(changes) - 1):
            if changes[at].id != changes[at + 1].id:
                changes[at], changes[at + 1] = changes[at + 1], changes[at]
                break
        return Batch(tuple(changes), batch.position)


@fault(
    "B2",
    "A7",
    "B1",
    "B3",
    "B6",
    "B7",
    "B8",
    "B10",
    "C1",
    "C2",
    "C3",
    "C5",
    "C6",
    "F3",
    "A2",
    "A10",
    "B4",
    "F4",
    "A9",
    "F2",
)
class LateCommit(_OwnWatch):
    """Every seventh change appears only after later ones have been read."""

    def __init__(self, settings: StorageSettings, store: MemoryStore) -> None:
        super().__init__(settings, store)
        self._held: dict[str, Change] = {}

    def tamper(self, batch: Batch, after: str, first: bool) -> Batch:
        held = self._held.pop(after, None)
        late = [change for change in batch.changes if int(change.position.partition("-")[0], 16) % 7 == 3]
        kept = [change for change in batch.changes if change not in late[:1]]
        if late:
            self._held[after] = late[0]
        return Batch((*kept, *([held] if held else [])), batch.position)


@fault("B3", "A2", "A7", "A10", "B1", "B2", "B4", "B6", "B7", "B10", "C2", "F5", "A3", "A5", "A8", "F2")
class DuplicatesOnResume(_OwnWatch):
    """A watch begins with the change at its own position."""

    def tamper(self, batch: Batch, after: str, first: bool) -> Batch:
        if first:
            for state in self.store.streams.values():
                again = [change for change in state.log if change.position == after]
                if again:
                    return Batch((*again, *batch.changes), batch.position)
        return batch


@fault("B3", "B1", "B2", "B10", "A2", "B6", "C1", "C2", "C5", "A7", "B7", "B4")
class RepeatsAPosition(_OwnWatch):
    """Two changes share a position."""

    def tamper(self, batch: Batch, after: str, first: bool) -> Batch:
        changes = list(batch.changes)
        for at in range(1, len(changes), 4):
            changes[at] = replace(changes[at], position=changes[at - 1].position)
        return Batch(tuple(changes), batch.position)


class _OwnLocate(MemoryAdapter):
    def _locate(self, state: Any, position: str) -> int:
        try:
            return int(super()._locate(state, position))
        except Exception:
            seq = self.lenient(state, position)
            if seq is None:
                raise
            return int(seq)

    def lenient(self, state: Any, position: str) -> int | None:
        """Where to read on after all; ``None``: expired."""
        raise NotImplementedError


@fault("B4", "C2")
class AcceptsTheFuture(_OwnLocate):
    """A position ahead of the store is taken for its head."""

    def lenient(self, state: Any, position: str) -> int | None:
        number, _, identity = position.partition("-")
        ahead = identity == self.store.identity and len(number) == 16 and int(number, 16) > state.seq
        return int(state.seq) if ahead else None


@fault("B4", "B8")
class AcceptsAnotherStore(_OwnLocate):
    """A position of a lost history is read as one of the present."""

    def lenient(self, state: Any, position: str) -> int | None:
        number, _, identity = position.partition("-")
        if len(number) == 16 and len(identity) == 16 and identity != self.store.identity:
            return min(int(number, 16), int(state.seq))
        return None


@fault("B7")
class SilentGapAfterTrim(_OwnLocate):
    """History that was trimmed away is skipped without a word."""

    def lenient(self, state: Any, position: str) -> int | None:
        number, _, identity = position.partition("-")
        if identity == self.store.identity and len(number) == 16 and int(number, 16) < state.floor:
            return int(state.floor)
        return None


@fault("B6", "A7", "C3")
class LosesEvents(MemoryAdapter):
    """Custom events are accepted and forgotten."""

    async def write(self, stream: StreamSpec, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        results = await super().write(stream, writes)
        for result in results:
            if result is not None and result.type == "event":
                _lose(self, stream, result.position)
        return results


@fault("B7")
class NeverTrims(MemoryAdapter):
    """The log grows for ever."""

    def _trim(self, state: Any) -> None:
        return


@fault("B7")
class IgnoresAge(MemoryAdapter):
    """Only the number of changes bounds the log, never their age."""

    def __init__(self, settings: StorageSettings, store: MemoryStore) -> None:
        super().__init__(replace(settings, retention=replace(settings.retention, age=None)), store)


@fault("B10", "B2", "B1")
class TimestampGoesBack(MemoryAdapter):
    """Now and then a change is dated before the one before it, as a clock that is set back would."""

    def _append(self, *arguments: Any, **options: Any) -> Change:
        change = super()._append(*arguments, **options)
        if change.position[15] == "9":
            change.timestamp -= 5_000
        return change


@fault("B10", "B1", "B2")
class TimestampOfTheReader(_OwnWatch):
    """Each process dates what it reads by its own clock."""

    def tamper(self, batch: Batch, after: str, first: bool) -> Batch:
        moved = tuple(replace(change, timestamp=change.timestamp + 1) for change in batch.changes)
        return Batch(moved, batch.position)


# -- C: subscribers, F: when things break --------------------------------------------------


@fault("C1", "B2", "B8", "C2", "C4", "F3", "F4", "C3", "C5", "C6")
class SnapshotNewerThanItsPosition(MemoryAdapter):
    """A snapshot holds a change that its position says is still to come."""

    async def snapshot(self, stream: StreamSpec, group: str, id: str | None, *, limit: int | None) -> Snapshot:
        snapshot = await super().snapshot(stream, group, id, limit=limit)
        state = self.store.stream(self.settings.namespace, stream.name)
        return replace(snapshot, position=self.store.position(max(state.floor, state.seq - 1)))


@fault("C1", "B2", "B1", "B8", "C2", "C5", "C3", "C4", "A1", "A2", "A6", "A9")
class SnapshotOlderThanItsPosition(MemoryAdapter):
    """A snapshot lacks the last item that its position says is in it."""

    async def snapshot(self, stream: StreamSpec, group: str, id: str | None, *, limit: int | None) -> Snapshot:
        snapshot = await super().snapshot(stream, group, id, limit=limit)
        if id is not None or not snapshot.items:
            return snapshot
        newest = max(snapshot.items, key=lambda item: item.version)
        return replace(snapshot, items=tuple(item for item in snapshot.items if item is not newest))


@fault("F2")
class RetriesBlindly(MemoryAdapter):
    """A write whose reply was lost is sent again."""

    async def write(self, stream: StreamSpec, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        try:
            return await super().write(stream, writes)
        except OutcomeUnknown:
            return await super().write(stream, writes)


@fault("F3")
class HangsOnCancel(MemoryAdapter):
    """A cancelled write keeps a lock, and everybody after it waits for ever."""

    def __init__(self, settings: StorageSettings, store: MemoryStore) -> None:
        super().__init__(settings, store)
        self._busy = False

    async def get(self, stream: StreamSpec, group: str, id: str) -> Item | None:
        while self._busy:  # noqa: ASYNC110 (it is the fault)
            await asyncio.sleep(0.01)
        self._busy = True
        await asyncio.sleep(0)
        self._busy = False
        return await super().get(stream, group, id)


@fault("F4")
class LeaksATask(MemoryAdapter):
    """Closing leaves a task behind."""

    async def open(self) -> None:
        await super().open()
        self._leaked = asyncio.create_task(asyncio.sleep(3600))


@fault("F4", "F2")
class WatchOutlivesClose(MemoryAdapter):
    """A watch goes on waiting after its adapter was closed."""

    async def close(self) -> None:
        bells = [(state, set(state.bells)) for state in self.store.streams.values()]
        for state, _ in bells:
            state.bells.clear()
        await super().close()
        for state, kept in bells:
            state.bells |= kept


def _lose(adapter: MemoryAdapter, stream: StreamSpec, position: str) -> None:
    """Make a logged change one of no group that anybody watches."""
    state = adapter.store.stream(adapter.settings.namespace, stream.name)
    for back, change in enumerate(reversed(state.log), 1):  # it was written just now
        if change.position == position:
            state.log[-back] = replace(change, type="event", group_id="\x00", id=None, json=None, version=None)
            return


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _whole(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_whole(member) for member in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


# At the end: they register their own with what stands above.
from motia_core.testing import faults_foreign, faults_races, faults_triggers  # noqa: E402, F401
