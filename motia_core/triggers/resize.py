"""Changing the number of partitions of a trigger that has history (rule 24)."""

from __future__ import annotations

import orjson

from motia_core.errors import Conflict, MotiaError
from motia_core.model import Write
from motia_core.triggers.control import Control, put, remove
from motia_core.triggers.ownership import Found
from motia_core.triggers.records import (
    NAMES,
    NameRecord,
    PartitionRecord,
    hash_range,
    lost_group,
    part_group,
    part_id,
)
from motia_core.triggers.registry import Registry


async def request(control: Control, registry: Registry, id: str, partitions: int) -> None:
    """Ask for it: the owners drain and release; whoever then sees all free does it.

    Raises `MotiaError` if there is no such trigger, or if one batch cannot hold the records.
    """
    most = min(65_536, control.capabilities.max_batch_writes - 1)
    if not 1 <= partitions <= most:
        raise MotiaError(f"the number of partitions must be from 1 to {most} on this storage")
    while True:
        await registry.refresh()
        if id not in registry.known:
            raise MotiaError(f"the store holds no trigger {id}")
        version, record = registry.known[id]
        record.target = partitions
        try:
            await control.write([put(NAMES, id, record.encode(), version), control.notice()])
        except Conflict:
            continue
        return


async def perform(control: Control, id: str, version: str, name: NameRecord, parts: list[Found]) -> bool:
    """Replace the partitions, if all are free, in one batch. ``False``: not yet, or somebody else did."""
    target = name.target
    assert target is not None
    if len(parts) != name.partitions or any(part.record.owner is not None for part in parts):
        return False
    era = max(part.record.era for part in parts)
    current = [part for part in parts if part.record.era == era]
    cursor = min(part.record.cursor for part in current)
    base = PartitionRecord(
        owner=None,
        epoch=max(part.record.epoch for part in parts) + 1,
        nonce=control.token(),
        cursor=cursor,
        done=sorted({position for part in current for position in part.record.done if position > cursor}),
        crashes=max(part.record.crashes for part in current),
        era=era,
        parked=-1,
        skip=_skip_list(name.partitions, current, cursor),
    )
    group = part_group(name.uid)
    writes: list[Write] = [
        *_gaps(name.uid, [part for part in parts if part.record.era != era], cursor),
    ]
    old = {part.number: part for part in parts}
    for number in range(max(target, name.partitions)):
        expect = old[number].version if number in old else None
        if number < target:
            writes.append(put(group, part_id(number), base.encode(), expect))
        else:
            writes.append(remove(group, part_id(number), expect))
    name.partitions, name.target = target, None
    writes.append(put(NAMES, id, name.encode(), version))
    try:
        await control.write(writes)
        await control.write([control.notice()])
    except Conflict:
        return False
    return True


def _skip_list(partitions: int, parts: list[Found], cursor: str) -> list[tuple[int, int, str]]:
    """What each old partition had settled beyond the least of them, by hashes."""
    skip = []
    for part in parts:
        low, high = hash_range(part.number, partitions)
        if part.record.cursor > cursor:
            skip.append((low, high, part.record.cursor))
        skip += [
            (max(low, a), min(high, b), to)
            for a, b, to in part.record.skip
            if to > part.record.cursor and a < high > low < b
        ]
    return skip


def _gaps(uid: str, parts: list[Found], cursor: str) -> list[Write]:
    """Partitions that still stood in a history that is gone: what they had not read is lost."""
    return [
        put(
            lost_group(uid),
            f"{part_id(part.number)}{part.record.cursor}",
            orjson.dumps(
                {
                    "from": part.record.cursor,
                    "to": cursor,
                    "reason": "the history was replaced, and partitions were changed",
                    "partition": part.number,
                }
            ),
        )
        for part in parts
    ]
