"""A PostgreSQL server for these files, and adapters of the plugin on it."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from motia_adapters.postgresql.migrations import apply, migrations
from motia_adapters.postgresql.options import MappedOptions
from motia_adapters.postgresql.testing import Psql
from motia_postgres.adapter import PostgresAdapter
from motia_postgres.options import PostgresOptions, options_from_url

from motia_core.adapter import StorageSettings
from motia_core.testing.servers import PostgreSQL, start_or_skip

DATABASES: list[str] = []


@pytest.fixture(scope="session")
def server() -> Iterator[PostgreSQL]:
    """A server for all tests of this folder that run in this process."""
    # A database for each test, and deadlocks on purpose: nothing here loses its power.
    server = PostgreSQL("-c", "fsync=off", "-c", "deadlock_timeout=100ms")
    asyncio.run(start_or_skip(server))
    yield server
    asyncio.run(server.stop())


class Database:
    """A database of its own, with or without our objects."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.psql = Psql(url)

    async def migrate(self, mapped: MappedOptions | None = None) -> list[str]:
        async with self.psql.connection() as connection:
            return await apply(connection, "motia", migrations(mapped=mapped))

    def adapter(self, url: str | None = None, timeout: float = 5.0, **options: Any) -> PostgresAdapter:
        options = {**options_from_url(url or self.url), **options}
        return PostgresAdapter(StorageSettings("orders", timeout=timeout), PostgresOptions(**options))

    @asynccontextmanager
    async def opened(self, **options: Any) -> AsyncIterator[PostgresAdapter]:
        adapter = self.adapter(**options)
        await adapter.open()
        try:
            yield adapter
        finally:
            await adapter.close()

    def program(self, script: str) -> str:
        """``psql``, another program altogether; a script that fails fails the test."""
        command = ["psql", self.url, "-v", "ON_ERROR_STOP=1", "-q", "-f", "-"]
        done = subprocess.run(command, input=script, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
async def empty(server: PostgreSQL) -> AsyncGenerator[Database, None]:
    """A database without our objects."""
    admin = Psql(server.url)
    name = f"t{secrets.token_hex(6)}"
    await admin.run(f"CREATE DATABASE {name}")
    yield Database(server.url.rsplit("/", 1)[0] + f"/{name}")
    await admin.run(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def database(empty: Database) -> Database:
    """A database with our objects."""
    await empty.migrate()
    return empty


ORDERS = MappedOptions(table="orders", group_field="customer", id_field="code", rest_field="extra")


@pytest.fixture
async def orders(database: Database) -> Database:
    """A database with a mapped table ``orders``."""
    await database.psql.run(
        "CREATE TABLE orders (customer text, code text, n bigint, title text, extra json, PRIMARY KEY (customer, code))"
    )
    await database.migrate(ORDERS)
    return database


Told = Callable[[Sequence[Any]], list[tuple[str, str, str | None]]]


def told(changes: Sequence[Any]) -> list[tuple[Any, ...]]:
    """What changes say, in short."""
    return [(change.type, change.group_id, change.id, (change.data or {}).get("n")) for change in changes]
