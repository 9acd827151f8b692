"""The names under which the store knows triggers: registered, renamed, reported, dropped (rules 9, 23)."""

from __future__ import annotations

from collections.abc import Iterable

from motia_core.errors import Conflict, MotiaError, OutcomeUnknown, UnsupportedCapability
from motia_core.model import ABSENT, Item
from motia_core.triggers.clock import Clock
from motia_core.triggers.control import Control, put, remove
from motia_core.triggers.definition import Trigger
from motia_core.triggers.records import (
    NAMES,
    NameRecord,
    PartitionRecord,
    dead_group,
    lost_group,
    parked_group,
    part_group,
    part_id,
    retry_group,
    trigger_id,
)


class Registry:
    """Reads and writes the group ``names``."""

    def __init__(self, control: Control, clock: Clock) -> None:
        self._control = control
        self._clock = clock
        self.known: dict[str, tuple[str, NameRecord]] = {}
        """All stored triggers by id, with the version of their record."""

    async def refresh(self) -> None:
        """Read all names."""
        items = await self._control.list(NAMES)
        self.known = {item.id: (item.version, NameRecord.decode(item)) for item in items}

    def record(self, trigger: Trigger) -> NameRecord | None:
        """What the store knows of a trigger."""
        found = self.known.get(trigger_id(trigger.key))
        return found[1] if found else None

    def strangers(self, triggers: Iterable[Trigger]) -> list[NameRecord]:
        """Stored triggers that are none of these."""
        ours = {trigger_id(trigger.key) for trigger in triggers}
        return [record for id, (_, record) in self.known.items() if id not in ours]

    def listeners(self, topic: str) -> list[NameRecord]:
        """The stored triggers of a queue."""
        return [record for _, record in self.known.values() if record.topic == topic]

    async def ensure(self, triggers: Iterable[Trigger], *, after_loss: bool = False) -> None:
        """Make the store know each trigger, and fix where a new one begins, before this returns.

        ``after_loss``: the store knew them and forgot: they begin at the oldest that it has.
        """
        await self.refresh()
        for trigger in triggers:
            while self.record(trigger) is None:
                try:
                    if not await self._rename(trigger):
                        await self._create(trigger, from_floor=after_loss or trigger.start == "beginning")
                except (Conflict, OutcomeUnknown):
                    pass  # somebody else did it, or it did happen, or it did not: look
                await self.refresh()

    async def _create(self, trigger: Trigger, *, from_floor: bool) -> None:
        control = self._control
        if trigger.partitions + 1 > control.capabilities.max_batch_writes:
            raise UnsupportedCapability(
                f"trigger {trigger.name}: {trigger.partitions} partitions are more than one batch of storage"
                f" {control.adapter.settings.name!r} takes ({control.capabilities.max_batch_writes - 1})"
            )
        from_items = from_floor and trigger.topic is not None
        begin = control.adapter.floor if from_floor and not from_items else control.adapter.head
        if trigger.schedule is not None:
            start = trigger.schedule.tick_at(self._clock.time())
        else:
            start = await begin(trigger.stream)
        uid = control.token()
        name = NameRecord(uid, trigger.partitions, start, trigger.key, trigger.stream.name, trigger.topic)
        partition = PartitionRecord(None, 0, control.token(), start, fresh=from_items).encode()
        writes = [put(NAMES, trigger_id(trigger.key), name.encode(), ABSENT)]
        writes += [put(part_group(uid), part_id(p), partition, ABSENT) for p in range(trigger.partitions)]
        await control.write(writes)
        await control.write([control.notice()])  # who shares a queue with it has to know

    async def _rename(self, trigger: Trigger) -> bool:
        """Move a record from its former name, in one batch."""
        if trigger.previous is None:
            return False
        old = trigger_id(trigger.previous)
        found = self.known.get(old)
        if found is None:
            return False
        version, record = found
        record.key, record.stream, record.topic = trigger.key, trigger.stream.name, trigger.topic
        writes = [remove(NAMES, old, version), put(NAMES, trigger_id(trigger.key), record.encode(), ABSENT)]
        await self._control.write(writes)
        return True

    async def drop(self, key: tuple[str, ...]) -> None:
        """Remove a trigger and all that is stored for it. Raises `MotiaError` if there is none."""
        await self.refresh()
        found = self.known.get(trigger_id(key))
        if found is None:
            raise MotiaError(f"the store holds no trigger {'/'.join(key)!r}")
        version, record = found
        await self._control.write([remove(NAMES, trigger_id(key), version), self._control.notice()])
        for group in (part_group, parked_group, dead_group, retry_group, lost_group):
            await self._clear(group(record.uid))

    async def _clear(self, group: str) -> None:
        items: list[Item] = await self._control.list(group)
        size = self._control.capabilities.max_batch_writes
        for at in range(0, len(items), size):
            await self._control.write([remove(group, item.id) for item in items[at : at + size]])
