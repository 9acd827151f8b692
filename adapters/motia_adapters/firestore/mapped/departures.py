"""When documents went: Firestore tells that they are gone, not since when.

A delete must have a place at which it had happened already, or a snapshot that is older
would hide it for ever; and it must not come behind a change that was made after it, or a
subscriber who goes on in another process, right behind that change, would miss it. So it
comes with or right before the first of the other changes at whose time the document is
found to be gone, and at the end if there is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from motia_adapters.firestore.connection import Connection
from motia_adapters.firestore.mapped.changes import Told, delete_of
from motia_adapters.firestore.mapped.layout import MappedLayout
from motia_adapters.firestore.wire import timestamp

REACH = 3_540
"""Seconds that Firestore remembers, with a minute to spare."""
PORTION = 300
"""Documents that are read by name at once, at most."""


async def ends_of(
    connection: Connection,
    layout: MappedLayout,
    gone: Mapping[str, bytes],
    others: Iterable[int],
    until: int,
    before: int,
) -> list[Told]:
    """Other programs' deletes between ``before`` and ``until`` (µs), of documents with their last values, if known.

    ``others`` are the times of the changes that are told beside them. Values that are not known are those of
    ``before``: a billed read for each.
    """
    reach = connection.now() - REACH * 1_000_000
    when = await times_of(connection, gone, {other for other in others if other > reach}, until)
    last = await values_at(connection, [name for name, json in gone.items() if not json], max(before, reach))
    return [
        delete_of(name, layout, when[name], json or (layout.json(last[name]) if name in last else b"{}"))
        for name, json in gone.items()
    ]


async def times_of(connection: Connection, gone: Iterable[str], others: Iterable[int], until: int) -> dict[str, int]:
    """For each document that is gone at ``until`` (µs): when it went, as far as the times of other changes ask for it.

    A billed read for each document, if there are other changes, and about as many more as there are digits in
    their number for those that went before one of them.
    """
    times = sorted({time for other in others for time in (other - 1, other)})
    found: dict[str, int] = {}
    ranges = {name: (0, len(times)) for name in gone}
    probe: int | None = len(times) - 1  # most went last of all
    while ranges:
        probes: dict[int, list[str]] = {}
        for name, (low, high) in list(ranges.items()):
            if low == high:
                found[name] = times[low] if low < len(times) else until
                del ranges[name]
            else:
                probes.setdefault((low + high) // 2 if probe is None else probe, []).append(name)
        probe = None
        for at, names in probes.items():
            there = await values_at(connection, names, times[at])
            for name in names:
                low, high = ranges[name]
                ranges[name] = (at + 1, high) if name in there else (low, at)
    return found


async def values_at(connection: Connection, names: Sequence[str], time: int) -> dict[str, Any]:
    """Documents as they were at a time, by name; those that were not there are left out. A billed read for each."""
    found: dict[str, Any] = {}
    for start in range(0, len(names), PORTION):
        part = names[start : start + PORTION]
        documents, _ = await connection.get(part, timestamp(time))
        found |= {name: document for name, document in zip(part, documents, strict=True) if document is not None}
    return found
