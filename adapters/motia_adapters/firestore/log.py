"""Reading one stream's log from Firestore, with the proof that nothing is missing."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from motia_adapters.firestore.connection import Connection, LostRace
from motia_adapters.firestore.history import Entry, Place, entry_fields, entry_of, genesis, parse_position
from motia_adapters.firestore.names import LOG, Paths
from motia_adapters.firestore.wire import GREATER_OR_EQUAL, LESS_OR_EQUAL, query_of, removed, stored
from motia_core.errors import PositionExpired

PAGE = 100
"""Documents of the log that are read at once, at most."""
TRIMMED = 400
"""Documents of the log that one commit removes, at most."""


class Log:
    """One stream's log, as it is stored."""

    def __init__(self, connection: Connection, paths: Paths, name: str) -> None:
        self._connection = connection
        self._paths = paths
        self._name = name

    async def newest(self, at: Any = None) -> tuple[Entry | None, Any]:
        """The last entry (``None``: there is no log), and the time at which it was so. One billed read."""
        found, read_time = await self._connection.query(self._paths.stream, newest_query(), at)
        return (entry_of(found[0]) if found else None), read_time

    async def behind(self, seq: int, at: Any) -> list[Entry]:
        """The entries behind a number, as of that time."""
        query = query_of(LOG, "seq", where=[("seq", GREATER_OR_EQUAL, seq + 1)])
        found, _ = await self._connection.query(self._paths.stream, query, at)
        return [entry_of(document) for document in found]

    async def before(self, seq: int | None, at: Any, limit: int) -> list[Entry]:
        """The entries before a number (``None``: the last ones), the newest first, as of that time."""
        where = [] if seq is None else [("seq", LESS_OR_EQUAL, seq - 1)]
        query = query_of(LOG, "seq", descending=True, where=where, limit=limit)
        found, _ = await self._connection.query(self._paths.stream, query, at)
        return [entry_of(document) for document in found]

    async def newest_or_begin(self) -> Entry:
        """The last entry; begins a history if there is none."""
        while True:
            entry, _ = await self.newest()
            if entry is not None:
                return entry
            first = genesis(self._connection.now())
            try:
                await self._connection.commit([stored(self._paths.entry(0), entry_fields(first), fresh=True)])
            except LostRace:  # another process began it
                continue

    async def oldest(self) -> Entry | None:
        """The first entry that is kept."""
        found, _ = await self._connection.query(self._paths.stream, query_of(LOG, "seq", limit=1))
        return entry_of(found[0]) if found else None

    async def last_until(self, field: str, most: int) -> int | None:
        """The number of the last entry whose ``count`` or ``time`` is at most so much."""
        query = query_of(LOG, field, descending=True, where=[(field, LESS_OR_EQUAL, most)], limit=1)
        found, _ = await self._connection.query(self._paths.stream, query)
        return entry_of(found[0]).seq if found else None

    async def remove(self, start: int, end: int) -> None:
        """Remove the entries from one number up to another, which stays."""
        for first in range(start, end, TRIMMED):
            numbers = range(first, min(first + TRIMMED, end))
            await self._connection.commit([removed(self._paths.entry(seq)) for seq in numbers])

    async def from_place(self, place: Place, limit: int = PAGE) -> list[Entry]:
        """The entry of a place and those behind it, each proved to follow the one before. Raises `PositionExpired`."""
        query = query_of(LOG, "seq", where=[("seq", GREATER_OR_EQUAL, place.seq)], limit=limit + 1)
        found, _ = await self._connection.query(self._paths.stream, query)
        entries = [entry_of(document) for document in found]
        first = entries[0] if entries else None
        if first is None or (first.seq, first.mark) != (place.seq, place.mark) or place.number > len(first.changes):
            raise await self.expired(place.position, "is not a place in this store's history, or was trimmed")
        for before, entry in pairwise(entries):
            if not entry.follows(before.seq, before.mark):
                raise await self.expired(place.position, "is followed by changes that are gone")
        return entries

    async def place(self, position: str) -> Place:
        """The place that a position names. Raises `PositionExpired` if it is none of this adapter's making."""
        place = parse_position(position)
        if place is None:
            raise await self.expired(position, "is not a position of this store")
        return place

    async def expired(self, position: str, reason: str) -> PositionExpired:
        """The error of a position that a watch cannot start from."""
        oldest = await self.oldest()
        return PositionExpired(
            f"firestore: position {position[:64]!r} of stream {self._name!r} {reason}",
            position=position,
            floor=None if oldest is None else oldest.end.position,
        )


def newest_query() -> Any:
    """What finds the last entry of a log."""
    return query_of(LOG, "seq", descending=True, limit=1)
