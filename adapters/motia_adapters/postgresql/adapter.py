"""The adapter of streams in PostgreSQL: all but the way to the database."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import ClassVar

from motia_adapters.postgresql.bells import Bells
from motia_adapters.postgresql.capabilities import MANAGED, MAPPED
from motia_adapters.postgresql.database import Database
from motia_adapters.postgresql.diagnosis import diagnose, diagnose_table
from motia_adapters.postgresql.failures import MIGRATE, closed
from motia_adapters.postgresql.migrations import VERSION, migrations, strange, strangers
from motia_adapters.postgresql.options import MappedOptions
from motia_adapters.postgresql.places import Place
from motia_adapters.postgresql.reads import Reads
from motia_adapters.postgresql.rows import RowReads, RowWriter
from motia_adapters.postgresql.table import Table, known_table, unusable
from motia_adapters.postgresql.upkeep import Upkeep
from motia_adapters.postgresql.watching import watched
from motia_adapters.postgresql.writer import Writer
from motia_core.adapter import Adapter, Capabilities, Finding, Migration, StorageSettings
from motia_core.errors import BackendError, ConfigError, MotiaError, UnsupportedCapability
from motia_core.model import Batch, Item, Snapshot, StreamSpec, Write, WriteResult

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Opened:
    """A stream that this process uses."""

    reads: Reads
    writer: Writer
    log: bool


class PostgresqlAdapter(Adapter):
    """Streams in one PostgreSQL database, as this process uses it. A subclass brings the way to it."""

    supabase: ClassVar[bool] = False
    """Whether the database is Supabase's, and needs what only that needs."""

    def __init__(self, settings: StorageSettings, database: Database, mapped: MappedOptions | None = None) -> None:
        super().__init__(settings)
        self.database = database
        self.mapped = mapped
        database.timeout = settings.timeout
        self._bells = Bells(database)
        self._streams: dict[str, Opened] = {}
        self._upkeep = Upkeep(
            database,
            settings.retention,
            lambda: [(found.reads.namespace, found.reads.name, found.log) for found in self._streams.values()],
            self._settle,
        )
        self._table: Table | None = None
        self._name = ""
        self._changing = asyncio.Lock()

    @property
    def address(self) -> str:
        """The database, without user and password."""
        return self.database.address

    def capabilities(self, stream: StreamSpec) -> Capabilities:
        """The same for every managed stream; a mapped one keeps less."""
        return MAPPED if self.mapped is not None and not stream.hidden else MANAGED

    async def open(self) -> None:
        """Connect. Raises `BackendUnavailable`, or `BackendError` for a database without our objects."""
        async with self._changing:
            if self.database.is_open:
                return
            await self.connect()
            try:
                await self.check()
                if self.mapped is not None:
                    await self._describe(self.mapped)
            except BaseException:
                await self.database.close()
                raise
            self._upkeep.start()

    async def connect(self) -> None:
        """Open the database. Raises this project's errors."""
        try:
            async with asyncio.timeout(self.settings.timeout):
                await self.database.open()
        except MotiaError:
            raise
        except Exception as error:
            await self.database.close()
            raise self.database.failure(self.database.map_error(error), "connect", error) from error
        except BaseException:
            await self.database.close()
            raise

    async def check(self) -> None:
        """Raise `BackendError` unless the schema's objects are those that this version needs."""
        answer = await self.database.rpc("version")
        found, files = (answer["version"], answer["files"]) if isinstance(answer, dict) else (answer, None)
        if found != VERSION:
            what = "older" if isinstance(found, int) and found < VERSION else "newer"
            remedy = MIGRATE if what == "older" else "upgrade motia-core"
            raise BackendError(
                f"{self.database.name}: the objects of schema {self.database.schema!r} at {self.address} are {what}"
                f" (version {found}, needed: {VERSION}): {remedy}"
            )
        names = ["all"] if files is None else strange(files)
        if names:
            raise BackendError(f"{self.database.name}: {strangers(names, self.database.schema)} ({self.address})")

    async def _describe(self, mapped: MappedOptions) -> None:
        """Learn what the mapped table is. Raises `ConfigError` if it is not mapped."""
        schema, name = mapped.place
        found = await self.database.rpc("mapped", p_schema=schema, p_table=name)
        self._name, self._table = known_table(self.database.name, mapped, found)
        count = await self.database.rpc("unusable", p_schema=schema, p_table=name)
        if count:
            _log.warning(
                "%s: %s", self.database.name, unusable(mapped.table, count, (mapped.group_field, mapped.id_field))
            )

    async def _settle(self) -> None:
        for found in list(self._streams.values()):
            await found.reads.settle()

    async def close(self) -> None:
        """Finish what was asked for, end watches and connections."""
        async with self._changing:
            await self._upkeep.close()
            if self.database.is_open:
                await asyncio.gather(*(stream.writer.close() for stream in self._streams.values()))
            self._streams.clear()
            await self._bells.close()
            await self.database.close()

    async def prepare(self, stream: StreamSpec) -> None:
        """Make the stream, if it is new."""
        await self.opened(stream).reads.prepare()

    async def write(self, stream: StreamSpec, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        """Do all writes in one call, which other calls may share."""
        return await self.opened(stream).writer.write(writes)

    async def get(self, stream: StreamSpec, group: str, id: str) -> Item | None:
        """The item, or ``None``."""
        return await self.opened(stream).reads.get(group, id)

    async def list(self, stream: StreamSpec, group: str, *, after: str | None, limit: int | None) -> Sequence[Item]:
        """A group's items in the order of their ids."""
        return await self.opened(stream).reads.list_items(group, after, limit)

    async def list_groups(self, stream: StreamSpec, *, after: str | None, limit: int | None) -> Sequence[str]:
        """Groups that have items, in order."""
        return await self.opened(stream).reads.list_groups(after, limit)

    async def snapshot(self, stream: StreamSpec, group: str, id: str | None, *, limit: int | None) -> Snapshot:
        """Items and the position up to which they are true, read in one statement."""
        reads = self.opened(stream).reads
        snapshot = await reads.snapshot(group, id, limit)
        if snapshot is None:
            await reads.prepare()
            snapshot = await reads.snapshot(group, id, limit)
        if snapshot is None:
            raise reads.gone()
        return snapshot

    async def head(self, stream: StreamSpec) -> str:
        """The position of the stream's last change."""
        reads = self.opened(stream).reads
        return await self._place(reads, reads.head)

    async def floor(self, stream: StreamSpec) -> str:
        """The oldest position that a watch of the stream can start from."""
        reads = self.opened(stream).reads
        return await self._place(reads, reads.floor)

    async def watch(self, stream: StreamSpec, after: str) -> AsyncGenerator[Batch, None]:
        """Yield the stream's changes after a position, read from the log whenever the bell rings."""
        if not stream.log:
            raise UnsupportedCapability(f"stream {stream.name!r} keeps no log: it cannot be watched")
        async with aclosing(watched(self.opened(stream).reads, self._bells, after)) as batches:
            async for batch in batches:
                yield batch

    async def begin_history(self, stream: StreamSpec) -> None:
        """Begin a new history: all positions expire. For rows that were put back by hand into a running server."""
        reads = self.opened(stream).reads
        await self.database.rpc("begin_history", writes=True, p_namespace=reads.namespace, p_stream=reads.name)

    def migrations(self) -> Sequence[Migration]:
        """The SQL files, and the mapping of the table."""
        return migrations(self.database.schema, supabase=self.supabase, mapped=self.mapped)

    async def migrate(self) -> Sequence[str]:
        """Apply what is missing. Raises `BackendUnavailable`, `BackendError`, or `ConfigError` for a table that
        cannot be mapped."""
        try:
            return await self.database.migrate(self.migrations())
        except MotiaError:
            raise
        except Exception as error:
            trouble = self.database.map_error(error)
            if trouble.code == "MO002":
                raise ConfigError(f"{self.database.name}: {trouble.message}") from error
            raise self.database.failure(trouble, "migrate", error) from error

    async def diagnose(self) -> Sequence[Finding]:
        """The server and the way to it."""
        if not self.database.is_open:
            raise closed(self.database.name, self.address)
        facts = await self.database.rpc("facts")
        findings = diagnose(facts, timeout=self.settings.timeout, supabase=self.supabase)
        if self.mapped is not None:
            schema, name = self.mapped.place
            found = await self.database.rpc("mapped", p_schema=schema, p_table=name)
            try:
                known_table(self.database.name, self.mapped, found)
            except ConfigError as error:
                findings.append(Finding("error", str(error), "motia-core migrate apply"))
            else:
                count = await self.database.rpc("unusable", p_schema=schema, p_table=name)
                findings += diagnose_table(self.mapped, found, count)
        return findings + await self.database.diagnose()

    def opened(self, stream: StreamSpec) -> Opened:
        """What belongs to a stream. Raises `BackendUnavailable` while closed."""
        if not self.database.is_open:
            raise closed(self.database.name, self.address)
        found = self._streams.get(stream.name)
        if found is None:
            found = self._streams[stream.name] = self.make(stream)
        return found

    def make(self, stream: StreamSpec) -> Opened:
        """What a stream needs. Raises `UnsupportedCapability` if the mapped table is another stream's."""
        if self.mapped is not None and not stream.hidden:
            assert self._table is not None
            other = next((name for name in self._streams if not name.startswith("$")), None)
            if other is not None:
                raise UnsupportedCapability(
                    f"table {self.mapped.table!r} of storage {self.settings.name!r} is stream {other!r}: stream"
                    f" {stream.name!r} needs a storage of its own"
                )
            reads = RowReads(self.database, self._name, stream.name, self._table)
            writer = RowWriter(self.database, self._name, stream, self.settings, self._table, reads)
            return Opened(reads, writer, stream.log)
        namespace = self.settings.namespace
        return Opened(
            Reads(self.database, namespace, stream.name, stream.name),
            Writer(self.database, namespace, stream, self.settings),
            stream.log,
        )

    async def _place(self, reads: Reads, read: Callable[[], Awaitable[Place | None]]) -> str:
        place = await read()
        if place is None:
            await reads.prepare()
            place = await read()
        if place is None:
            raise reads.gone()
        return place.position
