"""The log: a chain of documents, each of which holds the changes of one commit.

Their numbers (``seq``) are dense. A commit creates the next number, which fails if that is
there, and fails unless the number before was last changed as the writer knows it: the
order of the numbers *is* the order of commits. Each document has a random ``mark`` and
carries that of the one before (``prev``), so that a place can be told from the same
number in another history, and a reader sees whether anything is missing.

A position is ``SEQ INDEX MARK`` in hex digits: 13, 3 and 12 of them.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from motia_adapters.firestore.wire import plain
from motia_core.model import Change, ChangeType

_POSITION = re.compile(r"[0-9a-f]{13}[0-9a-f]{3}[0-9a-f]{12}")
_TYPES: dict[str, ChangeType] = {"c": "create", "u": "update", "d": "delete", "e": "event"}
MAX_INDEX = 0xFFF
"""Changes in one document, at most."""
MAX_BYTES = 900_000
"""Bytes of changes after which a commit's next ones go to another document (one change may be larger)."""


class Place(NamedTuple):
    """A place in a stream's order: behind change ``number`` (from 1; 0: before the first) of document ``seq``."""

    seq: int
    number: int
    mark: str

    @property
    def position(self) -> str:
        """As the core knows it."""
        return f"{self.seq:013x}{self.number:03x}{self.mark}"


def parse_position(text: str) -> Place | None:
    """The place that a position names, if it is one of this adapter's making."""
    if not _POSITION.fullmatch(text):
        return None
    return Place(int(text[:13], 16), int(text[13:16], 16), text[16:])


def new_mark() -> str:
    """What tells a document of the log from one of the same number in another history."""
    return secrets.token_hex(6)


class Told(NamedTuple):
    """One change, before it has a place. ``expires``: the item's deadline (µs), 0: none."""

    type: str
    """"c", "u", "d" or "e"."""
    group: str
    id: str | None
    event: str | None
    expires: int
    json: bytes | None

    @property
    def size(self) -> int:
        """Bytes that it takes in the log, about: names may be twice as long as text in JSON."""
        names = sum(len(name.encode()) for name in (self.group, self.id, self.event) if name)
        return len(self.json or b"") + 2 * names + 64


@dataclass(frozen=True, slots=True)
class Entry:
    """One document of the log."""

    seq: int
    mark: str
    prev: str
    time: int
    """Of its last change, µs since the epoch; each change before it is a µs earlier."""
    count: int
    """Changes in the log up to here, those that were trimmed included."""
    changes: tuple[Told, ...]
    updated: Any = field(default=None, compare=False)
    """When the document was last changed, as Firestore said it."""

    @property
    def end(self) -> Place:
        """The place behind its last change."""
        return Place(self.seq, len(self.changes), self.mark)

    @property
    def timestamp(self) -> float:
        """Of its last change, in ms."""
        return self.time / 1000

    def follows(self, seq: int, mark: str) -> bool:
        """Whether it is the document right behind the one of this number and mark."""
        return self.seq == seq + 1 and self.prev == mark

    def place(self, index: int) -> Place:
        """The place behind one change; ``index`` is from 1."""
        return Place(self.seq, index, self.mark)

    def time_of(self, index: int) -> float:
        """When a change was, in ms; ``index`` is from 1."""
        return (self.time - len(self.changes) + index) / 1000

    def told(self, stream: str, after: int = 0) -> list[Change]:
        """Its changes behind number ``after``, as the core knows them."""
        found = []
        for index, change in enumerate(self.changes[after:], after + 1):
            position = self.place(index).position
            type = _TYPES[change.type]
            version = None if type == "event" else position
            found.append(
                Change(
                    type,
                    stream,
                    change.group,
                    change.id,
                    change.json,
                    self.time_of(index),
                    version,
                    position,
                    change.event,
                )
            )
        return found


def entry_fields(entry: Entry) -> dict[str, str | int]:
    """What is stored of an entry. Values stand one behind the other in ``values``; their lengths are in ``changes``."""
    heads = [
        [c.type, c.group, c.id, c.event, c.expires, None if c.json is None else len(c.json)] for c in entry.changes
    ]
    return {
        "seq": entry.seq,
        "mark": entry.mark,
        "prev": entry.prev,
        "time": entry.time,
        "count": entry.count,
        "changes": orjson.dumps(heads).decode(),
        "values": b"".join(c.json or b"" for c in entry.changes).decode(),
    }


def entry_of(document: Any) -> Entry:
    """The entry that a stored document holds."""
    fields = document.fields
    values = fields["values"].string_value.encode()
    changes, at = [], 0
    for type, group, id, event, expires, length in orjson.loads(fields["changes"].string_value):
        json = None if length is None else values[at : at + length]
        at += length or 0
        changes.append(Told(type, group, id, event, expires, json))
    return Entry(
        plain(fields["seq"]),
        plain(fields["mark"]),
        plain(fields["prev"]),
        plain(fields["time"]),
        plain(fields["count"]),
        tuple(changes),
        document.update_time,
    )


def chain(before: Entry, changes: Sequence[Told], now: int) -> list[Entry]:
    """The next entries of the log, for the changes of one commit at ``now`` (µs)."""
    entries: list[Entry] = []
    start = 0
    while start < len(changes):
        size, end = 0, start
        while end < len(changes) and end - start < MAX_INDEX:
            if end > start and size + changes[end].size > MAX_BYTES:
                break
            size += changes[end].size
            end += 1
        part = tuple(changes[start:end])
        time = max(now, before.time + 1) + len(part) - 1
        before = Entry(before.seq + 1, new_mark(), before.mark, time, before.count + len(part), part)
        entries.append(before)
        start = end
    return entries


def genesis(now: int) -> Entry:
    """The first document of a history, which holds no change."""
    return Entry(0, new_mark(), "", now, 0, ())
