"""The matrix: every backend of this repository, one after the other."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from motia_adapters.redis.adapter import RedisAdapter
from motia_adapters.redis.link import Argument, Link
from motia_adapters.redis.options import RedisOptions, options_from_url
from motia_adapters.redis.scripts import WRITE
from motia_adapters.sqlite.adapter import SqliteAdapter
from motia_adapters.sqlite.options import MappedOptions, SqliteOptions

from motia_core.adapter import Adapter, Capabilities, StorageSettings, unsupported
from motia_core.errors import UnsupportedCapability
from motia_core.memory import CAPABILITIES, MemoryAdapter
from motia_core.model import StreamSpec, Write, WriteResult
from motia_core.testing import Cannot, ExpectedFailure, Harness, world
from motia_core.testing.references import CoalescedHarness, MemoryHarness
from motia_core.testing.servers import SERVERS, Missing, Server, required


class Memory(MemoryHarness):
    def __init__(self, path: Path) -> None:
        super().__init__()


class Coalesced(CoalescedHarness):
    def __init__(self, path: Path) -> None:
        super().__init__()


class ModestAdapter(MemoryAdapter):
    """Declares nothing that is optional: what it is asked for all the same has to be refused."""

    def capabilities(self, stream: StreamSpec) -> Capabilities:
        no = unsupported("to see it refused")
        return replace(CAPABILITIES, conditional_writes=no, batch=no, ttl=no, custom_events=no, restore_detection=no)

    async def write(self, stream: StreamSpec, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        for write in writes:
            assert write.expect is None, "an undeclared condition reached the backend"
            assert write.ttl is None, "an undeclared ttl reached the backend"
            assert write.kind != "event", "an undeclared event reached the backend"
        assert len(writes) <= 1, "an undeclared batch reached the backend"
        return await super().write(stream, writes)


class Modest(Memory):
    name = "modest"
    expected_failures = (
        ExpectedFailure(
            "test_F5_hidden_streams_without_a_log_store_and_guard",
            "triggers need conditions and batches",
            UnsupportedCapability,
        ),
    )

    def make(self, settings: StorageSettings) -> Adapter:
        return ModestAdapter(settings, self.store)


class SQLite(Harness):
    name = "sqlite"

    def __init__(self, path: Path) -> None:
        self.path = path / "streams.db"

    def make(self, settings: StorageSettings) -> Adapter:
        return SqliteAdapter(settings, SqliteOptions(path=self.path))

    def maker(self, settings: StorageSettings) -> Callable[[StorageSettings], Adapter]:
        return partial(SqliteAdapter, options=SqliteOptions(path=self.path))

    async def restart(self) -> None:
        """There is no server: whoever opens the file next is the restart."""
        raise Cannot("SQLite has no server to restart")

    async def wipe(self) -> None:
        for file in self._files():
            file.unlink()

    async def backup(self) -> Any:
        return {file.name: file.read_bytes() for file in self._files()}

    async def restore(self, backup: Any) -> None:
        await self.wipe()
        for name, content in backup.items():
            (self.path.parent / name).write_bytes(content)

    @asynccontextmanager
    async def hold(self, settings: StorageSettings, stream: StreamSpec) -> AsyncGenerator[None, None]:
        """A write transaction of another connection, open while others wait for it."""
        connection = sqlite3.connect(self.path, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TABLE held (x)")
        try:
            yield
            connection.execute("COMMIT")
        finally:
            connection.close()

    def _files(self) -> list[Path]:
        return [file for file in self.path.parent.glob("streams.db*") if file.is_file()]


class SQLiteMapped(SQLite):
    """A file with a table of the user's for each namespace; `sqlite3` is the other program."""

    name = "sqlite-mapped"
    columns = ("n", "title", "views", "price", "done", "tags")

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.folder = path

    def make(self, settings: StorageSettings) -> Adapter:
        return SqliteAdapter(settings, self._options(settings))

    def _options(self, settings: StorageSettings) -> SqliteOptions:
        path = self._path(settings.namespace)
        self._create(path, f"orders_{settings.namespace}")
        mapped = MappedOptions(
            table=f"orders_{settings.namespace}",
            group_field="customer",
            id_field="code",
            rest_field="extra",
            json_fields=("tags",),
            include_ids=False,
        )
        return SqliteOptions(path=path, mapped=mapped)

    def maker(self, settings: StorageSettings) -> Callable[[StorageSettings], Adapter]:
        return partial(SqliteAdapter, options=self._options(settings))

    async def wipe(self) -> None:
        empty = self.folder / "empty"
        for path in self.folder.glob("*.db"):
            self._create(empty, f"orders_{path.stem}")
            for name in ("-wal", "-shm"):
                path.with_name(path.name + name).unlink(missing_ok=True)
            empty.replace(path)

    async def restore(self, backup: Any) -> None:
        for file in self._files():
            file.unlink()
        for name, content in backup.items():
            (self.folder / name).write_bytes(content)

    @asynccontextmanager
    async def hold(self, settings: StorageSettings, stream: StreamSpec) -> AsyncGenerator[None, None]:
        self.path = self._path(settings.namespace)
        async with super().hold(settings, stream):
            yield

    async def set_out_of_band(
        self, settings: StorageSettings, stream: StreamSpec, group: str, id: str, value: Any
    ) -> None:
        cells = {"customer": group, "code": id, **{name: value.get(name) for name in self.columns}}
        cells["tags"] = json.dumps(value["tags"]) if "tags" in value else None
        rest = {key: member for key, member in value.items() if key not in self.columns}
        cells["extra"] = json.dumps(rest) if rest else None
        names, marks = ", ".join(cells), ", ".join("?" * len(cells))
        changes = ", ".join(f"{name} = excluded.{name}" for name in cells)
        sql = f"INSERT INTO {{table}} ({names}) VALUES ({marks}) ON CONFLICT DO UPDATE SET {changes}"
        self._run(settings, sql, *cells.values())

    async def delete_out_of_band(self, settings: StorageSettings, stream: StreamSpec, group: str, id: str) -> None:
        self._run(settings, "DELETE FROM {table} WHERE customer = ? AND code = ?", group, id)

    async def move_out_of_band(
        self, settings: StorageSettings, stream: StreamSpec, group: str, id: str, to: str
    ) -> None:
        self._run(settings, "UPDATE {table} SET customer = ? WHERE customer = ? AND code = ?", to, group, id)

    def _run(self, settings: StorageSettings, sql: str, *parameters: Any) -> None:
        path = self._path(settings.namespace)
        with closing(sqlite3.connect(path, timeout=20, isolation_level=None)) as connection:
            connection.execute(sql.format(table=f"orders_{settings.namespace}"), parameters)

    def _files(self) -> list[Path]:
        return [file for file in self.folder.glob("*.db*") if file.is_file()]

    def _path(self, namespace: str) -> Path:
        return self.folder / f"{namespace}.db"

    @staticmethod
    def _create(path: Path, table: str) -> None:
        with closing(sqlite3.connect(path, timeout=20, isolation_level=None)) as connection:
            connection.execute(
                f"CREATE TABLE IF NOT EXISTS {table} (customer TEXT, code TEXT, n INTEGER, title TEXT, views INTEGER,"
                " price REAL, done BOOLEAN, tags TEXT, extra TEXT, PRIMARY KEY (customer, code))"
            )


FIXED_ARGUMENTS = 14
"""Of a call of the write script: the command, the script, four keys with their count, and seven; then units follow."""


def _break_after_write(link: Link) -> None:
    send = link.send

    def sending(*command: Argument) -> asyncio.Future[Any]:
        if command[1:2] == (WRITE.sha,) and len(command) > FIXED_ARGUMENTS:
            link.data_received = lambda data: link.abort("cut by the test")  # type: ignore[method-assign]
        return send(*command)

    link.send = sending  # type: ignore[method-assign]


SERVING: dict[str, Server] = {}
"""The servers of this session: started when a test first needs one."""


async def served(name: str) -> Server:
    """The session's server of this kind; skips the test where there is none, unless it is required."""
    if name not in SERVING:
        server = SERVERS[name]()
        try:
            await server.start()
        except Missing as missing:
            if name in required():
                raise
            pytest.skip(str(missing))
        SERVING[name] = server
    return SERVING[name]


class Redis(Harness):
    """A real server for the whole session; each test has a namespace."""

    name = "redis"

    def __init__(self, path: Path) -> None:
        self.adapters: list[RedisAdapter] = []

    async def start(self) -> None:
        self.server = await served(self.name)

    def make(self, settings: StorageSettings) -> Adapter:
        adapter = RedisAdapter(settings, self.options)
        self.adapters.append(adapter)
        return adapter

    def maker(self, settings: StorageSettings) -> Callable[[StorageSettings], Adapter]:
        return partial(RedisAdapter, options=self.options)

    @property
    def options(self) -> RedisOptions:
        return RedisOptions(**options_from_url(self.server.url))

    async def restart(self) -> None:
        await self._ours().restart()

    async def wipe(self) -> None:
        """FLUSHALL, while adapters are connected."""
        port = self._ours().port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"FLUSHALL\r\n")
        assert await reader.readline() == b"+OK\r\n"
        writer.close()
        await writer.wait_closed()

    async def backup(self) -> Any:
        server = self._ours()
        copy = Path(tempfile.mkdtemp(prefix="motia-redis-backup-"))
        await server.kill()
        shutil.copytree(server.folder, copy, dirs_exist_ok=True)
        await server.start()
        return copy

    async def restore(self, backup: Any) -> None:
        server = self._ours()
        await server.kill()
        shutil.rmtree(server.folder)
        shutil.move(backup, server.folder)
        await server.start()

    async def lose_reply(self) -> None:
        """The reply to the next write comes as far as our socket: there the connection breaks."""
        for adapter in self.adapters:
            if adapter._connection.is_open:
                _break_after_write(await adapter._connection.seed.link())

    def hold(self, settings: StorageSettings, stream: StreamSpec) -> Any:
        raise Cannot("Redis runs a script to its end before it looks at anything else: no write can be held open")

    def _ours(self) -> Server:
        if not self.server.ours:
            raise Cannot("this server was given to us: it is not restarted, wiped or copied")
        return self.server


class Redis62(Redis):
    """The oldest server that is supported."""

    name = "redis62"


BACKENDS: list[Any] = [Memory, Coalesced, Modest, SQLite, SQLiteMapped, Redis, Redis62]


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name)
async def harness(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Harness, None]:
    harness = request.param(tmp_path)
    await harness.start()
    yield harness
    await harness.stop()


RESULTS: dict[str, dict[str, dict[str, int]]] = {}
"""Outcomes by backend and clause."""


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count outcomes, for the matrix."""
    found = re.search(r"::test_([A-F]\d+)_\w+\[(.*)\]", report.nodeid)
    if found and "tests/conformance" in report.nodeid and (report.when == "call" or report.outcome == "skipped"):
        names = [name for backend in BACKENDS if f"{found[2]}-".startswith(f"{(name := backend.name)}-")]
        clauses = RESULTS.setdefault(max(names, key=len), {})
        counts = clauses.setdefault(found[1], {"passed": 0, "failed": 0, "skipped": 0})
        counts[report.outcome] += 1


def pytest_sessionfinish() -> None:
    """Stop the servers; write the counts where ``MOTIA_CONFORMANCE_REPORT`` says."""
    for server in SERVING.values():
        asyncio.run(server.stop())
    if "MOTIA_CONFORMANCE_REPORT" in os.environ and RESULTS:
        Path(os.environ["MOTIA_CONFORMANCE_REPORT"]).write_text(json.dumps(RESULTS, indent=2, sort_keys=True) + "\n")


__all__ = ["world"]
