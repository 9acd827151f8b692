"""When documents went: Firestore tells that they are gone, not since when.

A delete must have a place at which it had happened already, or a snapshot that is older
would hide it for ever; and it must not come behind a change that was made after it, or a
subscriber who goes on in another process, right behind that change, would miss it. So
where anything else is told, Firestore is asked for the document at times in the past, until
it is known between which changes it went. Those that went between the same two are told
together, and their places say since when they may have been gone (`MappedLayout.place`):
whoever leaves amid them goes on from there. (One that came again in the meantime is another
document: Firestore tells when each was created.)
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from motia_adapters.firestore.connection import Connection
from motia_adapters.firestore.mapped.changes import Told, delete_of
from motia_adapters.firestore.mapped.layout import MappedLayout
from motia_adapters.firestore.mapped.notes import Known, Life, Note, Notes
from motia_adapters.firestore.wire import micros, timestamp

REACH = 3_540
"""Seconds that Firestore remembers, with a minute to spare."""
PORTION = 300
"""Documents that are read by name at once, at most."""
AT_ONCE = 16
"""Times for which that is done at once, at most."""


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
    for ended in notes.ended(time):
        is_there = news[ended.name] is not None if ended.name in news else ended.name in known
        if ended.gone <= time or not is_there:  # else its end is one of what is known by then
            theirs.append(ended._replace(gone=min(ended.gone, time)))
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


@dataclass(eq=False, slots=True)
class _Span:
    """What is known of a life's end: the document was there at a time, and not there at another."""

    life: Life
    there: int
    gone: int
    document: Any = None
    """As it was at first."""

    def end(self, layout: MappedLayout, time: int) -> Told:
        """As it is told, at a time at which it was gone."""
        name, _, _, json, created = self.life
        if self.document is not None:
            json, created = json or layout.json(self.document), created or micros(self.document.create_time)
        return delete_of(name, layout, time, json or b"{}", created or self.there, self.there)


def _span(life: Life, reach: int) -> _Span:
    """Behind all that is told already, however late that it came again may be heard."""
    there = max(life.seen, min(reach, life.gone - 1))
    return _Span(life, there, max(life.gone, there + 1))


async def ends_of(
    connection: Connection, layout: MappedLayout, lives: Sequence[Life], others: Iterable[int], place: int = 0
) -> list[Told]:
    """The deletes of documents. ``others``: the times (µs) of the other changes that are told beside them.

    ``place``: when the reader had what was there.

    One read is billed for a last value that is not known, and a few more for each document that went while others
    changed: the logarithm of how many changes there were.
    """
    reach = connection.now() - REACH * 1_000_000
    spans = [_span(life, reach) for life in lives]

    async def read(at: int, asked: Sequence[_Span]) -> None:
        documents = await values_at(connection, [span.life.name for span in asked], at)
        for span in asked:
            span.document = documents.get(span.life.name)

    async def probe(at: int, asked: Sequence[_Span]) -> None:
        documents = await values_at(connection, [span.life.name for span in asked], at)
        for span in asked:
            document = documents.get(span.life.name)
            if document is not None and micros(document.create_time) <= span.there:
                span.there = at
                continue
            if document is not None:  # it came again, and that one has gone too
                spans.append(_Span(Life(span.life.name, at, span.gone), at, span.gone, document))
            span.gone = at

    await _all_at_once(read, _by_time((max(span.there, reach), span) for span in spans if not span.life.json))
    exact = [span.gone for span in spans if span.gone - span.there == 1]
    # All that are told together must have been there when the first of them may have gone: a position says no more.
    times = sorted({place, *(span.there for span in spans), *_cuts([*others, *exact])})
    share = 1.0  # most went last of all
    while probes := _by_time(_between(times, spans, share)):
        await _all_at_once(probe, probes)
        share = 0.5
    # Two spans that overlap begin alike by now: nobody knows which of the two went first, and nothing is told between.
    last: dict[int, int] = {}
    for span in spans:
        last[span.there] = max(span.gone, last.get(span.there, 0))
    ends = [span.end(layout, last[span.there]) for span in reversed(spans)]
    return list({(end.name, end.time): end for end in ends}.values())


def _cuts(others: Iterable[int]) -> Iterator[int]:
    """When a document is to be known there or not: before each time, right then, and before what its timestamps span.

    The changes of one time reach back by a quarter of a microsecond each (see `rounds.STEPS`).
    """
    for time, count in Counter(others).items():
        yield from (time - 1 - count // 4, time - 1, time)


def _between(times: Sequence[int], spans: Iterable[_Span], share: float) -> Iterator[tuple[int, _Span]]:
    """Those who may have gone before or after one of the times, each with the time to ask for."""
    for span in spans:
        first, end = bisect_right(times, span.there), bisect_left(times, span.gone)
        if first < end:
            yield times[min(first + int((end - first) * share), end - 1)], span


def _by_time(found: Iterable[tuple[int, _Span]]) -> dict[int, list[_Span]]:
    asked: dict[int, list[_Span]] = {}
    for time, span in found:
        asked.setdefault(time, []).append(span)
    return asked


async def _all_at_once(
    ask: Callable[[int, Sequence[_Span]], Awaitable[None]], asked: Mapping[int, Sequence[_Span]]
) -> None:
    calls = list(asked.items())
    for start in range(0, len(calls), AT_ONCE):
        await asyncio.gather(*(ask(at, spans) for at, spans in calls[start : start + AT_ONCE]))


async def values_at(connection: Connection, names: Sequence[str], time: int) -> dict[str, Any]:
    """Documents as they were at a time, by name; those that were not there are left out. A billed read for each."""
    found: dict[str, Any] = {}
    for start in range(0, len(names), PORTION):
        part = names[start : start + PORTION]
        documents, _ = await connection.get(part, timestamp(time))
        found |= {name: document for name, document in zip(part, documents, strict=True) if document is not None}
    return found
