"""Managed storage in Redis: items in hashes, the log in a Redis Stream, one script that writes both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from motia_adapters.redis.bells import Bells
from motia_adapters.redis.capabilities import MANAGED
from motia_adapters.redis.connection import Connection
from motia_adapters.redis.diagnosis import diagnose
from motia_adapters.redis.history import Place
from motia_adapters.redis.keys import Keys, keys_of
from motia_adapters.redis.options import RedisOptions
from motia_adapters.redis.reads import Reads
from motia_adapters.redis.scripts import PROBE
from motia_adapters.redis.upkeep import Upkeep, sweep
from motia_adapters.redis.writer import Writer
from motia_core.adapter import Adapter, Capabilities, Finding, StorageSettings
from motia_core.errors import BackendUnavailable, UnsupportedCapability
from motia_core.model import Batch, Item, Snapshot, StreamSpec, Write, WriteResult


@dataclass(frozen=True, slots=True)
class _Stream:
    keys: Keys
    reads: Reads
    writer: Writer
    log: bool


class RedisAdapter(Adapter):
    """One Redis server or Cluster, as this process uses it."""

    def __init__(self, settings: StorageSettings, options: RedisOptions) -> None:
        super().__init__(settings)
        self._connection = Connection(options, settings.timeout)
        self._db = options.db
        self._bells = Bells(self._connection.seed)
        self._streams: dict[str, _Stream] = {}
        self._upkeep = Upkeep(
            self._connection,
            settings.retention,
            lambda: ((stream.keys, stream.writer, stream.log) for stream in self._streams.values()),
        )
        self._changing = asyncio.Lock()

    @property
    def address(self) -> str:
        """The server's URL, without user and password."""
        return self._connection.address

    def capabilities(self, stream: StreamSpec) -> Capabilities:
        """The same for every stream."""
        return MANAGED

    async def open(self) -> None:
        """Connect. Raises `BackendUnavailable`, or `BackendError` for a server that must not be used."""
        async with self._changing:
            if not self._connection.is_open:
                await self._connection.open()
                self._upkeep.start()

    async def close(self) -> None:
        """Finish what was asked for, end watches and connections."""
        async with self._changing:
            await self._upkeep.close()
            if self._connection.is_open:
                await asyncio.gather(*(stream.writer.close() for stream in self._streams.values()))
            self._streams.clear()
            await self._connection.close()
            await self._bells.close()

    async def prepare(self, stream: StreamSpec) -> None:
        """Give the stream its first epoch, if it has none. Raises `BackendError` for a user who may not write it."""
        keys = self._of(stream).keys
        await self._connection.run(keys, PROBE, keys.prefix)
        await self._head(stream)

    async def write(self, stream: StreamSpec, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        """Do all writes in one run of the script, which other calls may share."""
        return await self._of(stream).writer.write(writes)

    async def get(self, stream: StreamSpec, group: str, id: str) -> Item | None:
        """The item, or ``None``."""
        return await self._of(stream).reads.get(group, id)

    async def list(self, stream: StreamSpec, group: str, *, after: str | None, limit: int | None) -> Sequence[Item]:
        """A group's items in the order of their ids."""
        return await self._of(stream).reads.list_items(group, after, limit)

    async def list_groups(self, stream: StreamSpec, *, after: str | None, limit: int | None) -> Sequence[str]:
        """Groups that have items, in order; those that have expired are removed first."""
        found = self._of(stream)
        await sweep(found.writer)
        return await found.reads.list_groups(after, limit)

    async def snapshot(self, stream: StreamSpec, group: str, id: str | None, *, limit: int | None) -> Snapshot:
        """Items and the position up to which they are true."""
        reads = self._of(stream).reads
        snapshot = await reads.snapshot(group, id, limit)
        if snapshot is None:
            await self._head(stream)
            snapshot = await reads.snapshot(group, id, limit)
        if snapshot is None:
            raise BackendUnavailable(f"redis: stream {stream.name!r} was removed while it was read at {self.address}")
        return snapshot

    async def head(self, stream: StreamSpec) -> str:
        """The position of the stream's last change."""
        return (await self._head(stream)).position

    async def floor(self, stream: StreamSpec) -> str:
        """The oldest position that a watch of the stream can start from."""
        head = await self._head(stream)
        if not stream.log:
            return head.position
        return (await self._of(stream).reads.floor() or head).position

    async def watch(self, stream: StreamSpec, after: str) -> AsyncGenerator[Batch, None]:
        """Yield the stream's changes after a position, read from the log whenever the bell rings."""
        if not stream.log:
            raise UnsupportedCapability(f"stream {stream.name!r} keeps no log: it cannot be watched")
        found = self._of(stream)
        begun = False
        ahead: asyncio.Task[tuple[Batch, bool]] | None = None
        with self._bells.listen(found.keys.channel) as bell:
            try:
                while self._connection.is_open:
                    if ahead is not None:
                        batch, more = await ahead
                    else:
                        told = found.reads.told(after, bell.take()) if begun else None
                        batch, more = (told, False) if told else await found.reads.changes(after)
                    ahead = None
                    if more:  # far behind: the server works on the next page while this one is handled
                        ahead = asyncio.create_task(found.reads.changes(batch.position))
                        await asyncio.sleep(0)  # until it is asked for
                    if batch.changes or not begun:
                        begun = True
                        after = batch.position
                        yield batch
                    if not more:
                        await bell.rung.wait()
            finally:
                if ahead is not None:
                    ahead.cancel()
                    await asyncio.gather(ahead, return_exceptions=True)

    async def begin_history(self, stream: StreamSpec) -> None:
        """Begin a new history: all positions expire. For keys that were restored into a running server."""
        await self._of(stream).writer.maintain(begin=True)

    async def diagnose(self) -> Sequence[Finding]:
        """The server, its persistence and its memory."""
        self._connection.check_open()
        facts, config = await self._connection.describe()
        return diagnose(self.address, facts, config)

    def _of(self, stream: StreamSpec) -> _Stream:
        self._connection.check_open()
        found = self._streams.get(stream.name)
        if found is None:
            keys = keys_of(self.settings.namespace, stream.name, self._db)
            found = self._streams[stream.name] = _Stream(
                keys,
                Reads(self._connection, keys, stream.name),
                Writer(self._connection, keys, stream, self.settings),
                stream.log,
            )
        return found

    async def _head(self, stream: StreamSpec) -> Place:
        found = self._of(stream)
        head = await found.reads.head()
        while head is None:
            await found.writer.maintain()
            head = await found.reads.head()
        return head
