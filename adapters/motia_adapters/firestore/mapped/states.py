"""Following the user's documents: one listener, whose moments become changes in the order of their commits.

A listener tells what documents are, not what happened to them. Between two moments at
which it is whole, each document that differs is one change: a create or an update at the
time of its last commit, which the document carries. A delete leaves no time behind: it
takes that of the moment at which it was seen, or its commit's own if this process made it.
What came and went in between is told as a delete if this process wrote it or has shown it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from motia_adapters.firestore.connection import Connection, as_backend_error
from motia_adapters.firestore.history import Entry
from motia_adapters.firestore.listener import Listener, Target
from motia_adapters.firestore.mapped.layout import MappedLayout
from motia_adapters.firestore.rounds import Round
from motia_adapters.firestore.wire import GREATER_OR_EQUAL, LESS, micros, query_of, timestamp
from motia_core.errors import BackendUnavailable
from motia_core.model import Change, ChangeType

KEPT = 10_000
"""Changes that are kept for this process's watches."""
LAG = 0.01
"""Seconds after which the emulator shows a commit in whole: it gives it its time a moment earlier."""
RETRY = 0.5
"""Seconds before what failed is tried again."""
PAGE = 500
"""Documents that are listed at once, at most."""
NOTES = 2_000
"""Items of which it is remembered what this process did, until the listener has told of it."""
NUDGE = 0.01
"""Seconds after which a listener that is awaited is asked where it stands."""
HOUR = 3_540
"""Seconds that Firestore remembers, with a minute to spare."""
PORTION = 300
"""Documents that are read by name at once, at most."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Note:
    """What this process did to an item, or has shown of it, before the listener told of it."""

    time: int
    json: bytes
    """The last value that is known."""
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class _Told:
    """A change without a place: ``name`` is empty for a custom event."""

    time: int
    name: str
    type: ChangeType
    group: str
    id: str | None
    json: bytes | None
    event: str | None = None
    created: int = 0
    """When the document was created, µs."""


class States(Target):
    """The documents of one mapped stream, as the listener brings them."""

    def __init__(
        self, connection: Connection, listener: Listener, layout: MappedLayout, events: Any, name: str
    ) -> None:
        template, documents = layout.template, layout.documents
        where = [
            ("__name__", GREATER_OR_EQUAL, f"{documents}/{template.start(None)}"),
            ("__name__", LESS, f"{documents}/{template.end()}"),
        ]
        super().__init__(documents, query_of(template.collection, "__name__", where=where, below=True))
        self._connection = connection
        self._listener = listener
        self._layout = layout
        self._events = events
        self._name = name
        self._pending: dict[str, Any] = {}
        self._whole: dict[str, Any] | None = {}
        self._moment: Any = None
        self._notes: dict[str, Note] = {}
        self.committing = asyncio.Lock()
        """Held while this process's own commit is under way."""
        self._emulated = connection.options.emulator is not None
        self._kept: deque[tuple[Change, int]] = deque()
        self._bells: set[asyncio.Event] = set()
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._nudge: asyncio.TimerHandle | None = None
        self._wanted = 0
        self._seq = -1
        self.known: dict[str, int] = {}
        """When each document was last changed (µs), as of ``time``."""
        self.time = 0
        """All changes up to here are told (µs)."""
        self.since = 0
        """Changes behind this time are kept (µs)."""
        self.past: dict[str, Note] = {}
        """What this process did before it listened."""
        self.outside: set[str] = set()
        """Documents whose group or id no item may have."""

    # -- for the watches ---------------------------------------------------------------

    async def start(self) -> None:
        """Begin to listen, and wait until it is whole. Raises `BackendUnavailable`."""
        if self._task is None:
            self._task = asyncio.create_task(self._digest_all(), name=f"motia-firestore-states-{self._name}")
            self._listener.add(self)
        with self.ringing() as bell:
            try:
                async with asyncio.timeout(self._connection.timeout):
                    while not self.time:
                        bell.clear()
                        await bell.wait()
            except TimeoutError:
                raise self._listener.error or BackendUnavailable(
                    f"firestore: listening at {self._connection.address} has not begun within"
                    f" {self._connection.timeout:g} s"
                ) from None

    async def close(self) -> None:
        """End."""
        if self._nudge is not None:
            self._nudge.cancel()
        if self._task is not None:
            self._listener.remove(self)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self.ring()

    @contextmanager
    def ringing(self) -> Generator[asyncio.Event, None, None]:
        """A bell that rings when ``time`` has moved on."""
        bell = asyncio.Event()
        self._bells.add(bell)
        try:
            yield bell
        finally:
            self._bells.discard(bell)

    def ring(self) -> None:
        """Wake all watches."""
        for bell in self._bells:
            bell.set()

    def kept_after(self, position: str) -> list[Change]:
        """The changes behind a position that is not before ``since``."""
        found: list[Change] = []
        time = int(position[:16], 16)
        for change, created in reversed(self._kept):
            if change.position <= position:
                break
            # Whoever stands between a document's creation and what is told of it has it already.
            had = change.type == "create" and created <= time
            found.append(replace(change, type="update") if had else change)
        return found[::-1]

    def nth_last(self, count: int) -> str | None:
        """The position before the last so many changes that are kept, if there are more."""
        return self._kept[-count - 1][0].position if len(self._kept) > count else None

    def want(self, time: int) -> None:
        """See to it that ``time`` gets there, even if nothing changes."""
        self._wanted = max(self._wanted, time)
        if self._wanted > self.time and self._nudge is None and self._task is not None:
            self._nudge = asyncio.get_running_loop().call_later(NUDGE, self._ask)

    def ask(self) -> None:
        """Ask the listener where it stands, now."""
        if self._emulated:
            self._news.set()
        elif self._task is not None and self.current:  # else it is about to say so
            self._listener.renew(self)

    def wrote(self, round: Round) -> None:
        """A commit of this process's own."""
        for change in round.changes:
            if change.id is not None and change.type != "e":
                json = change.json or b"{}"
                self._note(self._layout.name((change.group, change.id)), round.commit_time, json, change.type == "d")
        self.want(round.commit_time)

    def showed(self, documents: Iterable[Any]) -> None:
        """What this process has read: if it goes before the listener tells of it, that must be told all the same."""
        if self._task is None:
            return
        for document in documents:
            time = micros(document.update_time)
            if time > self.time and micros(document.create_time) > self.time:
                self._note(document.name, time, self._layout.json(document), False)

    # -- what the listener says --------------------------------------------------------

    def heard(self, document: Any) -> None:
        """A document was created or changed, or is told anew."""
        if self._layout.key(document.name) is None:
            if document.name not in self.outside:
                _log.warning("firestore: %s is left out: its group or id is none that an item may have", document.name)
            self.outside.add(document.name)
        elif self._whole is not None:
            self._whole[document.name] = document
        else:
            self._pending[document.name] = document

    def gone(self, name: str) -> None:
        """A document was removed."""
        self.outside.discard(name)
        if self._whole is not None:
            self._whole.pop(name, None)
        else:
            self._pending[name] = None

    def settled(self, at: Any) -> None:
        """All up to this time has been heard."""
        if self._emulated:
            self.want(self._connection.now())
            return
        if self._whole is not None:
            gone = [name for name in self.known.keys() | self._pending.keys() if name not in self._whole]
            self._pending = dict.fromkeys(gone) | self._whole
            self._whole = None
        self._moment = at
        self._news.set()

    def doubtful(self, *, whole: bool) -> None:
        """All documents follow: what is not among them is gone."""
        if whole:
            self._whole = {}

    # -- from moments to changes -------------------------------------------------------

    async def _digest_all(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            pending, self._pending, moment = self._pending, {}, self._moment
            try:
                if self._emulated:
                    pending, moment = await self._look()
                await self._digest(pending, moment)
            except Exception as error:
                failure = as_backend_error(error, self._connection.address, "follow documents")
                _log.warning("%s: trying again", failure)
                self._pending = {**pending, **self._pending}
                self._news.set()
                await asyncio.sleep(RETRY)

    async def _look(self) -> tuple[dict[str, Any], Any]:
        """What is different at a moment that is over for the emulator, whose listener is no more than a bell.

        It tells all documents anew at each change, without a time at which they were so.
        """
        await asyncio.sleep(LAG)
        at = timestamp(self._connection.now() - round(LAG * 1_000_000))
        documents: dict[str, Any] = {}
        async for document in self.documents_at(at):
            documents[document.name] = document
        different = {n: d for n, d in documents.items() if self.known.get(n) != micros(d.update_time)}
        return {**dict.fromkeys(self.known.keys() - documents.keys()), **different}, at

    async def documents_at(self, at: Any) -> AsyncIterator[Any]:
        """All documents of ours, as of a time."""
        documents, template = self._layout.documents, self._layout.template
        end = ("__name__", LESS, f"{documents}/{template.end()}")
        cursor = f"{documents}/{template.start(None)}"
        while True:
            where = [("__name__", GREATER_OR_EQUAL, cursor), end]
            query = query_of(template.collection, "__name__", where=where, limit=PAGE, below=True)
            found, _ = await self._connection.query(documents, query, at)
            for document in found:
                if self._layout.key(document.name) is not None:
                    yield document
            if len(found) < PAGE:
                return
            cursor = found[-1].name + "\x01"

    async def _digest(self, pending: Mapping[str, Any], moment: Any) -> None:
        time = micros(moment)
        if time <= self.time:
            self._pending = {**pending, **self._pending}
            return
        if not self.time:  # the beginning: what is there was there
            self._seq = await self._events.newest_seq(moment)
            self.known = {name: micros(document.update_time) for name, document in pending.items() if document}
            self.past = {name: note for name, note in self._notes.items() if note.time <= time}
            self._notes = {name: note for name, note in self._notes.items() if note.time > time}
            self.since = self.time = time
            self.ring()
            self.want(self._wanted)
            return
        async with self.committing:  # the listener may be faster than the reply to our own commit
            pass
        told = self._states(pending)
        gone = [name for name, document in pending.items() if document is None and name in self.known]
        told += await self._deletes(gone, time)
        told += self._passed(pending, time)
        entries = await self._events.entries_after(self._seq, moment)
        told += events_of(entries)
        # From here on nothing can fail.
        for name, document in pending.items():
            if document is None:
                self.known.pop(name, None)
            else:
                self.known[name] = micros(document.update_time)
        self._seq = entries[-1].seq if entries else self._seq
        self._notes = {name: note for name, note in self._notes.items() if note.time > time}
        told.sort(key=_order)
        self._kept.extend(zip(self.placed(told), (change.created for change in told), strict=True))
        while len(self._kept) > KEPT:
            self.since = int(self._kept.popleft()[0].position[:16], 16)
        self.time = time
        self.ring()
        self.want(self._wanted)

    def _states(self, pending: Mapping[str, Any]) -> list[_Told]:
        """Documents that are new or changed."""
        found = []
        for name, document in pending.items():
            if document is None or self.known.get(name) == (time := micros(document.update_time)):
                continue
            group, id = self._layout.key(name) or ("", "")
            type: ChangeType = "update" if name in self.known else "create"
            created = micros(document.create_time)
            found.append(_Told(time, name, type, group, id, self._layout.json(document), created=created))
        return found

    async def _deletes(self, names: list[str], time: int) -> list[_Told]:
        """Deletes of what was known, with the last value: as this process knows it, or as it was at ``self.time``."""
        found = []
        unknown: list[str] = []
        for name in names:
            note = self._notes.get(name)
            if note is not None and note.time <= time:
                found.append(self._delete(name, note.time if note.deleted else time, note.json))
            else:
                unknown.append(name)
        at = timestamp(max(self.time, self._connection.now() - HOUR * 1_000_000))
        for start in range(0, len(unknown), PORTION):
            part = unknown[start : start + PORTION]
            documents, _ = await self._connection.get(part, at)
            for name, document in zip(part, documents, strict=True):
                found.append(self._delete(name, time, self._layout.json(document) if document else b"{}"))
        return found

    def _passed(self, pending: Mapping[str, Any], time: int) -> list[_Told]:
        """Deletes of what the listener never told of: it came and went."""
        found = []
        for name, note in self._notes.items():
            there = pending.get(name) is not None
            if note.time <= time and not there and name not in self.known:
                found.append(self._delete(name, note.time if note.deleted else time, note.json))
        return found

    def _delete(self, name: str, time: int, json: bytes) -> _Told:
        group, id = self._layout.key(name) or ("", "")
        return _Told(time, name, "delete", group, id, json)

    def placed(self, told: Iterable[_Told]) -> list[Change]:
        """Changes in their order: by the times of their commits, items by name, events last."""
        changes: list[Change] = []
        time, rank = 0, 0
        for change in sorted(told, key=_order):
            rank = rank + 1 if change.time == time else 1
            time = change.time
            position = self._layout.position(time, rank)
            version = f"{time:016x}" if change.name else None
            changes.append(
                Change(
                    change.type,
                    self._name,
                    change.group,
                    change.id,
                    change.json,
                    (time + rank - 1) / 1000,
                    version,
                    position,
                    change.event,
                )
            )
        return changes

    def _note(self, name: str, time: int, json: bytes, deleted: bool) -> None:
        known = self._notes.get(name)
        if time > self.time and (known is None or time >= known.time):
            self._notes.pop(name, None)
            self._notes[name] = Note(time, json, deleted)
            if len(self._notes) > NOTES:
                del self._notes[next(iter(self._notes))]

    def _ask(self) -> None:
        self._nudge = None
        if self._wanted > self.time:
            self.ask()
            self.want(self._wanted)


def _order(change: _Told) -> tuple[int, bool, bytes]:
    return (change.time, not change.name, change.name.encode())


def events_of(entries: Iterable[Entry]) -> list[_Told]:
    """The custom events in entries of the log beside the documents."""
    return [
        _Told(micros(entry.updated), "", "event", change.group, change.id, change.json, change.event)
        for entry in entries
        for change in entry.changes
    ]


def state_change(time: int, name: str, type: ChangeType, key: tuple[str, str], json: bytes) -> _Told:
    """A change of a document."""
    return _Told(time, name, type, *key, json)
