"""Working out one commit: what several calls of `write` do, one after the other, to what is known to be stored."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from motia_adapters.firestore.history import Entry, Place, Told, chain, entry_fields
from motia_adapters.firestore.items import NOTHING, Key, Layout, State, version_at
from motia_adapters.firestore.names import Paths
from motia_adapters.firestore.wire import micros, stored, unchanged, untouched
from motia_core.errors import MotiaError
from motia_core.model import ChangeType, Write, WriteResult

MAX_BYTES = 1_500_000
"""Bytes of changes that calls may share a commit with. Each is sent twice, as an item and in the log, and Google's
emulator takes 4 MiB in a message; a call by itself may be larger."""
STEPS = 4096
"""Parts of a ms by which the changes of one commit follow each other where times are the order: as many as a float
of today's times can tell apart."""
_TYPES: dict[str, ChangeType] = {"c": "create", "u": "update", "d": "delete", "e": "event"}


@dataclass(slots=True, eq=False)
class Unit:
    """One call of `write`, until ``future`` has its results."""

    writes: Sequence[Write]
    future: Future[Sequence[WriteResult | None]]
    deadline: float
    """On the loop's clock."""
    attempts: int = 0
    sweep: tuple[Key, ...] = ()
    """Items that are to be removed if they have expired."""
    unswept: int = 0
    """How many of them there was no room for."""
    alone: bool = False
    """Whether it is to share its commit with none: the server has refused one that it was in."""

    @property
    def keys(self) -> list[Key]:
        """The items that it is about."""
        written = [(w.group, w.id) for w in self.writes if w.id is not None and w.kind != "event"]
        return [*written, *self.sweep]


@dataclass(slots=True)
class _Outcome:
    """What a write will have done: the number of its change in the commit (``None``: it needs none), and the values."""

    number: int | None
    type: str
    group: str
    id: str | None
    old: bytes | None
    new: bytes | None


@dataclass(slots=True)
class _Work:
    """What one unit does, until it is known to succeed."""

    changes: list[Told] = field(default_factory=list)
    after: dict[Key, State] = field(default_factory=dict)
    last: dict[Key, int] = field(default_factory=dict)
    outcomes: list[_Outcome | None] = field(default_factory=list)
    size: int = 0


@dataclass(slots=True)
class Round:
    """One commit in the making."""

    paths: Paths
    layout: Layout
    before: dict[Key, State]
    """What is stored of each item that the units name."""
    now: int
    """The server's clock, µs."""
    changes: list[Told] = field(default_factory=list)
    after: dict[Key, State] = field(default_factory=dict)
    """What will be stored; the versions come when the order is known."""
    done: list[tuple[Unit, list[_Outcome | None]]] = field(default_factory=list)
    failed: list[tuple[Unit, MotiaError]] = field(default_factory=list)
    left: list[Unit] = field(default_factory=list)
    """Units for which there was no room."""
    entries: list[Entry] = field(default_factory=list)
    commit_time: int = 0
    """Of the commit, µs since the epoch; as far as nothing is committed, ``now``."""
    _last: dict[Key, int] = field(default_factory=dict)
    _size: int = 0

    def take(self, units: Sequence[Unit]) -> None:
        """Work out what the units do, in their order; each succeeds or fails alone."""
        self.commit_time = self.now
        for at, unit in enumerate(units):
            full = unit.sweep or (self.done and self.done[-1][0].sweep)
            # Where times are the order, a commit has one change of an item at most.
            again = not self.layout.keeps_log and any(key in self.after for key in unit.keys)
            if self.done and (full or again):
                self.left = list(units[at:])
                return
            if not self._take(unit):
                self.left = list(units[at:])
                return

    def _take(self, unit: Unit) -> bool:
        """Whether there is room for it, and what it does has been worked out."""
        work = _Work()
        try:
            for write in unit.writes:
                work.outcomes.append(self._write(write, work))
        except MotiaError as error:
            self.failed.append((unit, error))
            return True
        unit.unswept = 0
        for number, key in enumerate(unit.sweep):
            state = self._state(key, work)
            if work.changes and work.size + len(state.json or b"") > MAX_BYTES:
                unit.unswept = len(unit.sweep) - number
                break
            if state.expires and state.expires <= self.now:
                self._expire(key, state, work)
        if self.done and self._size + work.size > MAX_BYTES:
            return False
        self._size += work.size
        self.changes += work.changes
        self.after.update(work.after)
        self._last.update(work.last)
        self.done.append((unit, work.outcomes))
        return True

    def _write(self, write: Write, work: _Work) -> _Outcome | None:
        group, id = write.group, write.id
        if id is None or write.kind == "event":
            number = self._tell(work, Told("e", group, id, write.event_type, 0, write.json))
            return _Outcome(number, "e", group, id, None, None)
        key = (group, id)
        state = self._state(key, work)
        if state.expires and state.expires <= self.now:
            self._expire(key, state, work)
            state = NOTHING
        exists = state.json is not None
        write.check(state.version if exists else None)
        new = write.resolve(state.json)
        if new is None and not exists:
            return None
        if new is not None and exists and not self.layout.tells_equal and self.layout.alike(key, state, new):
            return _Outcome(None, "u", group, id, state.json, new)
        fields = None if new is None else self.layout.fields(key, state, new)
        kind = "d" if new is None else "u" if exists else "c"
        expires = 0
        if new is not None:
            expires = state.expires if write.kind == "update" else 0
            if write.ttl is not None:
                expires = self.now + max(1, round(write.ttl * 1_000_000))
        number = self._tell(work, Told(kind, group, id, None, expires, state.json if new is None else new))
        work.after[key] = NOTHING if new is None else State(f"#{number}", new, expires, None, fields)
        work.last[key] = number
        return _Outcome(number, kind, group, id, state.json, new)

    def _tell(self, work: _Work, change: Told) -> int:
        work.changes.append(change)
        work.size += change.size
        return len(self.changes) + len(work.changes) - 1

    def _state(self, key: Key, work: _Work) -> State:
        return work.after.get(key) or self.after.get(key) or self.before[key]

    def _expire(self, key: Key, state: State, work: _Work) -> None:
        work.last[key] = self._tell(work, Told("d", *key, None, 0, state.json))
        work.after[key] = NOTHING

    @property
    def logged(self) -> list[Told]:
        """The changes that go to the log."""
        return self.changes if self.layout.keeps_log else [change for change in self.changes if change.type == "e"]

    def messages(self, head: Entry | None) -> list[Any]:
        """The commit. The log's documents come first; then items, as far as they change; then deadlines."""
        messages = []
        if self.logged:
            assert head is not None
            self.entries = chain(head, self.logged, self.now)
            messages.append(untouched(self.paths.entry(head.seq), head.updated))
            messages += [stored(self.paths.entry(e.seq), entry_fields(e), fresh=True) for e in self.entries]
        places = self._places()
        for key, state in self.after.items():
            before = self.before[key]
            version = places[self._last[key]].position if self.layout.keeps_log else None
            self.after[key] = state = state._replace(version=version) if state.json is not None else state
            if state.json is not None or before.updated is not None:
                messages.append(self.layout.message(key, before, state, self.now))
        for key, state in self.after.items():
            if state.expires != self.before[key].expires:
                messages.append(self.layout.deadline(key, state.expires))
        return messages + self._witnesses()

    def _witnesses(self) -> list[Any]:
        """Without a log that proves it: items that a batch has looked at and not changed must still be as they were."""
        seen: dict[Key, None] = {}
        for unit, outcomes in self.done if not self.layout.keeps_log else ():
            if any(outcome is not None and outcome.number is not None for outcome in outcomes):
                seen |= dict.fromkeys(key for key in unit.keys if key not in self.after)
        return [unchanged(self.layout.name(key), self.before[key].updated) for key in seen]

    def finish(self, reply: Any) -> Entry | None:
        """Learn from the reply what the documents' times are; the log's new head, if it has one."""
        self.commit_time = micros(reply.commit_time)
        results = list(reply.write_results)
        at = 1 + len(self.entries) if self.entries else 0
        for key, state in list(self.after.items()):
            if state.json is not None:
                updated = results[at].update_time
                version = state.version or version_at(updated)
                self.after[key] = state._replace(version=version, updated=updated)
            at += state.json is not None or self.before[key].updated is not None
        if not self.entries:
            return None
        return replace(self.entries[-1], updated=results[len(self.entries)].update_time)

    def results(self) -> list[tuple[Unit, list[WriteResult | None]]]:
        """What each unit's writes did."""
        places = self._places()
        times = [e.time_of(i) for e in self.entries for i in range(1, len(e.changes) + 1)]
        left = {} if self.layout.keeps_log else self._left()

        def result(outcome: _Outcome | None) -> WriteResult | None:
            if outcome is None:
                return None
            key = (outcome.group, outcome.id or "")
            if outcome.number is None:
                state, time = self.before[key], micros(self.before[key].updated)
                version, position = state.version or "", self.layout.position(time, name=self.layout.name(key))
                timestamp = time / 1000
            elif self.layout.keeps_log:
                position = version = places[outcome.number].position
                timestamp = times[outcome.number]
            else:
                behind = left[outcome.number]
                name = "" if outcome.type == "e" else self.layout.name(key)
                position = self.layout.position(self.commit_time, behind, name)
                version, timestamp = f"{self.commit_time:016x}", self.commit_time / 1000 - behind / STEPS
            if outcome.type == "e":
                version = ""
            type = _TYPES[outcome.type]
            return WriteResult(type, outcome.group, outcome.id, outcome.old, outcome.new, version, position, timestamp)

        return [(unit, [result(outcome) for outcome in outcomes]) for unit, outcomes in self.done]

    def _places(self) -> list[Place]:
        return [entry.place(index) for entry in self.entries for index in range(1, len(entry.changes) + 1)]

    def _left(self) -> dict[int, int]:
        """Where times are the order: how many changes of the commit come behind each, as every reader sees it."""
        order = sorted(range(len(self.changes)), key=lambda number: self._rank(self.changes[number], number))
        return {number: len(order) - 1 - at for at, number in enumerate(order)}

    def _rank(self, change: Told, number: int) -> tuple[bool, str, int]:
        """Items come by the names of their documents, then events as they were sent."""
        if change.type == "e":
            return (True, "", number)
        return (False, self.layout.rank(self.layout.name((change.group, change.id or ""))), 0)
