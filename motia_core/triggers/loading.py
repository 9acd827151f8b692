"""Reads what a partition left in the store: parked changes, and dead letters that are to be tried again."""

from __future__ import annotations

from collections.abc import Callable

from motia_core.model import Change, Item
from motia_core.triggers.control import Control
from motia_core.triggers.definition import OrderKey
from motia_core.triggers.entries import Entry
from motia_core.triggers.partition import Partition
from motia_core.triggers.records import (
    HASHES,
    dead_group,
    decode_change,
    hash_key,
    parked_group,
    retry_group,
)


async def load_parked(control: Control, partition: Partition, order_key: Callable[[Change], OrderKey]) -> list[Entry]:
    """Its parked changes: one range of ids, whatever P is."""
    entries = []
    for item in await _in_range(control, parked_group(partition.uid), partition):
        entry = _entry(partition, item, order_key)
        if entry.attempts and entry.error is None:
            entry.error = "the process died while the handler ran"
        entries.append(entry)
    return entries


async def load_requested(control: Control, partition: Partition) -> list[Entry]:
    """Its dead letters that somebody asked to be tried again, from the first attempt on."""
    entries = []
    known = {entry.position for entry in partition.revivals}
    for request in await _in_range(control, retry_group(partition.uid), partition):
        item = await control.get(dead_group(partition.uid), request.id)
        if item is None or request.id[4:] in known:
            continue
        entry = _entry(partition, item, partition.room.order_key)
        entry.attempts = 0
        entries.append(entry)
    return entries


async def _in_range(control: Control, group: str, partition: Partition) -> list[Item]:
    low, high = partition.hashes
    before = f"{high:04x}" if high < HASHES else None
    return await control.list(group, after=f"{low:04x}", before=before)


def _entry(partition: Partition, item: Item, order_key: Callable[[Change], OrderKey]) -> Entry:
    value = item.value
    change = decode_change(value["change"])
    key = order_key(change)
    entry = Entry(partition, change, key, hash_key(key), change.position, value["era"])
    entry.attempts, entry.error, entry.matched = value["attempts"], value["error"], value["matched"]
    return entry
