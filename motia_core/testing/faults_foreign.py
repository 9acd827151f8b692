"""Faults of storage that other programs write to, or that tells states: on the coalesced reference."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace

from motia_core.model import Batch, Change, StreamSpec, Write, WriteResult
from motia_core.testing.coalesced import CoalescedAdapter
from motia_core.testing.faults import fault


@fault("B5")
class MissesForeignWrites(CoalescedAdapter):
    """What another program writes is stored, and nobody is told."""

    def write_as_another_program(self, stream: StreamSpec, writes: Sequence[Write]) -> None:
        super().write_as_another_program(stream, writes)
        log = self.store.stream(self.settings.namespace, stream.name).log
        for at in range(1, len(writes) + 1):
            log[-at] = replace(log[-at], type="event", group_id="\x00", id=None, json=None, version=None)


@fault("B5")
class MovesWithoutADelete(CoalescedAdapter):
    """An item that another program moves to another group is a create there, and stays in the old one."""

    def write_as_another_program(self, stream: StreamSpec, writes: Sequence[Write]) -> None:
        super().write_as_another_program(stream, writes)
        if len(writes) == 2:
            log = self.store.stream(self.settings.namespace, stream.name).log
            log[-2] = replace(log[-2], type="event", group_id="\x00", id=None, json=None, version=None)


@fault("B5")
class ForeignWritesKeepTheVersion(CoalescedAdapter):
    """A version of its own bookkeeping, which another program's write does not touch."""

    def write_as_another_program(self, stream: StreamSpec, writes: Sequence[Write]) -> None:
        state = self.store.stream(self.settings.namespace, stream.name)
        old = {write.id: state.groups.get(write.group, {}).get(write.id or "") for write in writes}
        super().write_as_another_program(stream, writes)
        for write in writes:
            row, before = state.groups.get(write.group, {}).get(write.id or ""), old[write.id]
            if row is not None and before is not None:
                row.version = before.version


@fault("B9", "B1", "B2", "B3", "B5", "B6", "C1", "C2", "C6", "F3")
class TellsTheFirstState(CoalescedAdapter):
    """Of several changes of an item it tells the first and forgets the last."""

    def coalesce(self, changes: Iterable[Change]) -> Iterable[Change]:
        first: dict[object, Change] = {}
        for change in changes:
            first.setdefault(change.position if change.type == "event" else (change.group_id, change.id), change)
        return first.values()


@fault("B9", "B1", "B5", "B6")
class ForgetsWhatCameAndWent(CoalescedAdapter):
    """An item that was made and removed between two looks is not told: who has it in a snapshot keeps it."""

    def coalesce(self, changes: Iterable[Change]) -> Iterable[Change]:
        changes = list(changes)
        kept = list(super().coalesce(changes))
        first: dict[object, Change] = {}
        for change in changes:
            first.setdefault((change.group_id, change.id), change)
        return [c for c in kept if c.type != "delete" or first[c.group_id, c.id].type != "create"]


@fault("B9", "C2")
class ForgetsWhatOthersTold(CoalescedAdapter):
    """Whoever comes from another process hears what is there, and of nothing that is gone."""

    async def resume(self, stream: StreamSpec, after: str) -> AsyncGenerator[Batch, None]:
        async with aclosing(super().resume(stream, after)) as batches:
            async for batch in batches:
                yield replace(batch, changes=tuple(change for change in batch.changes if change.type != "delete"))


@fault("B9", "B2", "B1", "B5")
class CreatesWhatIsThere(CoalescedAdapter):
    """What was removed and made again between two looks is told as a create of what its readers have."""

    def coalesce(self, changes: Iterable[Change]) -> Iterable[Change]:
        changes = list(changes)
        created = {(change.group_id, change.id) for change in changes if change.type == "create"}
        for change in super().coalesce(changes):
            again = change.type == "update" and (change.group_id, change.id) in created
            yield replace(change, type="create") if again else change


@fault("A2")
class EqualWritesBreakConditions(CoalescedAdapter):
    """An equal write is told to nobody, and makes the version that everybody has a wrong one."""

    async def write(self, stream: StreamSpec, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        results = await super().write(stream, writes)
        state = self.store.stream(self.settings.namespace, stream.name)
        changed = list(results)
        for at, result in enumerate(results):
            if result is not None and result.type == "update" and result.old_json == result.new_json:
                version = result.version + "+"
                state.groups[result.group][result.id or ""].version = version
                changed[at] = replace(result, version=version)
        return changed


@fault("B9", "B1", "B5")
class DeletesWithTheFirstValue(CoalescedAdapter):
    """A delete carries the value that the first of the changes told as one had."""

    def coalesce(self, changes: Iterable[Change]) -> Iterable[Change]:
        changes = list(changes)
        first: dict[object, Change] = {}
        for change in changes:
            first.setdefault((change.group_id, change.id), change)
        for change in super().coalesce(changes):
            yield replace(change, json=first[change.group_id, change.id].json) if change.type == "delete" else change
