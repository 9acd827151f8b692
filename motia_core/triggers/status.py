"""What ``motia-core triggers`` shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from motia_core.triggers.definition import PartitionStatus, TriggerStatus
from motia_core.triggers.entries import State
from motia_core.triggers.leases import view
from motia_core.triggers.partition import Partition
from motia_core.triggers.records import WORKERS, NameRecord, PartitionRecord, part_group

if TYPE_CHECKING:
    from motia_core.triggers.runner import Runner


async def describe(runner: Runner) -> Sequence[TriggerStatus]:
    """Each trigger that the store knows."""
    await runner.registry.refresh()
    workers = view(await runner.control.list(WORKERS)).workers
    found = []
    for _, record in runner.registry.known.values():
        crew = runner.crews.get(record.uid)
        head = await runner.adapter.head(crew.trigger.stream) if crew and crew.trigger.stream.log else None
        found.append(
            TriggerStatus(
                name="/".join(part for part in record.key if part not in ("", "0")),
                key=record.key,
                uid=record.uid,
                declared=crew is not None,
                head=head,
                partitions=await _partitions(runner, record, dict(crew.parts) if crew else {}),
                workers=tuple(sorted(id for id, uids in workers.items() if record.uid in uids)),
                last_error=crew.last_error if crew else None,
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
