"""One stream on the user's own documents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from motia_adapters.firestore.connection import Connection, LostRace
from motia_adapters.firestore.history import Entry, new_mark
from motia_adapters.firestore.listener import Listener
from motia_adapters.firestore.log import Log
from motia_adapters.firestore.mapped.layout import LAST, MappedLayout
from motia_adapters.firestore.mapped.states import HOUR, LAG, States, events_of, state_change
from motia_adapters.firestore.mapped.template import Template
from motia_adapters.firestore.names import Paths
from motia_adapters.firestore.wire import GREATER, GREATER_OR_EQUAL, LESS, micros, query_of, stored, timestamp
from motia_adapters.firestore.writer import Writer
from motia_core.adapter import Retention
from motia_core.errors import PositionExpired
from motia_core.model import Batch, Change, Item, Snapshot, StreamSpec, Write, WriteResult

PAGE_ITEMS = 500
"""Documents in one page, at most."""
GRACE = 600
"""Seconds by which a floor is told higher than what Firestore remembers, so that it can be started from."""
PAGE_EVENTS = 100
"""Entries of the log of events that are read at once, at most."""


class Events:
    """The log of custom events, which the user's documents have no place for."""

    def __init__(self, connection: Connection, paths: Paths, log: Log) -> None:
        self._connection = connection
        self._paths = paths
        self._log = log

    async def newest_seq(self, at: Any) -> int:
        """The number of the last entry at that time; -1: there is none."""
        entry, _ = await self._log.newest(at)
        return -1 if entry is None else entry.seq

    async def entries_after(self, seq: int, at: Any) -> list[Entry]:
        """The entries behind a number, as of that time. One billed read at least."""
        return await self._log.behind(seq, at)

    async def entries_since(self, time: int, at: Any) -> list[Entry] | None:
        """The entries that were committed after ``time`` (µs); ``None``: some of them may have been trimmed."""
        found: list[Entry] = []
        below: int | None = None
        while True:
            page = await self._log.before(below, at, PAGE_EVENTS)
            for entry in page:
                if micros(entry.updated) <= time:
                    return found[::-1]
                found.append(entry)
            if len(page) < PAGE_EVENTS:
                return None if found and found[-1].seq > 0 else found[::-1]
            below = page[-1].seq


class MappedStream:
    """What the adapter does for the stream that maps the user's documents."""

    def __init__(
        self,
        connection: Connection,
        paths: Paths,
        stream: StreamSpec,
        template: Template,
        retention: Retention,
        poll: float,
    ) -> None:
        self.stream = stream
        self._connection = connection
        self._paths = paths
        self._retention = retention
        self._poll = poll
        self._layout = MappedLayout(template, connection.documents)
        self._log = Log(connection, paths, stream.name)
        self._events = Events(connection, paths, self._log)
        self._listener = Listener(connection)
        self._states = States(connection, self._listener, self._layout, self._events, stream.name)
        self.writer = Writer(connection, paths, self._layout, self._log, stream.name)
        self.writer.on_commit = self._states.wrote
        self._states.committing = self.writer.committing
        self._floor = ""
        self._floor_time = 0
        self._closed = False

    @property
    def outside(self) -> int:
        """Documents at the template's path whose group or id no item may have, as far as they were seen."""
        return len(self._states.outside)

    async def prepare(self) -> None:
        """Give this history an identity, if it has none."""
        await self._identify()

    async def close(self) -> None:
        """Finish what was asked for, and end watches."""
        self._closed = True
        await self.writer.close()
        await self._states.close()
        await self._listener.close()

    async def write(self, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        """Do all writes in one commit. Raises `InvalidName` for ids that Firestore refuses."""
        for write in writes:
            self._check(write.group, write.id)
        return await self.writer.write(writes)

    async def get(self, group: str, id: str) -> Item | None:
        """The item. One billed read."""
        self._check(group, id)
        (document,), _ = await self._connection.get([self._layout.name((group, id))])
        self._states.showed([document] if document else [])
        return None if document is None else self._layout.item(document)

    async def list_items(self, group: str, after: str | None, limit: int | None) -> Sequence[Item]:
        """A group's items in the order of their ids. A read is billed for each."""
        self._check(group, None)
        return await self._list(group, after, limit, None)

    async def list_groups(self, after: str | None, limit: int | None) -> Sequence[str]:
        """Groups that have items, in order. A read is billed for each group, and for some items of small groups."""
        template, documents = self._layout.template, self._layout.documents
        groups: list[str] = []
        cursor, at, size = template.start(after), None, 20
        end = ("__name__", LESS, f"{documents}/{template.end()}")
        while limit is None or len(groups) < limit:
            where = [("__name__", GREATER_OR_EQUAL, f"{documents}/{cursor}"), end]
            query = query_of(template.collection, "__name__", where=where, limit=size, below=True, names_only=True)
            found, at = await self._connection.query(documents, query, at)
            keys = [key for document in found if (key := self._layout.key(document.name))]
            new = dict.fromkeys(group for group, _ in keys)
            groups += new
            if len(found) < size:
                break
            last = template.keys(found[-1].name[len(documents) + 1 :])
            cursor = template.start(last[0]) if last else found[-1].name[len(documents) + 1 :] + "\x01"
            size = min(300, size * 2) if len(new) > size // 4 else max(2, size // 4)
        return groups if limit is None else groups[:limit]

    async def snapshot(self, group: str, id: str | None, limit: int | None) -> Snapshot:
        """Items and the position up to which they are true: the time at which they were read."""
        self._check(group, id)
        await self._states.start()
        at = await self._identify()
        if self._connection.options.emulator:
            await asyncio.sleep(LAG)
        if id is None:
            items = await self._list(group, None, limit, at)
        else:
            (document,), _ = await self._connection.get([self._layout.name((group, id))], at)
            self._states.showed([document] if document else [])
            item = None if document is None else self._layout.item(document)
            items = [item] if item else []
        time = micros(at)
        self._states.want(time)
        return Snapshot(tuple(items), self._layout.position(time, LAST), time / 1000)

    async def head(self) -> str:
        """The position of now. One billed read."""
        await self._states.start()
        time = micros(await self._identify())
        self._states.want(time)
        return self._layout.position(time, LAST)

    async def floor(self) -> str:
        """The oldest position that a watch can start from."""
        await self._states.start()
        self._move_floor()
        return self._floor

    async def watch(self, after: str) -> AsyncGenerator[Batch, None]:
        """Yield what items have become after a position, whenever the listener tells of it."""
        await self._states.start()
        time = await self._check_position(after)
        with self._states.ringing() as bell:
            if time < self._states.since:
                changes, position = await self._compare(after, time)
            else:
                changes, position = [], after
            yield Batch(tuple(changes), position)
            while not self._closed:
                bell.clear()
                new = self._states.kept_after(position)
                now = max(position, self._layout.position(self._states.time, LAST))
                if now > position:
                    if position < self._floor and self._layout.position(self._states.since, 0) > position:
                        raise self._expired(position, "lies before what this process has kept")
                    position = now
                    yield Batch(tuple(new), position)
                    continue
                try:
                    async with asyncio.timeout(self._poll):
                        await bell.wait()
                except TimeoutError:
                    await self._check_position(position)
                    self._states.ask()

    def trim(self) -> None:
        """Move the floor to what retention covers."""
        if self._states.time:
            self._move_floor()

    # -- inside ------------------------------------------------------------------------

    async def _identify(self) -> Any:
        """See that this history is the one we know; the server's time. One billed read."""
        name = f"{self._paths.stream}/mapped/history"
        while True:
            (document,), at = await self._connection.get([name])
            if document is not None:
                self._layout.identity = document.fields["mark"].string_value
                return at
            try:
                await self._connection.commit([stored(name, {"mark": new_mark()}, fresh=True)])
            except LostRace:  # another process gave it one
                continue

    async def _check_position(self, position: str) -> int:
        """The time of a position (µs). Raises `PositionExpired`."""
        now = micros(await self._identify())
        text, identity = position[:16], position[19:]
        try:
            time, fits = int(text, 16), position == f"{int(text, 16):016x}{int(position[16:19], 16):03x}{identity}"
        except ValueError:
            time, fits = 0, False
        if not fits or identity != self._layout.identity or time > now:
            raise self._expired(position, "is none of this database's history")
        if self._floor[19:] != identity:
            self._move_floor()
        if position < self._floor or time < now - HOUR * 1_000_000:
            raise self._expired(position, "is too long ago: Firestore remembers an hour, retention may be shorter")
        return time

    def _expired(self, position: str, reason: str) -> PositionExpired:
        self._move_floor()
        return PositionExpired(
            f"firestore: position {position[:64]!r} of stream {self.stream.name!r} {reason}",
            position=position,
            floor=self._floor,
        )

    def _move_floor(self) -> None:
        """The floor never goes back, except to another history.

        What time takes it moves by a tenth of it at once: a floor that moved all the time could never be started from.
        """
        now = self._connection.now()
        age = round(min(HOUR - GRACE, self._retention.age or HOUR) * 1_000_000)
        if self._floor[19:] != self._layout.identity or now - age - self._floor_time >= age // 10:
            self._floor_time = now - age
        floor = self._layout.position(self._floor_time, LAST)
        if self._retention.count is not None:
            floor = max(floor, self._states.nth_last(self._retention.count) or "")
        if self._floor[19:] != self._layout.identity or floor > self._floor:
            self._floor = floor

    async def _compare(self, after: str, time: int) -> tuple[list[Change], str]:
        """What is different between a time before we listened, and as far as we have listened."""
        states = self._states
        at = timestamp(time)
        old = {document.name: document async for document in states.documents_at(at)}
        until = states.time
        known = dict(states.known)
        new = [name for name, updated in known.items() if updated > time]
        told = []
        for start in range(0, len(new), 300):
            part = new[start : start + 300]
            documents, _ = await self._connection.get(part, timestamp(until))
            for name, document in zip(part, documents, strict=True):
                if document is not None and (key := self._layout.key(name)):
                    was = name in old or micros(document.create_time) <= time
                    kind: Any = "update" if was else "create"
                    json = self._layout.json(document)
                    told.append(state_change(micros(document.update_time), name, kind, key, json))
        kept = {
            self._layout.name((change.group_id, change.id)): change
            for change in states.kept_after(after)
            if change.type == "delete" and change.id is not None
        }
        past = {name: note for name, note in states.past.items() if note.deleted and note.time > time}
        for name in {*old, *kept, *past} - known.keys():
            key = self._layout.key(name) or ("", "")
            if name in kept:
                gone, json = int(kept[name].position[:16], 16), kept[name].json or b"{}"
            elif name in past:
                gone, json = past[name].time, past[name].json
            else:
                gone, json = until, self._layout.json(old[name])
            told.append(state_change(gone, name, "delete", key, json))
        entries = await self._events.entries_since(time, timestamp(until))
        if entries is None:
            raise self._expired(after, "is followed by custom events that are gone")
        changes = [change for change in states.placed([*told, *events_of(entries)]) if change.position > after]
        return changes, self._layout.position(until, LAST)

    async def _list(self, group: str, after: str | None, limit: int | None, at: Any) -> list[Item]:
        template, documents = self._layout.template, self._layout.documents
        parent = template.parent(group)
        items: list[Item] = []
        cursor = None if after is None else self._layout.name((group, after))
        while limit is None or len(items) < limit:
            size = PAGE_ITEMS if limit is None else min(PAGE_ITEMS, limit - len(items))
            where = [] if cursor is None else [("__name__", GREATER, cursor)]
            query = query_of(template.collection, "__name__", where=where, limit=size)
            found, read_time = await self._connection.query(f"{documents}/{parent}", query, at)
            at = at or read_time
            self._states.showed(found)
            items += [item for document in found if (item := self._layout.item(document))]
            if len(found) < size:
                break
            cursor = found[-1].name
        return items

    def _check(self, group: str, id: str | None) -> None:
        self._layout.template.check(group, "group")
        if id is not None:
            self._layout.template.check(id, "id")
