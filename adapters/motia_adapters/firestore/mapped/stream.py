"""One stream on the user's own documents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from motia_adapters.firestore.connection import Connection
from motia_adapters.firestore.listener import Listener
from motia_adapters.firestore.log import Log
from motia_adapters.firestore.mapped.changes import portions
from motia_adapters.firestore.mapped.comparison import Comparison
from motia_adapters.firestore.mapped.departures import REACH
from motia_adapters.firestore.mapped.documents import Documents
from motia_adapters.firestore.mapped.events import Events
from motia_adapters.firestore.mapped.layout import MappedLayout
from motia_adapters.firestore.mapped.places import Places
from motia_adapters.firestore.mapped.states import LAG, States
from motia_adapters.firestore.mapped.template import Template
from motia_adapters.firestore.names import Paths
from motia_adapters.firestore.rounds import Round
from motia_adapters.firestore.wire import micros
from motia_adapters.firestore.writer import Writer
from motia_core.adapter import Retention
from motia_core.model import Batch, Change, Item, Snapshot, StreamSpec, Write, WriteResult

LONGEST_QUIET = 300.0
"""Seconds between two looks, at most, whatever ``poll`` says."""
SELDOM = 600.0
"""Seconds between looks for custom events that are too old."""


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
        # A quiet stream's position must not grow as old as what cannot be gone on from.
        self._look = min(poll, LONGEST_QUIET, (retention.age or REACH) / 4)
        self._layout = MappedLayout(template, connection.documents, f"{paths.stream}/mapped/history")
        log = Log(connection, paths, stream.name)
        self._events = Events(connection, log, paths)
        self._listener = Listener(connection)
        self._states = States(connection, self._listener, self._layout, self._events, stream.name)
        self._documents = Documents(connection, self._layout, self._states.showed)
        self._places = Places(connection, self._layout, self._states, retention, stream.name)
        self._comparison = Comparison(
            connection, self._layout, self._documents, self._events, self._states, self._places, stream.name
        )
        self._writer = Writer(connection, paths, self._layout, log, stream.name)
        self._writer.on_commit = self._wrote
        self._states.committing = self._writer.committing
        self._closed = False
        self._has_sent = False
        self._trimmed = asyncio.get_running_loop().time()

    @property
    def outside(self) -> int:
        """Documents at the template's path whose group or id no item may have, as far as they were seen."""
        return self._states.outside

    async def prepare(self) -> None:
        """Give this history an identity, if it has none."""
        await self._places.now()

    async def close(self) -> None:
        """Finish what was asked for, and end watches."""
        self._closed = True
        await self._writer.close()
        await self._states.close()
        await self._listener.close()

    async def write(self, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        """Do all writes in one commit. Raises `InvalidName` for ids that Firestore refuses."""
        for write in writes:
            self._check(write.group, write.id)
        return await self._writer.write(writes)

    async def get(self, group: str, id: str) -> Item | None:
        """The item. One billed read."""
        self._check(group, id)
        return await self._documents.get(group, id)

    async def list_items(self, group: str, after: str | None, limit: int | None) -> Sequence[Item]:
        """A group's items in the order of their ids. A read is billed for each."""
        self._check(group, None)
        return await self._documents.list_items(group, after, limit)

    async def list_groups(self, after: str | None, limit: int | None) -> Sequence[str]:
        """Groups that have items, in order. A read is billed for each group, and for some items of small groups."""
        return await self._documents.list_groups(after, limit)

    async def snapshot(self, group: str, id: str | None, limit: int | None) -> Snapshot:
        """Items and the position up to which they are true: the time at which they were read."""
        self._check(group, id)
        await self._states.start()
        while True:
            late = self._states.notes.late
            at = await self._places.now()
            if self._connection.is_emulated:
                await asyncio.sleep(LAG)
            if id is None:
                items = await self._documents.list_items(group, None, limit, at)
            else:
                item = await self._documents.get(group, id, at)
                items = [item] if item else []
            names = [self._layout.name((item.group, item.id)) for item in items]
            if late == self._states.notes.late and not self._states.passed_over(names, micros(at)):
                break  # else what it shows may have gone without a word: it is read again
        time = micros(at)
        self._states.want(time)
        return Snapshot(tuple(items), self._layout.position(time), time / 1000)

    async def head(self) -> str:
        """The position of now. One billed read."""
        await self._states.start()
        time = micros(await self._places.now())
        self._states.want(time)
        return self._layout.position(time)

    async def floor(self) -> str:
        """The oldest position that a watch can start from."""
        await self._states.start()
        return self._places.floor

    async def watch(self, after: str, *, elsewhere: bool = False) -> AsyncGenerator[Batch, None]:
        """Yield what items have become after a position, whenever the listener tells of it.

        ``elsewhere``: whoever stands there may have documents of which this process never told. A read is billed
        for each document that there was.
        """
        await self._states.start()
        kept = self._states.kept
        with kept.ringing() as bell:
            if elsewhere:
                batch = await self._compare(after)
            elif after < kept.since:
                batch = await self._leap(after)
            else:
                await self._places.check(after)
                batch = Batch((), after)
            yield batch
            position = batch.position
            while not self._closed:
                bell.clear()
                if not self._layout.is_ours(position):
                    await self._places.check_history(position)
                now = self._layout.position(self._states.time)
                if position < kept.since:  # whoever reads this was too slow
                    batch = await self._leap(position)
                    position = batch.position
                    yield batch
                    continue
                if now > position:
                    new = kept.after(position)
                    position = now
                    for part in _parts(new, now):
                        yield part
                    continue
                if not await _rings(bell, self._look):
                    await self._places.check_history(position)
                    if (error := self._states.error) is not None:
                        raise error
                    self._states.ask()

    async def trim(self) -> None:
        """Move the floor to what retention covers; remove old custom events, if this process sends any."""
        if self._states.time:
            _ = self._places.floor
        now = asyncio.get_running_loop().time()
        if self._has_sent and now - self._trimmed > SELDOM:
            self._has_sent, self._trimmed = False, now
            await self._events.trim(self._connection.now())

    # -- inside ------------------------------------------------------------------------

    async def _compare(self, after: str) -> Batch:
        """All that is different from a position, up to one that what is kept goes on from."""
        place = await self._places.check(after)
        await self._states.reach(place.time)
        changes, position = await self._comparison.since(after, place)
        return Batch(tuple(changes), position)

    async def _leap(self, after: str) -> Batch:
        """As `_compare`, and what this process showed in between is not kept any more."""
        return replace(await self._compare(after), leaps=True)

    def _wrote(self, round: Round) -> None:
        self._has_sent = self._has_sent or bool(round.entries)
        self._states.notes.wrote(round)
        self._states.want(round.commit_time)

    def _check(self, group: str, id: str | None) -> None:
        self._layout.template.check(group, "group")
        if id is not None:
            self._layout.template.check(id, "id")


async def _rings(bell: asyncio.Event, seconds: float) -> bool:
    """Whether it rings within so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            return await bell.wait()
    except TimeoutError:
        return False


def _parts(changes: Sequence[Change], position: str) -> list[Batch]:
    """Batches that tell of no item twice; the last one ends at a position."""
    parts = list(portions(changes))
    ends = [part[-1].position for part in parts[:-1]] + [position]
    return [Batch(tuple(part), end) for part, end in zip(parts, ends, strict=True)]
