"""What ``motia-core triggers`` shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from motia_core.errors import PositionExpired
from motia_core.model import StreamSpec
from motia_core.triggers.cron import CRON
from motia_core.triggers.definition import PartitionStatus, TriggerStatus, item_key, shown
from motia_core.triggers.entries import State
from motia_core.triggers.leases import view
from motia_core.triggers.partition import Partition
from motia_core.triggers.records import (
    CONTROL,
    WORKERS,
    NameRecord,
    PartitionRecord,
    dead_group,
    decode_change,
    hash_key,
    parked_group,
    part_group,
    partition_of,
)

if TYPE_CHECKING:
    from motia_core.triggers.runner import Runner

_PAGE = 100


async def describe(runner: Runner, counted: int) -> Sequence[TriggerStatus]:
    """Each trigger that the store knows; of what waits for it up to ``counted`` changes are counted."""
    await runner.registry.refresh()
    workers = view(await runner.control.list(WORKERS)).workers
    found = []
    for _, record in runner.registry.known.values():
        crew = runner.crews.get(record.uid)
        stored = [(int(i.id), PartitionRecord.decode(i)) for i in await runner.control.list(part_group(record.uid))]
        waiting = await _behind(runner, record, dict(stored), counted)
        found.append(
            TriggerStatus(
                name=shown(record.key),
                key=record.key,
                uid=record.uid,
                declared=any(trigger.key == record.key for trigger in runner.triggers),
                behind=waiting and waiting[0],
                since=waiting[1] if waiting else None,
                partitions=_partitions(stored, dict(crew.parts) if crew else {}),
                workers=tuple(sorted(id for id, uids in workers.items() if record.uid in uids)),
                last_error=(crew and crew.last_error) or await _stored_error(runner, record.uid),
            )
        )
    return found


async def _behind(
    runner: Runner, name: NameRecord, stored: dict[int, PartitionRecord], counted: int
) -> tuple[int, float | None] | None:
    """How many changes after the cursors are not settled, and the oldest's timestamp; ``None``: they are gone.

    Only those count that the trigger accepts, if it is declared here.
    """
    if name.stream == CRON.name or not stored:
        return 0, None
    stream = StreamSpec(name.stream, hidden=name.stream.startswith("$"))
    declared = next((trigger for trigger in runner.triggers if trigger.key == name.key), None)
    accepts = declared.accepts if declared else None
    order_key = declared.order_key if declared else item_key
    start, head = min(record.cursor for record in stored.values()), await runner.adapter.head(stream)
    if start >= head:
        return 0, None
    behind, since = 0, None
    try:
        async with aclosing(runner.adapter.watch(stream, start)) as batches:
            async for batch in batches:
                for change in batch.changes:
                    record = stored.get(partition_of(hash_key(order_key(change)), len(stored)))
                    waits = record is None or (change.position > record.cursor and change.position not in record.done)
                    if waits and (accepts is None or accepts(change)):
                        behind += 1
                        since = since or change.timestamp
                if batch.position >= head or behind >= counted:
                    break
    except PositionExpired:
        return None
    return min(behind, counted), since


def _partitions(
    stored: Iterable[tuple[int, PartitionRecord]], mine: dict[int, Partition]
) -> tuple[PartitionStatus, ...]:
    found = []
    for number, record in stored:
        here = mine.get(number)
        open_ = [e for e in (*here.order, *here.stored.values()) if e.state != State.DONE] if here else []
        found.append(
            PartitionStatus(
                partition=number,
                owner=record.owner,
                epoch=record.epoch,
                cursor=record.cursor,
                parked=record.parked,
                crashes=record.crashes,
                mine=here is not None,
                waiting=len(set(open_)),
                oldest=min((entry.change.timestamp for entry in open_), default=None),
            )
        )
    return tuple(found)


async def _stored_error(runner: Runner, uid: str) -> str | None:
    """The latest error of a parked change or a dead letter, as far as a page of each shows it."""
    found = []
    for group in (parked_group(uid), dead_group(uid)):
        for item in await runner.adapter.list(CONTROL, group, after=None, limit=_PAGE):
            value = item.value
            if value["error"]:
                found.append((decode_change(value["change"]).timestamp, value["error"]))
    return max(found)[1] if found else None
