"""Streams in Firestore: in documents that the adapter owns, or in an application's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from motia_adapters.firestore.capabilities import MANAGED, MAPPED
from motia_adapters.firestore.connection import Connection
from motia_adapters.firestore.diagnosis import diagnose
from motia_adapters.firestore.failures import closed
from motia_adapters.firestore.listener import Listener
from motia_adapters.firestore.managed import Managed
from motia_adapters.firestore.mapped.stream import MappedStream
from motia_adapters.firestore.mapped.template import parse_template
from motia_adapters.firestore.names import Paths, paths_of
from motia_adapters.firestore.options import FirestoreOptions
from motia_adapters.firestore.upkeep import Upkeep
from motia_core.adapter import Adapter, Capabilities, Finding, StorageSettings
from motia_core.errors import UnsupportedCapability
from motia_core.model import Batch, Item, Snapshot, StreamSpec, Write, WriteResult


class FirestoreAdapter(Adapter):
    """One database, as this process uses it."""

    def __init__(self, settings: StorageSettings, options: FirestoreOptions) -> None:
        super().__init__(settings)
        self._options = options
        self._connection = Connection(options, settings.timeout)
        self._listener = Listener(self._connection)
        self._streams: dict[str, Managed | MappedStream] = {}
        self._upkeep = Upkeep(settings.retention, lambda: list(self._streams.values()))
        self._changing = asyncio.Lock()
        self._closing = False

    @property
    def address(self) -> str:
        """Project and database, and the emulator if it is one."""
        return self._connection.address

    def capabilities(self, stream: StreamSpec) -> Capabilities:
        """Of the user's own documents, or of managed storage, which hidden streams always use."""
        return MAPPED if self._is_mapped(stream) else MANAGED

    async def open(self) -> None:
        """Find credentials and connect. Raises `BackendError` that says what is missing."""
        async with self._changing:
            if not self._connection.is_open:
                await self._connection.open()
                self._closing = False
                self._upkeep.start()

    async def close(self) -> None:
        """Finish what was asked for, end watches, close the connection."""
        async with self._changing:
            self._closing = True  # what would begin to listen only now would never end
            await self._upkeep.close()
            if self._connection.is_open:
                await asyncio.gather(*(stream.close() for stream in self._streams.values()))
            self._streams.clear()
            await self._listener.close()
            await self._connection.close()

    async def prepare(self, stream: StreamSpec) -> None:
        """Begin the stream's history, if it has none. Raises `UnsupportedCapability` for a second mapped stream."""
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

    async def resume(self, stream: StreamSpec, after: str) -> AsyncGenerator[Batch, None]:
        """As `watch`; in a mapped stream the first batch tells all that is different from the position."""
        found = self._of(stream)
        follow = found.watch(after, elsewhere=True) if isinstance(found, MappedStream) else found.watch(after)
        async for batch in follow:
            yield batch

    async def diagnose(self) -> Sequence[Finding]:
        """Project, credentials, rights; indexes and rules. Three billed reads at most, and no write."""
        self._connection.check_open()
        mapped = self._options.mapped
        template = None if mapped is None else parse_template(mapped.path)
        outside = sum(found.outside for found in self._streams.values() if isinstance(found, MappedStream))
        return await diagnose(self._connection, template, outside)

    def _is_mapped(self, stream: StreamSpec) -> bool:
        return self._options.mapped is not None and not stream.hidden

    def _of(self, stream: StreamSpec) -> Managed | MappedStream:
        self._connection.check_open()
        if self._closing:
            raise closed(self.address)
        found = self._streams.get(stream.name)
        if found is None:
            paths = paths_of(self._connection.documents, self._options.root, self.settings.namespace, stream.name)
            if self._is_mapped(stream):
                found = self._map(stream, paths)
            else:
                found = Managed(self._connection, self._listener, paths, stream, self._options.poll)
            self._streams[stream.name] = found
        return found

    def _map(self, stream: StreamSpec, paths: Paths) -> MappedStream:
        assert self._options.mapped is not None
        template = parse_template(self._options.mapped.path)
        for other in self._streams.values():
            if isinstance(other, MappedStream):
                raise UnsupportedCapability(
                    f"storage {self.settings.name!r}: {template.text} is mapped by stream {other.stream.name!r}"
                    f" already; give stream {stream.name!r} a storage of its own"
                )
        return MappedStream(self._connection, paths, stream, template, self.settings.retention, self._options.poll)
