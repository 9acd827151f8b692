"""Managed storage in a SQLite file: the default, durable, shared by the processes of one machine.

The loop talks to two threads. The *writer* commits whatever waits in one transaction,
the *reader* answers whatever waits out of one. The *tail* feeds the watches.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TypeVar

from motia_adapters.sqlite import queries
from motia_adapters.sqlite.capabilities import MANAGED, MAPPED
from motia_adapters.sqlite.database import Database
from motia_adapters.sqlite.diagnosis import diagnose
from motia_adapters.sqlite.failures import closed
from motia_adapters.sqlite.mapped import queries as table_queries
from motia_adapters.sqlite.mapped.capture import Mapped
from motia_adapters.sqlite.options import SqliteOptions
from motia_adapters.sqlite.reader import Reader
from motia_adapters.sqlite.tail import Tail, Watcher
from motia_adapters.sqlite.transaction import Unit
from motia_adapters.sqlite.writer import Commit, Writer
from motia_core.adapter import Adapter, Capabilities, Finding, StorageSettings
from motia_core.errors import MotiaError, UnsupportedCapability
from motia_core.model import Batch, Item, Snapshot, StreamSpec, Write, WriteResult

_Found = TypeVar("_Found")


class SqliteAdapter(Adapter):
    """One SQLite file, opened by this process."""

    def __init__(self, settings: StorageSettings, options: SqliteOptions) -> None:
        super().__init__(settings)
        self._options = options
        self._path = options.resolved_path()
        self._changing = asyncio.Lock()
        self._database: Database | None = None
        self._mapped_stream: str | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writer: Writer | None = None
        self._reader: Reader | None = None
        self._tail: Tail | None = None
        self._ended: asyncio.Future[None] | None = None
        """Set while there are threads; done when they have nothing left to do."""

    @property
    def address(self) -> str:
        """The path of the file."""
        return str(self._path)

    def capabilities(self, stream: StreamSpec) -> Capabilities:
        """Those of mapped storage for the table's stream, of managed storage for all others."""
        return MANAGED if self._options.mapped is None or stream.hidden else MAPPED

    async def open(self) -> None:
        """Open the file, making it and its folder, or having the changes of its mapped table captured.

        Raises `BackendUnavailable`, `BackendError`, or `ConfigError` if the table cannot be mapped.
        """
        async with self._changing:
            if self._writer is not None:
                return
            await self._join()
            loop = self._loop = asyncio.get_running_loop()
            database = self._database = Database(
                self._path,
                synchronous=self._options.synchronous,
                timeout=self.settings.timeout,
                mapping=self._options.mapped,
            )
            opened: asyncio.Future[MotiaError | None] = loop.create_future()
            ended = self._ended = loop.create_future()
            writer = Writer(
                database,
                self.settings,
                loop,
                opened=lambda error: None if opened.done() else opened.set_result(error),
                settle=self._settle,
                ended=lambda: ended.set_result(None),
            )
            reader = Reader(
                database,
                self.settings,
                loop,
                poll_interval=self._options.poll_interval,
                reopen=writer.put,
                moved=lambda error: tail.moved(error),
                ended=lambda: writer.put(None),
            )
            tail = Tail(loop, reader)
            self._threads = (writer, reader)
            writer.start()
            try:
                error = await opened
            except asyncio.CancelledError:
                writer.put(None)
                raise
            if error is not None:
                await self._join()
                raise error
            reader.start()
            self._writer, self._reader, self._tail = writer, reader, tail

    async def close(self) -> None:
        """Finish what was asked for, end watches, stop both threads and close the file."""
        async with self._changing:
            if self._writer is not None:
                assert self._reader is not None
                assert self._tail is not None
                self._tail.close()
                self._reader.stop()  # which then stops the writer
                self._writer = self._reader = self._tail = None
            await self._join()

    async def _join(self) -> None:
        """Wait for threads that were told to stop."""
        if self._ended is None:
            return
        await asyncio.shield(self._ended)
        self._ended = None
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _settle(self, units: Sequence[Unit], commit: Commit | None) -> None:
        """A transaction is over: feed the watches and answer the callers. On the loop."""
        if commit is not None and self._tail is not None:
            self._tail.committed(commit)
        for unit in units:
            future = unit.future
            if not future.done():
                if unit.error is None:
                    future.set_result(unit.results)
                else:
                    future.set_exception(unit.error)

    async def prepare(self, stream: StreamSpec) -> None:
        """Give the stream its number, or the mapped table. Raises `UnsupportedCapability` if another has that."""
        await self.write(stream, ())

    async def write(self, stream: StreamSpec, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        """Do all writes in one transaction, which other calls may share."""
        mapped = self._mapped(stream)
        writer, loop = self._writer, self._loop
        if writer is None or loop is None:
            raise closed(self._path)
        if mapped is not None:
            for write in writes:
                mapped.table.check_names(write.group, write.id)
        future: asyncio.Future[Sequence[WriteResult | None]] = loop.create_future()
        writer.put(Unit(stream, writes, future, time.monotonic() + self.settings.timeout))
        return await future

    def _mapped(self, stream: StreamSpec) -> Mapped | None:
        """The mapped table if it is the stream's. Raises `UnsupportedCapability` if it is another's."""
        options = self._options.mapped
        if options is None or stream.hidden:
            return None
        self._mapped_stream = self._mapped_stream or stream.name
        if stream.name != self._mapped_stream:
            raise UnsupportedCapability(
                f"storage {self.settings.name!r} maps table {options.table!r} to stream {self._mapped_stream!r}:"
                f" stream {stream.name!r} needs a storage of its own"
            )
        return None if self._database is None else self._database.mapped

    def _reading(self) -> Reader:
        if self._reader is None:
            raise closed(self._path)
        return self._reader

    async def get(self, stream: StreamSpec, group: str, id: str) -> Item | None:
        """The item, or ``None``."""
        mapped = self._mapped(stream)
        if mapped is not None:
            mapped.table.check_names(group, id)
            return await self._reading().submit(table_queries.get, group, id)
        return await self._reading().submit(queries.get, stream.name, group, id)

    async def list(self, stream: StreamSpec, group: str, *, after: str | None, limit: int | None) -> Sequence[Item]:
        """A group's items in the order of their ids."""
        mapped = self._mapped(stream)
        if mapped is not None:
            mapped.table.check_names(group, None)
            return await self._pages(table_queries.list_items, after, limit, group)
        items: list[Item] = []
        cursor = after or ""
        while limit is None or len(items) < limit:
            size = queries.LIST_PAGE if limit is None else min(queries.LIST_PAGE, limit - len(items))
            page = await self._reading().submit(queries.list_items, stream.name, group, cursor, size)
            items += page
            if len(page) < size:
                break
            cursor = page[-1].id
        return items

    async def list_groups(self, stream: StreamSpec, *, after: str | None, limit: int | None) -> Sequence[str]:
        """Groups that have items, in order."""
        if self._mapped(stream) is not None:
            return await self._pages(table_queries.list_groups, after, limit)
        groups: list[str] = []
        cursor = after or ""
        while limit is None or len(groups) < limit:
            size = queries.LIST_PAGE if limit is None else min(queries.LIST_PAGE, limit - len(groups))
            page = await self._reading().submit(queries.list_groups, stream.name, cursor, size)
            groups += page
            if len(page) < size:
                break
            cursor = page[-1]
        return groups

    async def _pages(
        self,
        query: Callable[..., tuple[Sequence[_Found], bytes | None]],
        after: str | None,
        limit: int | None,
        *keys: str,
    ) -> Sequence[_Found]:
        """What a query of the mapped table finds, page by page."""
        found: list[_Found] = []
        cursor: bytes | None = (after or "").encode()
        while cursor is not None and (limit is None or len(found) < limit):
            size = queries.LIST_PAGE if limit is None else min(queries.LIST_PAGE, limit - len(found))
            page, cursor = await self._reading().submit(query, *keys, cursor, size)
            found += page
        return found

    async def snapshot(self, stream: StreamSpec, group: str, id: str | None, *, limit: int | None) -> Snapshot:
        """Items and the position up to which they are true, out of one read transaction."""
        mapped = self._mapped(stream)
        if mapped is not None:
            mapped.table.check_names(group, id)
            return await self._reading().submit(table_queries.snapshot, group, id, limit)
        return await self._reading().submit(queries.snapshot, stream.name, group, id, limit)

    async def head(self, stream: StreamSpec) -> str:
        """The position of the file's last change."""
        self._mapped(stream)
        return await self._reading().submit(queries.head)

    async def floor(self, stream: StreamSpec) -> str:
        """The oldest position that a watch of the stream can start from."""
        self._mapped(stream)
        return await self._reading().submit(queries.floor, stream.name)

    async def watch(self, stream: StreamSpec, after: str) -> AsyncGenerator[Batch, None]:
        """Yield the stream's changes after a position, from the log first and then as they happen."""
        if not stream.log:
            raise UnsupportedCapability(f"stream {stream.name!r} keeps no log: it cannot be watched")
        self._mapped(stream)
        reader, tail = self._reading(), self._tail
        assert tail is not None
        number, head = await reader.submit(queries.start, stream.name)
        while number is None:
            await self.prepare(stream)
            number, head = await reader.submit(queries.start, stream.name)
        watcher = Watcher(stream.name, number)
        if self._tail is tail:
            tail.attach(watcher, head)
        cursor, begun = after, False
        try:
            while self._tail is tail:
                if watcher.error is not None:
                    raise watcher.error
                if watcher.behind:
                    watcher.rejoin()
                    joined = tail.position
                    caught_up = False
                    while not (caught_up or watcher.behind or self._tail is not tail):
                        page = await reader.submit(queries.page, stream.name, cursor)
                        if page.position > cursor or not begun:
                            begun = True
                            cursor = page.position
                            yield Batch(page.changes, cursor)
                        elif cursor < joined:
                            # The tail stands in a history that was replaced, and will find out.
                            await asyncio.sleep(self._options.poll_interval)
                        caught_up = cursor >= joined
                else:
                    await watcher.wait()
                    position = tail.position
                    changes = watcher.take()
                    if changes and changes[0].position <= cursor:
                        changes = [change for change in changes if change.position > cursor]
                    if (changes or position > cursor) and not watcher.behind:
                        cursor = max(cursor, position)
                        yield Batch(tuple(changes), cursor)
        finally:
            tail.detach(watcher)

    async def diagnose(self) -> Sequence[Finding]:
        """The file, its settings and where it lies."""
        return await self._reading().submit(diagnose, self._path, self._options.synchronous)
