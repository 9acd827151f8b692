"""One stream in managed storage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from motia_adapters.firestore.connection import Connection
from motia_adapters.firestore.items import ManagedLayout
from motia_adapters.firestore.listener import Listener
from motia_adapters.firestore.log import Log
from motia_adapters.firestore.names import DEADLINES, Paths
from motia_adapters.firestore.reads import Reads
from motia_adapters.firestore.tail import Tail, changes_of
from motia_adapters.firestore.wire import LESS_OR_EQUAL, plain, query_of
from motia_adapters.firestore.writer import Writer
from motia_core.adapter import Retention
from motia_core.errors import UnsupportedCapability
from motia_core.model import Batch, Item, Snapshot, StreamSpec, Write, WriteResult

PORTION = 100
"""Expired items that are removed at once, at most."""
PORTIONS = 20
"""Portions of expired items that one look removes, at most."""


class Managed:
    """What the adapter does for one stream."""

    def __init__(
        self, connection: Connection, listener: Listener, paths: Paths, stream: StreamSpec, poll: float
    ) -> None:
        self.stream = stream
        self._connection = connection
        self._paths = paths
        self._log = Log(connection, paths, stream.name)
        layout = ManagedLayout(paths, log=stream.log)
        self._reads = Reads(connection, paths, layout, self._log)
        self.writer = Writer(connection, paths, layout, self._log, stream.name)
        self._tail = Tail(listener, self._log, paths, poll)
        self._closed = False

    async def prepare(self) -> None:
        """Begin the stream's history, if it has none."""
        if self.stream.log:
            await self._log.newest_or_begin()

    async def write(self, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        """Do all writes in one commit, which other calls may share."""
        return await self.writer.write(writes)

    async def get(self, group: str, id: str) -> Item | None:
        """The item. One billed read."""
        return await self._reads.get(group, id)

    async def list_items(self, group: str, after: str | None, limit: int | None) -> Sequence[Item]:
        """A group's items in the order of their ids. A read is billed for each."""
        return await self._reads.list_items(group, after, limit)

    async def snapshot(self, group: str, id: str | None, limit: int | None) -> Snapshot:
        """Items and the position up to which they are true. One billed read, and one for each item."""
        return await self._reads.snapshot(group, id, limit)

    async def close(self) -> None:
        """Finish what was asked for, and end watches."""
        self._closed = True
        self._tail.ring()
        await self.writer.close()

    async def head(self) -> str:
        """The position of the last change. One billed read."""
        if not self.stream.log:
            return f"{self._connection.now():016x}"
        return (await self._log.newest_or_begin()).end.position

    async def floor(self) -> str:
        """The oldest position that a watch can start from. One billed read."""
        if not self.stream.log:
            return await self.head()
        oldest = await self._log.oldest() or await self._log.newest_or_begin()
        return oldest.end.position

    async def list_groups(self, after: str | None, limit: int | None) -> Sequence[str]:
        """Groups that have items, without those whose items have all expired."""
        await self.sweep()
        return await self._reads.list_groups(after, limit)

    async def watch(self, after: str) -> AsyncGenerator[Batch, None]:
        """Yield the changes after a position; sleep until the listener, or the clock, calls for a look."""
        if not self.stream.log:
            raise UnsupportedCapability(f"stream {self.stream.name!r} keeps no log: it cannot be watched")
        place = await self._log.place(after)
        begun = False
        with self._tail.ringing() as bell:
            sure, doubt = True, self._tail.doubt
            while not self._closed:
                bell.clear()
                doubt, doubted = self._tail.doubt, doubt != self._tail.doubt
                entries, more = await self._tail.after(place, sure=sure or doubted)
                changes, end = changes_of(entries, place, self.stream.name)
                if changes or not begun:
                    begun, place = True, end
                    yield Batch(tuple(changes), place.position)
                sure = False
                if not more:
                    try:
                        async with asyncio.timeout(self._tail.look):
                            await bell.wait()
                    except TimeoutError:
                        sure = True

    def now(self) -> int:
        """The server's clock, µs."""
        return self._connection.now()

    async def sweep(self) -> None:
        """Remove items that have expired, up to `PORTIONS` portions of them. One billed read at least."""
        for _ in range(PORTIONS):
            now = self._connection.now()
            query = query_of(DEADLINES, "at", where=[("at", LESS_OR_EQUAL, now)], limit=PORTION)
            found, _ = await self._connection.query(self._paths.stream, query)
            if found:
                keys = [(one.fields["group"].string_value, one.fields["id"].string_value) for one in found]
                await self.writer.expire(keys)
            if len(found) < PORTION:
                return

    async def next_deadline(self) -> int:
        """The earliest deadline that is stored (µs); 0: there is none. One billed read."""
        found, _ = await self._connection.query(self._paths.stream, query_of(DEADLINES, "at", limit=1))
        return int(plain(found[0].fields["at"])) if found else 0

    async def trim(self, retention: Retention) -> None:
        """Remove what retention no longer covers from the front of the log, its last entry never."""
        newest, _ = await self._log.newest()
        oldest = await self._log.oldest()
        if newest is None or oldest is None:
            return
        keep = oldest.seq
        if retention.count is not None:
            keep = max(keep, await self._log.last_until("count", newest.count - retention.count) or 0)
        if retention.age is not None:
            past = self._connection.now() - round(retention.age * 1_000_000)
            keep = max(keep, await self._log.last_until("time", past) or 0)
        await self._log.remove(oldest.seq, min(keep, newest.seq))
