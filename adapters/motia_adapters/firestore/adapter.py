"""Managed storage in Firestore: items and a log of commits, written together, read through a listener."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from motia_adapters.firestore.capabilities import MANAGED
from motia_adapters.firestore.connection import Connection
from motia_adapters.firestore.diagnosis import diagnose
from motia_adapters.firestore.listener import Listener
from motia_adapters.firestore.managed import Managed
from motia_adapters.firestore.names import paths_of
from motia_adapters.firestore.options import FirestoreOptions
from motia_adapters.firestore.upkeep import Upkeep
from motia_core.adapter import Adapter, Capabilities, Finding, StorageSettings
from motia_core.model import Batch, Item, Snapshot, StreamSpec, Write, WriteResult


class FirestoreAdapter(Adapter):
    """One database, as this process uses it."""

    def __init__(self, settings: StorageSettings, options: FirestoreOptions) -> None:
        super().__init__(settings)
        self._options = options
        self._connection = Connection(options, settings.timeout)
        self._listener = Listener(self._connection)
        self._streams: dict[str, Managed] = {}
        self._upkeep = Upkeep(settings.retention, lambda: list(self._streams.values()))
        self._changing = asyncio.Lock()

    @property
    def address(self) -> str:
        """Project and database, and the emulator if it is one."""
        return self._connection.address

    def capabilities(self, stream: StreamSpec) -> Capabilities:
        """Those of managed storage: there is no other."""
        return MANAGED

    async def open(self) -> None:
        """Find credentials and connect. Raises `BackendError` that says what is missing."""
        async with self._changing:
            if not self._connection.is_open:
                await self._connection.open()
                self._upkeep.start()

    async def close(self) -> None:
        """Finish what was asked for, end watches, close the connection."""
        async with self._changing:
            await self._upkeep.close()
            if self._connection.is_open:
                await asyncio.gather(*(stream.close() for stream in self._streams.values()))
            self._streams.clear()
            await self._listener.close()
            await self._connection.close()

    async def prepare(self, stream: StreamSpec) -> None:
        """Begin the stream's history, if it has none."""
        await self._of(stream).prepare()

    async def write(self, stream: StreamSpec, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        """Do all writes in one commit, which other calls may share."""
        return await self._of(stream).write(writes)

    async def get(self, stream: StreamSpec, group: str, id: str) -> Item | None:
        """The item, or ``None``."""
        return await self._of(stream).get(group, id)

    async def list(self, stream: StreamSpec, group: str, *, after: str | None, limit: int | None) -> Sequence[Item]:
        """A group's items in the order of their ids."""
        return await self._of(stream).list_items(group, after, limit)

    async def list_groups(self, stream: StreamSpec, *, after: str | None, limit: int | None) -> Sequence[str]:
        """Groups that have items, in order; those that have expired are removed first."""
        return await self._of(stream).list_groups(after, limit)

    async def snapshot(self, stream: StreamSpec, group: str, id: str | None, *, limit: int | None) -> Snapshot:
        """Items and the position up to which they are true."""
        return await self._of(stream).snapshot(group, id, limit)

    async def head(self, stream: StreamSpec) -> str:
        """The position of the stream's last change."""
        return await self._of(stream).head()

    async def floor(self, stream: StreamSpec) -> str:
        """The oldest position that a watch of the stream can start from."""
        return await self._of(stream).floor()

    async def watch(self, stream: StreamSpec, after: str) -> AsyncGenerator[Batch, None]:
        """Yield the stream's changes after a position, as the listener brings them."""
        async for batch in self._of(stream).watch(after):
            yield batch

    async def diagnose(self) -> Sequence[Finding]:
        """Project, credentials, rights; indexes and rules. Two billed reads at most, and no write."""
        self._connection.check_open()
        return await diagnose(self._connection)

    def _of(self, stream: StreamSpec) -> Managed:
        self._connection.check_open()
        found = self._streams.get(stream.name)
        if found is None:
            paths = paths_of(self._connection.documents, self._options.root, self.settings.namespace, stream.name)
            found = Managed(self._connection, self._listener, paths, stream, self._options.poll)
            self._streams[stream.name] = found
        return found
