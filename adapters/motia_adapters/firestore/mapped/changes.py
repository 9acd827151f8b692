"""The order of changes that documents themselves do not number: the times of their commits.

Of changes of one time documents come by their groups and ids, which is what a position says,
then custom events, of which it says how many *follow*. States may be left out of a history
(B9): a document that was changed again has no place at the earlier time any more, and another
process may leave out others. Whoever stands in the middle of a time is told what stands behind
that place, whichever process did the telling. Of some deletes nobody knows when they were done,
only since when the documents may be gone: a position amid them says that too.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, NamedTuple

from motia_adapters.firestore.history import Entry
from motia_adapters.firestore.mapped.layout import MappedLayout
from motia_adapters.firestore.rounds import STEPS
from motia_adapters.firestore.wire import micros
from motia_core.model import Change, ChangeType


@dataclass(frozen=True, slots=True)
class Told:
    """A change without a place: ``name`` is empty for a custom event."""

    time: int
    """µs since the epoch."""
    name: str
    type: ChangeType
    group: str
    id: str | None
    json: bytes | None
    event: str | None = None
    created: int = 0
    """When the document was created, µs; of a delete a time at which it was there will do, and 0 says: not known."""
    there: int | None = None
    """The last time (µs) at which a deleted document is known to have been there; ``None``: right before ``time``."""

    def order(self, layout: MappedLayout) -> tuple[int, bool, str, bool]:
        """What it is sorted by; events of one time keep their order."""
        return (self.time, not self.name, self.name and layout.rank(self.name), self.type != "delete")


class Placed(NamedTuple):
    """A change, and what is told of its document beside (see `Told`)."""

    change: Change
    created: int
    there: int | None


def typed(told: Iterable[Told], known: Container[str], layout: MappedLayout) -> list[Told]:
    """Changes in their order; a state of a document that was there is an update, of another one a create."""
    there: dict[str, bool] = {}
    found = []
    for change in sorted(told, key=lambda change: change.order(layout)):
        if change.type in ("create", "update"):
            was_there = there.get(change.name, change.name in known)
            change = replace(change, type="update" if was_there else "create")
        if change.name:
            there[change.name] = change.type != "delete"
        found.append(change)
    return found


def placed(told: Iterable[Told], layout: MappedLayout, stream: str) -> Iterator[Placed]:
    """Changes that are in their order (see `typed`), with their places."""
    for time, same in groupby(told, key=lambda change: change.time):
        changes = list(same)
        since = min(time - 1 if change.there is None else change.there for change in changes)
        for left, change in zip(range(len(changes) - 1, -1, -1), changes, strict=True):
            yield Placed(
                Change(
                    change.type,
                    stream,
                    change.group,
                    change.id,
                    change.json,
                    time / 1000 - left / STEPS,
                    f"{time:016x}" if change.name else None,
                    layout.position(time, left, change.name, since),
                    change.event,
                ),
                change.created,
                change.there,
            )


def state_of(document: Any, layout: MappedLayout, *, not_before: int = 0) -> Told:
    """What a document is, as a change at the time of its last commit; see `typed`."""
    group, id = layout.key(document.name) or ("", "")
    time = max(micros(document.update_time), not_before)
    created = max(micros(document.create_time), not_before)
    return Told(time, document.name, "update", group, id, layout.json(document), created=created)


def delete_of(
    name: str, layout: MappedLayout, time: int, json: bytes, created: int = 0, there: int | None = None
) -> Told:
    """The end of a document, with the last value that is known."""
    group, id = layout.key(name) or ("", "")
    return Told(time, name, "delete", group, id, json, created=created, there=there)


def events_of(entries: Iterable[Entry]) -> list[Told]:
    """The custom events in entries of the log beside the documents."""
    return [
        Told(micros(entry.updated), "", "event", change.group, change.id, change.json, change.event)
        for entry in entries
        for change in entry.changes
    ]


def portions(changes: Sequence[Change]) -> Iterator[Sequence[Change]]:
    """The changes cut so that no part tells of an item twice (B9); one empty part if there are none."""
    start = 0
    seen: set[tuple[str, str]] = set()
    for number, change in enumerate(changes):
        if change.type == "event" or change.id is None:
            continue
        key = (change.group_id, change.id)
        if key in seen:
            yield changes[start:number]
            start, seen = number, set()
        seen.add(key)
    yield changes[start:]
