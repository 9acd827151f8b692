"""What this process knows of items before the listener has told of them: what it wrote, and what it has shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from motia_adapters.firestore.mapped.layout import MappedLayout
from motia_adapters.firestore.rounds import Round
from motia_adapters.firestore.wire import micros

MOST = 2_000
"""Items that are remembered, at most."""


@dataclass(frozen=True, slots=True)
class Note:
    """An item as it was at ``time`` (µs), or as it was before it was deleted then."""

    time: int
    json: bytes
    deleted: bool = False
    created: int = 0
    """When the document was created (µs); 0: not known, before ``time``."""


class Notes:
    """The newest note of each document, by its name."""

    def __init__(self, layout: MappedLayout) -> None:
        self._layout = layout
        self._notes: dict[str, Note] = {}
        self.told = 0
        """What was up to here (µs) is told already."""

    def wrote(self, round: Round) -> None:
        """A commit of this process's own."""
        time = round.commit_time
        for change in round.changes:
            if change.id is not None and change.type != "e":
                created = time if change.type == "c" else 0
                name = self._layout.name((change.group, change.id))
                self._put(name, Note(time, change.json or b"{}", change.type == "d", created))

    def showed(self, documents: Iterable[Any]) -> None:
        """What was read: if it goes before the listener tells of it, its end must be told all the same."""
        for document in documents:
            created = micros(document.create_time)
            if created > self.told and self._layout.key(document.name) is not None:
                note = Note(micros(document.update_time), self._layout.json(document), created=created)
                self._put(document.name, note)

    def get(self, name: str, until: int) -> Note | None:
        """What is noted of a document, if it was so at a time."""
        note = self._notes.get(name)
        return note if note is not None and note.time <= until else None

    def until(self, time: int) -> Iterator[tuple[str, Note]]:
        """What is noted up to a time."""
        return ((name, note) for name, note in self._notes.items() if note.time <= time)

    def forget(self, time: int) -> None:
        """All up to this time is told."""
        self.told = time
        self._notes = {name: note for name, note in self._notes.items() if note.time > time}

    def _put(self, name: str, note: Note) -> None:
        known = self._notes.get(name)
        if note.time > self.told and (known is None or note.time >= known.time):
            self._notes.pop(name, None)
            self._notes[name] = note
            if len(self._notes) > MOST:
                del self._notes[next(iter(self._notes))]
