"""Working out one commit: what several calls of `write` do, one after the other, to what is known to be stored."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from motia_adapters.firestore.history import Entry, Told, chain, entry_fields
from motia_adapters.firestore.items import NOTHING, Key, State, fields_of, version_at
from motia_adapters.firestore.names import Paths
from motia_adapters.firestore.wire import removed, stored, untouched
from motia_core.errors import MotiaError
from motia_core.model import ChangeType, Write, WriteResult

MAX_BYTES = 4_000_000
"""Bytes of the log after which a commit takes no more calls."""
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

    @property
    def keys(self) -> list[Key]:
        """The items that it is about."""
        written = [(w.group, w.id) for w in self.writes if w.id is not None and w.kind != "event"]
        return [*written, *self.sweep]


@dataclass(slots=True)
class _Outcome:
    """What a write will have done: the number of its change in the commit, and the values."""

    told: int
    type: str
    group: str
    id: str | None
    old: bytes | None
    new: bytes | None


@dataclass(slots=True)
class Round:
    """One commit in the making."""

    paths: Paths
    before: dict[Key, State]
    """What is stored of each item that the units name."""
    now: int
    """The server's clock, µs."""
    log: bool
    changes: list[Told] = field(default_factory=list)
    after: dict[Key, State] = field(default_factory=dict)
    """What will be stored; the versions come when the order is known."""
    done: list[tuple[Unit, list[_Outcome | None]]] = field(default_factory=list)
    failed: list[tuple[Unit, MotiaError]] = field(default_factory=list)
    left: list[Unit] = field(default_factory=list)
    """Units for which there was no room."""
    entries: list[Entry] = field(default_factory=list)
    _last: dict[Key, int] = field(default_factory=dict)
    _size: int = 0

    def take(self, units: Sequence[Unit]) -> None:
        """Work out what the units do, in their order; each succeeds or fails alone."""
        for at, unit in enumerate(units):
            if self.done and (self._size > MAX_BYTES or unit.sweep or self.done[-1][0].sweep):
                self.left = list(units[at:])
                return
            self._take(unit)

    def _take(self, unit: Unit) -> None:
        changes, after, last = list[Told](), dict[Key, State](), dict[Key, int]()
        outcomes: list[_Outcome | None] = []
        try:
            for write in unit.writes:
                outcomes.append(self._write(write, changes, after, last))
        except MotiaError as error:
            self.failed.append((unit, error))
            return
        for key in unit.sweep:
            state = self._state(key, after)
            if state.expires and state.expires <= self.now:
                self._expire(key, state, changes, after, last)
        self._size += sum(len(change.json or b"") + 64 for change in changes)
        self.changes += changes
        self.after.update(after)
        self._last.update(last)
        self.done.append((unit, outcomes))

    def _write(
        self, write: Write, changes: list[Told], after: dict[Key, State], last: dict[Key, int]
    ) -> _Outcome | None:
        group, id = write.group, write.id
        number = len(self.changes) + len(changes)
        if id is None or write.kind == "event":
            changes.append(Told("e", group, id, write.event_type, 0, write.json))
            return _Outcome(number, "e", group, id, None, None)
        key = (group, id)
        state = self._state(key, after)
        if state.expires and state.expires <= self.now:
            self._expire(key, state, changes, after, last)
            state, number = NOTHING, number + 1
        exists = state.json is not None
        write.check(state.version if exists else None)
        new = write.resolve(state.json)
        if new is None and not exists:
            return None
        kind = "d" if new is None else "u" if exists else "c"
        expires = 0
        if new is not None:
            expires = state.expires if write.kind == "update" else 0
            if write.ttl is not None:
                expires = self.now + max(1, round(write.ttl * 1_000_000))
        changes.append(Told(kind, group, id, None, expires, state.json if new is None else new))
        after[key] = NOTHING if new is None else State(f"#{number}", new, expires, None)
        last[key] = number
        return _Outcome(number, kind, group, id, state.json, new)

    def _state(self, key: Key, after: dict[Key, State]) -> State:
        return after.get(key) or self.after.get(key) or self.before[key]

    def _expire(
        self, key: Key, state: State, changes: list[Told], after: dict[Key, State], last: dict[Key, int]
    ) -> None:
        last[key] = len(self.changes) + len(changes)
        changes.append(Told("d", *key, None, 0, state.json))
        after[key] = NOTHING

    def messages(self, head: Entry | None) -> list[Any]:
        """The commit. The log's documents come first; then items, as far as they change; then deadlines."""
        messages = []
        if self.log:
            assert head is not None
            self.entries = chain(head, self.changes, self.now)
            messages.append(untouched(self.paths.entry(head.seq), head.updated))
            messages += [stored(self.paths.entry(e.seq), entry_fields(e), fresh=True) for e in self.entries]
        places = [entry.place(index) for entry in self.entries for index in range(1, len(entry.changes) + 1)]
        for key, state in self.after.items():
            before, name = self.before[key], self.paths.item(*key)
            if state.json is None:
                if before.updated is not None:
                    messages.append(removed(name, after=before.updated))
                continue
            version = places[self._last[key]].position if self.log else None
            self.after[key] = state = state._replace(version=version)
            fields = fields_of(*key, state, nonce=f"{self.now:x}")
            messages.append(stored(name, fields, after=before.updated, fresh=before.updated is None))
        for key, state in self.after.items():
            if state.expires != self.before[key].expires:
                name = self.paths.deadline(*key)
                fields = {"group": key[0], "id": key[1], "at": state.expires}
                messages.append(stored(name, fields) if state.expires else removed(name))
        return messages

    def finish(self, reply: Any) -> Entry | None:
        """Learn from the reply what the documents' times are; the log's new head."""
        results = list(reply.write_results)
        at = 1 + len(self.entries) if self.log else 0
        for key, state in list(self.after.items()):
            if state.json is None:
                at += self.before[key].updated is not None
                continue
            updated = results[at].update_time
            version = state.version or version_at(updated)
            self.after[key] = state._replace(version=version, updated=updated)
            at += 1
        if not self.entries:
            return None
        last = self.entries[-1]
        updated = results[len(self.entries)].update_time
        return Entry(last.seq, last.mark, last.prev, last.time, last.count, last.changes, updated)

    def results(self, reply_time: int) -> list[tuple[Unit, list[WriteResult | None]]]:
        """What each unit's writes did. ``reply_time`` (µs) is the commit's, for streams without a log."""
        places = [(e.place(i), e.time_of(i)) for e in self.entries for i in range(1, len(e.changes) + 1)]

        def result(outcome: _Outcome | None) -> WriteResult | None:
            if outcome is None:
                return None
            if self.log:
                place, timestamp = places[outcome.told]
                position = place.position
            else:
                position, timestamp = f"{reply_time:016x}", reply_time / 1000
            version = "" if outcome.type == "e" else position
            return WriteResult(
                _TYPES[outcome.type],
                outcome.group,
                outcome.id,
                outcome.old,
                outcome.new,
                version,
                position,
                timestamp,
            )

        return [(unit, [result(outcome) for outcome in outcomes]) for unit, outcomes in self.done]

