"""What ``motia-core triggers`` shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from motia_core.model import StreamSpec
from motia_core.triggers.cron import CRON
from motia_core.triggers.definition import PartitionStatus, TriggerStatus
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
    parked_group,
    part_group,
)

if TYPE_CHECKING:
    from motia_core.triggers.runner import Runner

_PAGE = 100


async def describe(runner: Runner) -> Sequence[TriggerStatus]:
    """Each trigger that the store knows."""
    await runner.registry.refresh()
    workers = view(await runner.control.list(WORKERS)).workers
    found = []
    for _, record in runner.registry.known.values():
        crew = runner.crews.get(record.uid)
        stream = StreamSpec(record.stream, hidden=record.stream.startswith("$"))
        found.append(
            TriggerStatus(
                name="/".join(part for part in record.key if part not in ("", "0")),
                key=record.key,
                uid=record.uid,
                declared=any(trigger.key == record.key for trigger in runner.triggers),
                head=None if record.stream == CRON.name else await runner.adapter.head(stream),
                partitions=await _partitions(runner, record, dict(crew.parts) if crew else {}),
                workers=tuple(sorted(id for id, uids in workers.items() if record.uid in uids)),
                last_error=(crew and crew.last_error) or await _stored_error(runner, record.uid),
            )
        )
    return found


async def _partitions(runner: Runner, name: NameRecord, mine: dict[int, Partition]) -> tuple[PartitionStatus, ...]:
    found = []
    for item in await runner.control.list(part_group(name.uid)):
        record, number = PartitionRecord.decode(item), int(item.id)
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
