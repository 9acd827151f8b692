"""For the tests of adapters on these SQL objects: one PostgreSQL server, and what can happen to it.

Needs asyncpg and `motia_core.testing`. A harness of the compliance suite is a subclass that
says how to build its adapter.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import tempfile
from abc import abstractmethod
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg

from motia_adapters.postgresql.adapter import PostgresqlAdapter
from motia_adapters.postgresql.migrations import apply, migrations
from motia_adapters.postgresql.options import MappedOptions
from motia_core.adapter import Adapter, StorageSettings
from motia_core.model import StreamSpec
from motia_core.testing import Cannot, Harness
from motia_core.testing.servers import Server


class Psql:
    """Another program's connection: SQL, one statement after the other."""

    def __init__(self, url: str) -> None:
        self.url = url

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[Any, None]:
        """A connection of its own."""
        connection = await asyncpg.connect(self.url, statement_cache_size=0)
        try:
            yield connection
        finally:
            await connection.close()

    async def run(self, sql: str, *arguments: Any) -> Any:
        """Run it; the first value of its answer."""
        async with self.connection() as connection:
            if arguments:
                return await connection.fetchval(sql, *arguments)
            return await connection.execute(sql)

    async def value(self, sql: str, *arguments: Any) -> Any:
        """The first value of a query's answer."""
        async with self.connection() as connection:
            return await connection.fetchval(sql, *arguments)

    async def migrate(self, *, supabase: bool = False) -> None:
        """Have our objects, if they are not there."""
        async with self.connection() as connection:
            await apply(connection, "motia", migrations(supabase=supabase))


class PostgresqlHarness(Harness):
    """A real server for the whole session; each test has a namespace."""

    supabase = False

    def __init__(self, server: Server) -> None:
        self.server = server
        self.adapters: list[PostgresqlAdapter] = []
        self.psql = Psql(server.url)

    @abstractmethod
    def build(self, settings: StorageSettings, mapped: MappedOptions | None) -> PostgresqlAdapter:
        """A new adapter."""

    async def start(self) -> None:
        self.psql = Psql(self.server.url)
        await self.psql.migrate(supabase=self.supabase)

    def make(self, settings: StorageSettings) -> Adapter:
        adapter = self.build(settings, None)
        self.adapters.append(adapter)
        return adapter

    async def restart(self) -> None:
        await self._ours().restart()

    async def wipe(self) -> None:
        await self.psql.run("DROP SCHEMA motia CASCADE")
        await self.psql.migrate(supabase=self.supabase)

    async def backup(self) -> Any:
        server = self._ours()
        copy = Path(tempfile.mkdtemp(prefix="motia-postgres-backup-"))
        await server.kill()
        await asyncio.to_thread(_copy, server.folder, copy / "folder")
        await server.start()
        return copy

    async def restore(self, backup: Any) -> None:
        server = self._ours()
        await server.kill()
        await asyncio.to_thread(shutil.rmtree, server.folder)
        await asyncio.to_thread(_copy, backup / "folder", server.folder)
        shutil.rmtree(backup, ignore_errors=True)
        await server.start()

    async def cut(self) -> None:
        """The server ends all connections but the one that asks for it."""
        await self.psql.value(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )

    @asynccontextmanager
    async def away(self) -> AsyncGenerator[None, None]:
        server = self._ours()
        await server.kill()
        try:
            yield
        finally:
            await server.start()

    async def lose_reply(self) -> None:
        """The next write happens; its answer is lost where the driver hands it over."""
        for adapter in self.adapters:
            if adapter.database.is_open:
                _lose_the_next(adapter)

    @asynccontextmanager
    async def hold(self, settings: StorageSettings, stream: StreamSpec) -> AsyncGenerator[None, None]:
        """A write in a transaction that stays open."""
        async with self.psql.connection() as connection:
            transaction = connection.transaction()
            await transaction.start()
            await self._held_write(connection, settings, stream)
            yield
            await transaction.commit()

    async def _held_write(self, connection: Any, settings: StorageSettings, stream: StreamSpec) -> None:
        unit = json.dumps([[{"k": "s", "g": "g", "i": "held", "v": '{"n":-1}'}]])
        await connection.fetchval("SELECT motia.write($1, $2, true, $3)", settings.namespace, stream.name, unit)

    def _ours(self) -> Server:
        if not self.server.ours:
            raise Cannot("this server was given to us: it is not restarted, wiped or copied")
        return self.server


class MappedHarness(PostgresqlHarness):
    """A table of the user's for each namespace; another connection is the other program."""

    columns = ("n", "title", "views", "price", "done", "tags")

    def options(self, settings: StorageSettings) -> MappedOptions:
        """The mapping of a world's table."""
        return MappedOptions(
            table=f"orders_{settings.namespace}",
            group_field="customer",
            id_field="code",
            rest_field="extra",
            include_ids=False,
        )

    async def start(self) -> None:
        await super().start()
        self.tables: set[str] = set()

    async def prepare(self, settings: StorageSettings) -> None:
        """Have the world's table, and have it mapped."""
        name = f"orders_{settings.namespace}"
        self.tables.add(name)
        await self.psql.run(
            f"CREATE TABLE IF NOT EXISTS {name} (customer text, code text, n bigint, title text, views bigint,"
            " price double precision, done boolean, tags json, extra json, PRIMARY KEY (customer, code));"
            f" SELECT motia.map_table('public', '{name}', 'customer', 'code')"
        )

    async def stop(self) -> None:
        for name in self.tables:
            await self.psql.run(f"SELECT motia.unmap_table('public', '{name}'); DROP TABLE IF EXISTS {name}")

    async def wipe(self) -> None:
        for name in self.tables:
            await self.psql.run(f"DROP TABLE {name}")
        await super().wipe()
        for name in self.tables:
            await self.prepare(StorageSettings("default", namespace=name.removeprefix("orders_")))

    def make(self, settings: StorageSettings) -> Adapter:
        """An adapter that makes the table, and maps it, before it first connects."""
        adapter = self.build(settings, self.options(settings))
        self.adapters.append(adapter)
        connect = adapter.connect

        async def connecting() -> None:
            if f"orders_{settings.namespace}" not in self.tables:
                await self.prepare(settings)
            await connect()

        adapter.connect = connecting  # type: ignore[method-assign]
        return adapter

    async def set_out_of_band(
        self, settings: StorageSettings, stream: StreamSpec, group: str, id: str, value: Any
    ) -> None:
        cells = {name: value.get(name) for name in self.columns}
        rest = {key: member for key, member in value.items() if key not in self.columns}
        row = json.dumps({"customer": group, "code": id, **cells, "extra": rest or None})
        names = ["customer", "code", *self.columns, "extra"]
        changes = ", ".join(f"{name} = excluded.{name}" for name in names)
        table = f"orders_{settings.namespace}"
        await self.psql.run(
            f"INSERT INTO {table} ({', '.join(names)}) SELECT {', '.join(names)}"
            f" FROM json_populate_record(NULL::{table}, $1::json) ON CONFLICT (customer, code) DO UPDATE SET {changes}",
            row,
        )

    async def delete_out_of_band(self, settings: StorageSettings, stream: StreamSpec, group: str, id: str) -> None:
        table = f"orders_{settings.namespace}"
        await self.psql.run(f"DELETE FROM {table} WHERE customer = $1 AND code = $2", group, id)

    async def move_out_of_band(
        self, settings: StorageSettings, stream: StreamSpec, group: str, id: str, to: str
    ) -> None:
        table = f"orders_{settings.namespace}"
        await self.psql.run(f"UPDATE {table} SET customer = $3 WHERE customer = $1 AND code = $2", group, id, to)

    async def _held_write(self, connection: Any, settings: StorageSettings, stream: StreamSpec) -> None:
        table = f"orders_{settings.namespace}"
        await connection.execute(f"INSERT INTO {table} (customer, code, n) VALUES ('g', 'held', -1)")


def _copy(source: Path, target: Path) -> None:
    """With owners and permissions: PostgreSQL insists on them."""
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)


def _lose_the_next(adapter: PostgresqlAdapter) -> None:
    database: Any = adapter.database
    call = database.call

    async def calling(function: str, arguments: Any) -> Any:
        answer = await call(function, arguments)
        if function.startswith("write"):
            database.call = call
            raise ConnectionResetError("cut by the test")
        return answer

    database.call = calling
