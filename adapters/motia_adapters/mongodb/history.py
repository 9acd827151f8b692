"""How far back positions are good, and whether one is this store's at all (B4)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from bson import Timestamp

from motia_adapters.mongodb.link import MAJORITY, READ_MAJORITY, Link
from motia_adapters.mongodb.places import Place, end, parse
from motia_adapters.mongodb.rooms import Room, Rooms
from motia_core.adapter import Retention
from motia_core.errors import BackendError, PositionExpired


@dataclass(slots=True)
class _Written:
    """Every ``step``-th position that this process wrote, oldest first."""

    count: int = 0
    places: list[str] = field(default_factory=list)


class History:
    """The oplog's reach, and the marks up to which retention has given history up."""

    def __init__(self, link: Link, rooms: Rooms, retention: Retention) -> None:
        self._link = link
        self._rooms = rooms
        self._retention = retention
        self._written: dict[str, _Written] = {}
        self._wanted: dict[str, str] = {}
        keep = retention.count
        self._step = max(1, (keep or 1) // 20)
        self.reads_oplog = True
        """Whether ``local.oplog.rs`` may be read."""

    async def head(self, room: Room) -> str:
        """Behind all that a majority has by now."""
        return end(await self.now()).position(room.identity)

    async def now(self) -> Timestamp:
        """The cluster time of the last operation that a majority has."""
        command = {"find": self._rooms.marks, "limit": 1, "singleBatch": True, "readConcern": READ_MAJORITY}
        return self._link.time_of(await self._link.run(command), write=False)

    async def floor(self, room: Room) -> str:
        """The oldest position that can still be read from."""
        mark, oldest = await asyncio.gather(self._mark(room), self._oplog({}, {"$natural": 1}))
        if oldest is None:
            return mark or await self.head(room)
        start = end(oldest).position(room.identity)
        age = self._retention.age
        if age is not None:
            last = await self._oplog({}, {"$natural": -1})
            if last is not None:
                # What is younger than the age may go too, within one second: cluster times have seconds.
                since = Timestamp(max(0, int(last.time - age)), 0)
                first = await self._oplog({"ts": {"$gte": since}}, {"$natural": 1})
                if first is not None and last.time - first.time <= age + 1:
                    start = max(start, end(first).position(room.identity))
        return max(start, mark or "")

    async def check(self, room: Room, position: str) -> Place:
        """The place of a position that can be read on from. Raises `PositionExpired`."""
        parsed = parse(position)
        if parsed is None:
            raise await self._expired(room, position, "is none of MongoDB's")
        place, identity = parsed
        if identity != room.identity:
            raise await self._expired(room, position, "belongs to a collection that was dropped or replaced")
        if self.reads_oplog:
            found = await self._oplog({"ts": place.time})
            if found is None and self.reads_oplog:
                raise await self._expired(room, position, "is not in the oplog (any more)")
        if not self.reads_oplog and position > await self.head(room):
            raise await self._expired(room, position, "lies ahead of the store")
        if place.number == 1:
            raise await self._expired(room, position, "is no change's")
        floor = await self.floor(room) if self._retention.age is not None else await self._mark(room)
        if floor is not None and position < floor:
            raise PositionExpired(
                f"mongodb: the history of stream {room.stream!r} after this position is no longer kept",
                position=position,
                floor=floor,
            )
        return place

    async def timestamp(self, place: Place) -> float:
        """That of a snapshot: after all changes of its cluster time, which may be those of a transaction."""
        if not self.reads_oplog:
            return place.timestamp
        listed = {"$size": {"$cond": [{"$isArray": "$o.applyOps"}, "$o.applyOps", []]}}
        size = {"$cond": [{"$eq": ["$op", "c"]}, {"$ifNull": ["$o.count", listed]}, 1]}
        command = {"find": "oplog.rs", "filter": {"ts": place.time}, "projection": {"n": size}, "limit": 1,
                   "singleBatch": True}  # fmt: skip
        found = (await self._link.run(command, database="local"))["cursor"]["firstBatch"]
        return place.timestamp_after(found[0]["n"] if found else 1)

    def note(self, room: Room, position: str) -> None:
        """A change of this process: retention by count goes by them."""
        keep = self._retention.count
        if keep is None or not room.log:
            return
        written = self._written.setdefault(room.stream, _Written())
        written.count += 1
        if written.count % self._step == 0:
            written.places.append(position)
            kept = -(-keep // self._step) + 1
            if len(written.places) > kept:
                old = written.places[-kept - 1]
                del written.places[:-kept]
                self._wanted[room.stream] = max(old, self._wanted.get(room.stream, ""))

    async def begin(self, room: Room) -> None:
        """Give all history up: every position that anybody has is before the mark, and all that come are behind it."""
        touch = [{"q": {"_id": room.stream}, "u": {"$inc": {"begun": 1}}, "upsert": True}]
        command = {"update": self._rooms.marks, "updates": touch, "writeConcern": MAJORITY}
        time = self._link.time_of(await self._link.run(command, write=True), write=True)
        await self._move({room.stream: end(time).position(room.identity)})

    async def trim(self) -> None:
        """Move the marks of streams that have more history than is to be kept."""
        wanted, self._wanted = self._wanted, {}
        if not wanted:
            return
        await self._move(
            {
                stream: floor
                for stream, floor in wanted.items()
                if (room := self._rooms.known(stream)) is not None and floor.endswith(room.identity)
            }
        )

    async def _move(self, floors: dict[str, str]) -> None:
        updates = [
            {"q": {"_id": stream}, "u": {"$max": {"floor": floor}}, "upsert": True} for stream, floor in floors.items()
        ]
        if updates:
            await self._link.run(
                {"update": self._rooms.marks, "updates": updates, "writeConcern": MAJORITY}, write=True
            )

    async def _mark(self, room: Room) -> str | None:
        reply = await self._link.run(
            {"find": self._rooms.marks, "filter": {"_id": room.stream}, "limit": 1, "singleBatch": True,
             "readConcern": READ_MAJORITY}
        )  # fmt: skip
        for document in reply["cursor"]["firstBatch"]:
            floor: str = document.get("floor", "")
            if floor.endswith(room.identity):
                return floor
        return None

    async def _oplog(self, filter: dict[str, Any], sort: dict[str, int] | None = None) -> Timestamp | None:
        """The cluster time of the first oplog entry; ``None`` if there is none, or it may not be read."""
        if not self.reads_oplog:
            return None
        command: dict[str, Any] = {"find": "oplog.rs", "filter": filter, "projection": {"ts": 1}, "limit": 1,
                                   "singleBatch": True}  # fmt: skip
        if sort:
            command["sort"] = sort
        try:
            reply = await self._link.run(command, database="local")
        except BackendError as error:
            cause = error.__cause__
            if getattr(cause, "code", None) in (13, 8000, 26):
                self.reads_oplog = False
                return None
            raise
        found = reply["cursor"]["firstBatch"]
        return found[0]["ts"] if found else None

    async def _expired(self, room: Room, position: str, why: str) -> PositionExpired:
        return PositionExpired(
            f"mongodb: position {position[:40]!a} of stream {room.stream!r} {why}",
            position=position,
            floor=await self.floor(room),
        )
