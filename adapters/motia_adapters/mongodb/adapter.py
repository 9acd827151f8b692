"""Managed storage in MongoDB: an item is a document, the oplog is the log, a change stream reads it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from motia_adapters.mongodb import documents, reads
from motia_adapters.mongodb.capabilities import MANAGED, MAPPED
from motia_adapters.mongodb.diagnosis import check_server, diagnose, oplog_reach
from motia_adapters.mongodb.documents import Lost, Told
from motia_adapters.mongodb.history import History
from motia_adapters.mongodb.link import Link
from motia_adapters.mongodb.mapped import groups as mapped_groups
from motia_adapters.mongodb.mapped import reads as mapped_reads
from motia_adapters.mongodb.mapped.mapping import Collection
from motia_adapters.mongodb.mapped.writes import MappedWriter
from motia_adapters.mongodb.options import MongoOptions
from motia_adapters.mongodb.places import Place
from motia_adapters.mongodb.rooms import Room, Rooms
from motia_adapters.mongodb.tail import RESETS, Inbox, Page, Placed, Reader, Tail, as_change
from motia_adapters.mongodb.upkeep import ENDINGS, PURGES, Upkeep, end_abandoned, purge, sweep
from motia_adapters.mongodb.writer import Writer
from motia_core.adapter import Adapter, Capabilities, Finding, StorageSettings
from motia_core.errors import PositionExpired, UnsupportedCapability
from motia_core.model import Batch, Change, Item, Snapshot, StreamSpec, Write, WriteResult

CATCHING_UP = 0.001
"""Seconds that a change stream which catches up waits for more: it reads what is there."""


class MongoAdapter(Adapter):
    """One database of a replica set, as this process uses it."""

    def __init__(self, settings: StorageSettings, options: MongoOptions) -> None:
        super().__init__(settings)
        self._options = options
        self._link = Link(options, settings.timeout, settings.name)
        self._mapping = None if options.mapped is None else Collection(options.mapped)
        self._rooms = Rooms(self._link, settings.namespace, self._mapping)
        self._history = History(self._link, self._rooms, settings.retention)
        self._writers: dict[str, Writer] = {}
        # Managed collections keep no images: for them these options cost nothing and give nothing.
        images = {"fullDocument": "whenAvailable", "fullDocumentBeforeChange": "whenAvailable"}
        self._images: dict[str, Any] = {} if self._mapping is None else images
        self._tail = Tail(self._reader, self._images, self._reset)
        self._upkeep = Upkeep(self._look)
        self._changing = asyncio.Lock()

    @property
    def address(self) -> str:
        """Servers and database, without user and password."""
        return self._link.address

    def capabilities(self, stream: StreamSpec) -> Capabilities:
        """Those of managed storage, or of the mapped collection."""
        return MANAGED if self._mapping is None or stream.hidden else MAPPED

    async def open(self) -> None:
        """Connect. Raises `BackendUnavailable`, or `BackendError` for a server without a replica set."""
        async with self._changing:
            if self._link.is_open:
                return
            self._rooms.check()
            await self._link.open()
            try:
                await check_server(self._link, mapped=self._mapping is not None)
            except BaseException:
                await self._link.close()
                raise
            self._upkeep.start()

    async def close(self) -> None:
        """Finish what was asked for, end watches and connections."""
        async with self._changing:
            await self._upkeep.close()
            if self._link.is_open:
                await asyncio.gather(*(writer.close() for writer in self._writers.values()))
            await self._tail.close()
            self._writers.clear()
            self._rooms.forget()
            await self._link.close()

    async def prepare(self, stream: StreamSpec) -> None:
        """Make the stream's collection and its indexes."""
        await self._rooms.of(stream)

    async def write(self, stream: StreamSpec, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        """Do all writes, one in a command of its own, several in a transaction."""
        return await self._writer(stream).write(writes)

    async def get(self, stream: StreamSpec, group: str, id: str) -> Item | None:
        """The item, or ``None``."""
        room = await self._room(stream)
        if self._mapping is not None and not stream.hidden:
            return await mapped_reads.get(self._link, self._mapping, group, id)
        return await reads.get(self._link, room, group, id)

    async def list(self, stream: StreamSpec, group: str, *, after: str | None, limit: int | None) -> Sequence[Item]:
        """A group's items in the order of their ids."""
        room = await self._room(stream)
        if self._mapping is not None and not stream.hidden:
            return await mapped_reads.list_items(self._link, self._mapping, group, after, limit)
        return await reads.list_items(self._link, room, group, after, limit)

    async def list_groups(self, stream: StreamSpec, *, after: str | None, limit: int | None) -> Sequence[str]:
        """Groups that have items, in order; those that have expired are removed first."""
        room = await self._room(stream)
        if self._mapping is not None and not stream.hidden:
            return await mapped_groups.list_groups(self._link, self._mapping, after, limit)
        await sweep(self._link, room, self._writer(stream))
        return await reads.list_groups(self._link, room, after, limit)

    async def snapshot(self, stream: StreamSpec, group: str, id: str | None, *, limit: int | None) -> Snapshot:
        """Items at one cluster time."""
        room = await self._room(stream)
        if self._mapping is not None and not stream.hidden:
            return await mapped_reads.snapshot(self._link, self._history, self._mapping, room, group, id, limit)
        return await reads.snapshot(self._link, self._history, room, group, id, limit)

    async def head(self, stream: StreamSpec) -> str:
        """Behind all that a majority of the replica set has."""
        return await self._history.head(await self._room(stream))

    async def floor(self, stream: StreamSpec) -> str:
        """The oldest position that a watch of the stream can start from."""
        return await self._history.floor(await self._room(stream))

    async def watch(self, stream: StreamSpec, after: str) -> AsyncGenerator[Batch, None]:
        """Yield the stream's changes after a position: what is missing first, then what the tail delivers."""
        if not stream.log:
            raise UnsupportedCapability(f"stream {stream.name!r} keeps no log: it cannot be watched")
        room = await self._room(stream)
        place = await self._history.check(room, after)
        inbox = Inbox(stream.name)
        begun = False
        try:
            while True:
                joined = await self._tail.attach(inbox, self._history.now)
                async for page in self._catch_up(room, place, joined):
                    batch, place, lost = _batch(room, page.changes.get(room.stream, ()), place, page.place)
                    if batch.changes or not begun or page.whole:
                        begun = True
                        yield batch
                    if lost is not None:
                        raise lost
                while not inbox.behind:
                    await inbox.bell.wait()
                    inbox.bell.clear()
                    if inbox.error is not None:
                        raise inbox.error
                    reached = self._tail.place
                    waiting = list(inbox.changes)
                    inbox.changes.clear()
                    if reached is None or inbox.behind:
                        continue
                    before = place
                    batch, place, lost = _batch(room, waiting, place, reached)
                    if place > before:
                        yield batch
                    if lost is not None:
                        raise lost
                self._tail.detach(inbox)
                inbox = Inbox(stream.name)
        finally:
            self._tail.detach(inbox)

    async def begin_history(self, stream: StreamSpec) -> None:
        """Begin a new history: all positions expire. For a store that was restored within a second, or unseen."""
        await self._history.begin(await self._room(stream))

    async def history_reach(self, stream: StreamSpec) -> float | None:
        """How far the oplog reaches back, once it has dropped its first entries."""
        self._link.check_open()
        return await oplog_reach(self._link)

    async def diagnose(self) -> Sequence[Finding]:
        """The replica set, its version, its oplog and permissions."""
        self._link.check_open()
        return await diagnose(self._link, self._mapping)

    # -- inside ----------------------------------------------------------------------------

    async def _room(self, stream: StreamSpec) -> Room:
        self._link.check_open()
        return await self._rooms.of(stream)

    def _writer(self, stream: StreamSpec) -> Writer:
        self._link.check_open()
        writer = self._writers.get(stream.name)
        if writer is None:
            if self._mapping is not None and self._rooms.is_mapped(stream):
                writer = MappedWriter(self._link, self._rooms, self._history, stream).of(self._mapping)
            else:
                writer = Writer(self._link, self._rooms, self._history, stream)
            self._writers[stream.name] = writer
        return writer

    def _reader(self, *collections: str) -> Reader:
        """Of these collections, or of all that are watched."""
        names: Any = {"$in": list(collections)} if collections else {"$regex": self._rooms.pattern}
        kinds: Any = {"$in": ["insert", "update", "replace", *RESETS]}
        ours = [
            {"ns.coll": names},
            {"to.coll": names},  # renamed onto it
            {"ns.coll": self._rooms.events},
            {"operationType": {"$in": ["dropDatabase", "invalidate"]}},
        ]
        if self._mapping is not None:
            kinds = {"$in": ["insert", "update", "replace", "delete", *RESETS]}
            ours += [{"ns.coll": self._mapping.collection}, {"to.coll": self._mapping.collection}]
        pipeline: list[Mapping[str, Any]] = [{"$match": {"operationType": kinds, "$or": ours}}]
        if self._mapping is not None:
            pipeline += mapped_reads.trimming(self._mapping)
        return Reader(self._link, pipeline, self._translate)

    def _translate(self, event: Mapping[str, Any]) -> tuple[str, Iterable[Told | Lost]] | None:
        collection = event["ns"]["coll"]
        if collection == self._rooms.events:
            if event["operationType"] != "insert":
                return None
            document = event["fullDocument"]
            return document["s"], (documents.custom_event(document),)
        stream = self._rooms.stream_of(collection)
        if stream is None:
            return None
        if self._mapping is not None and collection == self._mapping.collection:
            return stream, mapped_reads.changes(self._mapping, event)
        return stream, documents.changes(event)

    async def _catch_up(self, room: Room, place: Place, joined: Place) -> AsyncGenerator[Page, None]:
        """What lies between a place and the one that the tail had reached, and a little more."""
        async with aclosing(self._reader(room.collection).pages(place.time, self._images, CATCHING_UP)) as pages:
            async for page in pages:
                if room.collection in page.resets or None in page.resets:
                    self._rooms.forget(room.stream)
                    self._tail.lost(room.stream)
                    await self._history.check(
                        await self._rooms.of(StreamSpec(room.stream)), place.position(room.identity)
                    )
                yield page
                if page.whole and page.place >= joined:
                    return

    def _reset(self, collection: str | None) -> str | None:
        """A collection was dropped, or renamed from or to this name, or all of them. Its stream; ``None``: all."""
        stream = self._rooms.stream_of(collection) if collection is not None else None
        if stream is None and collection not in (None, self._rooms.events):
            return ""  # the other name of one of ours
        self._rooms.forget(stream)
        return stream

    async def _look(self, turn: int) -> None:
        """Once a second."""
        if turn % ENDINGS == 0:  # first: what follows may have to wait for them
            await end_abandoned(self._link)
        for stream in await self._rooms.look():
            self._tail.lost(stream)
        await self._history.trim()
        for room in self._rooms.all():
            writer = self._writers.get(room.stream)
            if isinstance(writer, MappedWriter):
                continue
            if writer is not None:
                await sweep(self._link, room, writer)
            if turn % PURGES == 0:
                await purge(self._link, room)


def _batch(
    room: Room, waiting: Iterable[Placed], place: Place, reached: Place
) -> tuple[Batch, Place, PositionExpired | None]:
    """The changes after a place as a batch, the place then, and why what follows cannot be told, if so."""
    changes: list[Change] = []
    for at, told in waiting:
        if at <= place:
            continue
        if isinstance(told, Lost):
            said = f"mongodb: stream {room.stream!r}: {told.why}"
            start, end = place.position(room.identity), at.position(room.identity)
            return Batch(tuple(changes), start), place, PositionExpired(said, position=start, floor=end)
        place = at
        changes.append(as_change(room.stream, room.identity, at, told))
    place = max(place, reached)
    return Batch(tuple(changes), place.position(room.identity)), place, None
