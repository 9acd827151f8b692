"""Following the user's documents: moments of their listener become changes in the order of their commits.

A listener tells what documents are, not what happened to them. Between two moments at
which it is whole, each document that differs is one change: a create or an update at the
time of its last commit, which the document carries, or a delete (`departures`). What this
process wrote itself is told as it was written; what came and went in between is told as a
delete if this process wrote it or has shown it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

from motia_adapters.firestore.connection import Connection, as_backend_error
from motia_adapters.firestore.failures import closed, copy_of
from motia_adapters.firestore.listener import Listener
from motia_adapters.firestore.mapped.changes import Told, delete_of, events_of, placed, state_of, typed
from motia_adapters.firestore.mapped.departures import ends_of, lives_of
from motia_adapters.firestore.mapped.documents import Documents
from motia_adapters.firestore.mapped.events import Events
from motia_adapters.firestore.mapped.kept import Kept
from motia_adapters.firestore.mapped.layout import MappedLayout
from motia_adapters.firestore.mapped.moments import Moment, Moments
from motia_adapters.firestore.mapped.notes import Known, Note, Notes, known_of
from motia_adapters.firestore.wire import micros, timestamp
from motia_core.errors import BackendError, BackendUnavailable

LAG = 0.03
"""Seconds after which the emulator shows a commit in whole: it gives it its time a moment earlier."""
RETRY = 0.5
"""Seconds before what failed is tried again."""
NUDGE, EMULATOR_NUDGE = 1.0, 0.01
"""Seconds after which a listener that is awaited is asked where it stands."""

_log = logging.getLogger(__name__)


class States:
    """The documents of one mapped stream, and what became of them lately."""

    def __init__(
        self, connection: Connection, listener: Listener, layout: MappedLayout, events: Events, name: str
    ) -> None:
        self._connection = connection
        self._listener = listener
        self._layout = layout
        self._events = events
        self._name = name
        self._emulated = connection.is_emulated
        self._moments = Moments(layout, self._hear, is_bell=self._emulated)
        self._documents = Documents(connection, layout, lambda documents: None)
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._nudge: asyncio.TimerHandle | None = None
        self._wanted = 0
        self._seq = -1
        self.committing = asyncio.Lock()
        """Held while this process's own commit is under way."""
        self.notes = Notes(layout)
        self.kept = Kept()
        self.known: dict[str, Known] = {}
        """What each document was as of ``time``."""
        self.time = 0
        """All changes up to here are told (µs); 0: it has not begun."""
        self.past: dict[str, Note] = {}
        """What this process did before it listened."""

    @property
    def outside(self) -> int:
        """Documents whose group or id no item may have, as far as they were seen."""
        return len(self._moments.outside)

    @property
    def error(self) -> BackendError | None:
        """Why nothing is heard, if that is known."""
        error = self._moments.error or self._listener.error
        return None if error is None else copy_of(error)

    async def start(self) -> None:
        """Begin to listen, and wait until it is whole. Raises `BackendUnavailable`."""
        if self._task is None:
            self._task = asyncio.create_task(self._digest_all(), name=f"motia-firestore-states-{self._name}")
            if not self._emulated:
                self._listener.add(self._events.bell)
            self._listener.add(self._moments)
        await self._come_to(1)

    async def reach(self, time: int) -> None:
        """Wait until all changes up to ``time`` are told. Raises `BackendUnavailable`."""
        self.want(time)
        await self._come_to(time)

    async def close(self) -> None:
        """End."""
        if self._nudge is not None:
            self._nudge.cancel()
        if self._task is not None:
            self._listener.remove(self._events.bell)
            self._listener.remove(self._moments)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self.kept.ring()

    def showed(self, documents: Iterable[Any]) -> None:
        """What this process has read."""
        if self._task is not None:
            self.notes.showed(documents)

    def passed_over(self, names: Iterable[str], at: int) -> bool:
        """Whether any of these documents, which were there at a time, has gone without a word behind it."""
        gone = [name for name in names if name not in self.known] if self.time >= at else []
        if not gone:
            return False  # what is not known yet is noted: see `showed`
        told = {
            self._layout.name((change.group_id, change.id or ""))
            for change in self.kept.after(self._layout.position(at))
            if change.type == "delete"
        }
        return not told.issuperset(gone)

    def want(self, time: int) -> None:
        """See to it that ``time`` gets there, even if nothing changes."""
        self._wanted = max(self._wanted, time)
        if self._wanted > self.time and self._nudge is None and self._task is not None:
            seconds = EMULATOR_NUDGE if self._emulated else NUDGE
            self._nudge = asyncio.get_running_loop().call_later(seconds, self._ask_again)

    def ask(self) -> None:
        """Ask the listener where it stands, now."""
        if self._emulated:
            self._news.set()
        elif self._task is not None and self._moments.current:  # else it is about to say so
            self._moments.doubtful(whole=False)
            self._listener.renew(self._moments)

    # -- inside ------------------------------------------------------------------------

    async def _come_to(self, time: int) -> None:
        with self.kept.ringing() as bell:
            try:
                async with asyncio.timeout(self._connection.timeout):
                    while self.time < time:
                        if self._task is None:
                            raise closed(self._connection.address)
                        bell.clear()
                        await bell.wait()
            except TimeoutError:
                raise self.error or BackendUnavailable(
                    f"firestore: listening at {self._connection.address} has not got far enough within"
                    f" {self._connection.timeout:g} s (is the network up?)"
                ) from None

    def _hear(self) -> None:
        if not self._emulated:
            self._news.set()
        elif self._connection.is_open:
            self.want(self._connection.now())

    def _ask_again(self) -> None:
        self._nudge = None
        if self._wanted > self.time:
            self.ask()
            self.want(self._wanted)

    async def _digest_all(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            moment = self._moments.take()
            try:
                if self._emulated:
                    moment = await self._look()
                if moment.at is not None and micros(moment.at) > self.time:
                    await self._digest(moment.documents, moment.at)
                else:
                    self._moments.give_back(moment)
            except Exception as error:
                failure = as_backend_error(error, self._connection.address, "follow documents")
                _log.warning("%s: trying again", failure)
                self._moments.give_back(moment)
                self._news.set()
                await asyncio.sleep(RETRY)

    async def _look(self) -> Moment:
        """What is different at a time that is over for the emulator, whose listener is no more than a bell."""
        await asyncio.sleep(LAG)
        at = timestamp(self._connection.now() - round(LAG * 1_000_000))
        (history,), _ = await self._connection.get([self._layout.history])
        if history is not None and micros(history.update_time) > micros(at):
            raise BackendUnavailable("firestore: the emulator got its data only now")  # they are not to be told as gone
        outside: set[str] = set()
        documents = {document.name: document async for document in self._documents.all(at, outside=outside)}
        self._moments.outside &= outside
        self._moments.leave_out(outside)
        different = {n: d for n, d in documents.items() if self.known.get(n) != known_of(d)}
        return Moment(at, {**dict.fromkeys(self.known.keys() - documents.keys()), **different})

    async def _digest(self, news: dict[str, Any], at: Any) -> None:
        time = micros(at)
        if not self.time:  # the beginning: what is there was there
            self._seq = await self._events.newest_seq(at)
            self.known = {name: known_of(document) for name, document in news.items() if document}
            self.past = dict(self.notes.until(time))
            self.kept.since = self._layout.position(time)
            self._move_on(time)
            return
        async with self.committing:  # the listener may be faster than the reply to our own commit
            pass
        entries = await self._events.after(self._seq, at)
        self.notes.closed = time
        told = [*self._written(news, time), *self._states(news), *events_of(entries)]
        told += await self._ends(news, time, told)
        told = typed(told, self.known, self._layout)
        # From here on nothing can fail.
        for name, document in news.items():
            if document is None:
                self.known.pop(name, None)
            else:
                self.known[name] = known_of(document)
        self._seq = entries[-1].seq if entries else self._seq
        self.kept.extend(placed(told, self._layout, self._name))
        self._move_on(time)

    def _move_on(self, time: int) -> None:
        self.notes.forget(time)
        self.time = time
        self.kept.ring()
        self.want(self._wanted)

    def _written(self, news: dict[str, Any], time: int) -> list[Told]:
        """What this process wrote or showed, and something else has come of since."""
        found: list[Told] = []
        for name, note in self.notes.until(time):
            document = news.get(name)
            if document is None or not note.json or micros(document.update_time) <= note.time:
                continue
            group, id = self._layout.key(name) or ("", "")
            if not note.deleted:
                created = micros(document.create_time)
                created = created if created <= note.time else note.created or note.time
                found.append(Told(note.time, name, "update", group, id, note.json, created=created))
            elif name in self.known:
                found.append(self._end(name, note))
        return found

    def _states(self, news: dict[str, Any]) -> list[Told]:
        """Documents that are new or changed."""
        found: list[Told] = []
        for name, document in news.items():
            if document is None or self.known.get(name) == known_of(document):
                continue
            # Should it have come too late (the emulator may show a commit after its time), it is told all the same, and
            # behind the end of what was there before.
            late = micros(document.update_time) <= self.time
            found.append(state_of(document, self._layout, not_before=self.time + 2 if late else 0))
        return found

    async def _ends(self, news: dict[str, Any], time: int, told: list[Told]) -> list[Told]:
        """Deletes of what was known, and of what came and went without a word of the listener's."""
        ours, theirs = lives_of(news, self.known, self.notes, self.time, time)
        deletes = [self._end(name, note) for name, note in ours]
        others = [change.time for change in [*told, *deletes]]
        ends = await ends_of(self._connection, self._layout, theirs, others)
        known = {(change.name, change.time) for change in [*told, *deletes] if change.type == "delete"}
        return deletes + [end for end in ends if (end.name, end.time) not in known]

    def _end(self, name: str, note: Note) -> Told:
        """A delete of this process's own."""
        known = self.known.get(name)
        created = known.created if known is not None and known.updated == note.was else note.was
        return delete_of(name, self._layout, note.time, note.json, created)
