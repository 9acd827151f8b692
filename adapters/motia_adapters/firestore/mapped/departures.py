"""When documents went: Firestore tells that they are gone, not since when.

A delete must have a place at which it had happened already, or a snapshot that is older
would hide it for ever; and it must not come behind a change that was made after it, or a
subscriber who goes on in another process, right behind that change, would miss it. So
where anything else is told, Firestore is asked for the document at times in the past, until
it is known between which changes it went; of several the commits' times are found, to the
microsecond. (One that came again in the meantime is another
document: Firestore tells when each was created.)
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from motia_adapters.firestore.connection import Connection
from motia_adapters.firestore.mapped.changes import Told, delete_of
from motia_adapters.firestore.mapped.layout import MappedLayout
from motia_adapters.firestore.mapped.notes import Known, Note, Notes
from motia_adapters.firestore.wire import micros, timestamp

REACH = 3_540
"""Seconds that Firestore remembers, with a minute to spare."""
SPREAD = 125
"""Microseconds by which the timestamps of the largest commit reach back (see `rounds.STEPS`): what went before that is
not to be placed among them."""
PORTION = 300
"""Documents that are read by name at once, at most."""


class Life(NamedTuple):
    """A document that was there at a time (µs), and is gone at another."""

    name: str
    seen: int
    gone: int
    json: bytes = b""
    """Its last value, if that is known: else it is read as of ``seen``."""
    created: int = 0


def lives_of(
    news: Mapping[str, Any], known: Mapping[str, Known], notes: Notes, before: int, time: int
) -> tuple[list[tuple[str, Note]], list[Life]]:
    """What ended between two moments: deletes of this process's own, and documents that others may have deleted."""
    went = [name for name, document in news.items() if document is None and name in known]
    noted = {name: note for name, note in notes.until(time) if news.get(name) is None}
    ours: list[tuple[str, Note]] = []
    theirs: list[Life] = []
    for name in went:
        note = noted.get(name)
        if note is None or note.was != known[name].updated:  # else nothing was between them
            theirs.append(Life(name, before, note.time if note is not None and note.deleted else time))
    for name, note in noted.items():
        if not note.deleted:
            theirs.append(Life(name, note.time, time, note.json))
        elif note.json:
            ours.append((name, note))
        else:
            theirs.append(Life(name, note.time - 1, note.time))
    for name, document in news.items():
        if document is None or not _came_again(known, name, document):
            continue
        gone = micros(document.create_time) - 1
        note = notes.get(name, gone)
        if name in known:
            theirs.append(Life(name, before, gone))
        if note is not None and not note.deleted:
            theirs.append(Life(name, note.time, gone, note.json))
    return ours, theirs


def _came_again(known: Mapping[str, Known], name: str, document: Any) -> bool:
    """Whether it is not the document that was there at the moment before."""
    return name not in known or known[name].created != micros(document.create_time)


async def ends_of(
    connection: Connection, layout: MappedLayout, lives: Sequence[Life], others: Iterable[int]
) -> list[Told]:
    """The deletes of documents. ``others``: the times (µs) of the other changes that are told beside them.

    One read is billed for a document that went alone; two or three more for each that went with other changes, and
    about twenty for each commit that had nothing but deletes.
    """
    reach = connection.now() - REACH * 1_000_000
    hints = {time for other in others for time in (other - SPREAD, other - 1, other)}
    before: dict[Life, Any] = {}
    for seen in {life.seen for life in lives}:
        there = [life for life in lives if life.seen == seen]
        documents = await values_at(connection, [life.name for life in there], max(seen, reach))
        before |= {life: documents[life.name] for life in there if life.name in documents}
    told: dict[tuple[str, int], Told] = {}
    for life, end in await _search(connection, layout, lives, before, hints, reach):
        document = before.get(life)
        json = life.json or (b"{}" if document is None else layout.json(document))
        created = life.created or (0 if document is None else micros(document.create_time))
        told.setdefault((life.name, end), delete_of(life.name, layout, end, json, created))
    return list(told.values())


async def _search(
    connection: Connection,
    layout: MappedLayout,
    lives: Sequence[Life],
    before: Mapping[Life, Any],
    hints: set[int],
    reach: int,
) -> list[tuple[Life, int]]:
    """When each life ended, as exactly as is needed to tell it from all else that is told."""
    ranges = {life: (max(life.seen, reach), life.gone) for life in lives}  # there, and not there
    found: list[tuple[Life, int]] = []

    async def probe(at: int, asked: Sequence[Life]) -> None:
        documents = await values_at(connection, [life.name for life in asked], at)
        for life in asked:
            there, gone = ranges[life]
            document = documents.get(life.name)
            goes_on = document is not None and _is_same(document, before.get(life))
            if document is not None and not goes_on:  # it came again, and that one has gone too
                other = Life(life.name, at, life.gone, layout.json(document), micros(document.create_time))
                found.append((other, life.gone))
            ranges[life] = (at, gone) if goes_on else (there, at)

    fresh, alone = True, True
    while ranges:
        for life, (there, gone) in list(ranges.items()):
            if gone - there <= 1:
                found.append((life, gone))
                hints |= {gone - SPREAD, gone - 1, gone}
                del ranges[life]
        probes: dict[int, list[Life]] = {}
        times = sorted(hints)
        for life, (there, gone) in ranges.items():
            between = times[bisect_right(times, there) : bisect_left(times, gone)]
            if between:  # most went last of all
                probes.setdefault(between[-1 if fresh else len(between) // 2], []).append(life)
        fresh = False
        if not probes and len(ranges) == 1:
            found += [(life, gone) for life, (_, gone) in ranges.items()]
            break
        if (
            not probes
        ):  # a subscriber may stand between two of them: when was it? One first, whose commit many may share
            for life, (there, gone) in list(ranges.items())[: 1 if alone else None]:
                probes.setdefault((there + gone) // 2, []).append(life)
            alone = alone and all(gone - there > 2 for there, gone in list(ranges.values())[:1])
        for at, asked in probes.items():
            await probe(at, asked)
    return found


def _is_same(document: Any, before: Any) -> bool:
    """Whether it is the document that was there before, and not one that came in its place."""
    return before is None or document.create_time == before.create_time


async def values_at(connection: Connection, names: Sequence[str], time: int) -> dict[str, Any]:
    """Documents as they were at a time, by name; those that were not there are left out. A billed read for each."""
    found: dict[str, Any] = {}
    for start in range(0, len(names), PORTION):
        part = names[start : start + PORTION]
        documents, _ = await connection.get(part, timestamp(time))
        found |= {name: document for name, document in zip(part, documents, strict=True) if document is not None}
    return found
