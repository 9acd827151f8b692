"""What this process knows of items before the listener has told of them: what it wrote, and what it has shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from motia_adapters.firestore.mapped.layout import MappedLayout
from motia_adapters.firestore.rounds import Round
from motia_adapters.firestore.wire import micros

MOST = 50_000
"""Items that are remembered, at most."""
MOST_VALUES = 2_000
"""Items whose values are remembered too: those of others are read when they are needed."""


@dataclass(frozen=True, slots=True)
class Note:
    """An item as it was at ``time`` (µs), or as it was before it was deleted then."""

    time: int
    json: bytes
    """Empty: not remembered."""
    deleted: bool = False
    created: int = 0
    """When the document was created (µs); 0: not known, before ``time``."""
    was: int = 0
    """When the state that this one followed was written (µs); 0: there was none, or it is not known."""


class Known(NamedTuple):
    """When a document was last changed, and when it was created (µs)."""

    updated: int
    created: int


class Life(NamedTuple):
    """A document that was there at a time (µs), and is gone at another."""

    name: str
    seen: int
    gone: int
    json: bytes = b""
    """Its last value, if that is known: else it is read as of ``seen``."""
    created: int = 0


def known_of(document: Any) -> Known:
    """What is remembered of a document."""
    return Known(micros(document.update_time), micros(document.create_time))


class Notes:
    """The newest note of each document, by its name."""

    def __init__(self, layout: MappedLayout) -> None:
        self._layout = layout
        self._notes: dict[str, Note] = {}
        self._ended: list[Life] = []
        self.told = 0
        """What was up to here (µs) is told already."""
        self.closed = 0
        """What was up to here (µs) is being told: notes of it come too late."""
        self.late = 0
        """Notes that came too late."""

    def wrote(self, round: Round) -> None:
        """A commit of this process's own."""
        time = round.commit_time
        for change in round.changes:
            if change.id is not None and change.type != "e":
                created = time if change.type == "c" else 0
                key = (change.group, change.id)
                before = round.before[key].updated
                was = 0 if before is None else micros(before)
                self._put(self._layout.name(key), Note(time, change.json or b"{}", change.type == "d", created, was))

    def showed(self, documents: Iterable[Any]) -> None:
        """What was read: if it goes before the listener tells of it, its end must be told all the same."""
        for document in documents:
            created = micros(document.create_time)
            if created > self.told and self._layout.key(document.name) is not None:
                note = Note(micros(document.update_time), self._layout.json(document), created=created)
                self.late += note.time <= self.closed
                self._put(document.name, note)

    def get(self, name: str, until: int) -> Note | None:
        """What is noted of a document, if it was so at a time."""
        note = self._notes.get(name)
        return note if note is not None and note.time <= until else None

    def until(self, time: int) -> Iterator[tuple[str, Note]]:
        """What is noted up to a time."""
        return ((name, note) for name, note in self._notes.items() if note.time <= time)

    def ended(self, time: int) -> list[Life]:
        """What was there by a time, and has others of the same name behind it."""
        return [ended for ended in self._ended if ended.seen <= time]

    def forget(self, time: int) -> None:
        """All up to this time is told."""
        self.told = time
        self._notes = {name: note for name, note in self._notes.items() if note.time > time}
        self._ended = [ended for ended in self._ended if ended.seen > time]

    def _put(self, name: str, note: Note) -> None:
        known = self._notes.get(name)
        if note.time > self.told and (known is None or note.time >= known.time):
            if known is not None:
                self._replaced(name, known, note)
            self._notes.pop(name, None)
            self._notes[name] = note if len(self._notes) < MOST_VALUES else replace(note, json=b"")
            if len(self._notes) > MOST:
                del self._notes[next(iter(self._notes))]

    def _replaced(self, name: str, known: Note, note: Note) -> None:
        """Whoever was shown the one is to be told of its end, if the other is not what became of it."""
        if known.deleted:
            self._ended.append(Life(name, known.time - 1, known.time, known.json, known.was))
        elif note.created > known.time:
            self._ended.append(Life(name, known.time, note.created - 1, known.json, known.created))
        elif note.deleted and note.was != known.time:
            self._ended.append(Life(name, known.time, note.time, known.json, known.created))
        if len(self._ended) > MOST:
            del self._ended[0]
