"""The stand-ins of Supabase for these files (see `tests/standins`), on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from motia_adapters.postgresql.testing import Psql
from motia_adapters.supabase.adapter import SupabaseAdapter
from motia_adapters.supabase.options import SupabaseOptions

from motia_core.adapter import StorageSettings
from motia_core.testing.servers import PostgreSQL, start_or_skip
from tests.standins.supabase import SET_UP, Supabase, key


class Project:
    """A Supabase project, as far as the stand-ins go."""

    def __init__(self, standin: Supabase, psql: Psql) -> None:
        self.standin = standin
        self.psql = psql

    def adapter(self, namespace: str = "motia", **options: Any) -> SupabaseAdapter:
        options = {"project_url": self.standin.url, "service_key": key(), **options}
        return SupabaseAdapter(StorageSettings("live", namespace=namespace), SupabaseOptions(**options))

    @asynccontextmanager
    async def opened(self, namespace: str = "motia", **options: Any) -> AsyncIterator[SupabaseAdapter]:
        adapter = self.adapter(namespace, **options)
        await adapter.open()
        try:
            yield adapter
        finally:
            await adapter.close()


@pytest.fixture(scope="session")
def project() -> Iterator[Project]:
    """One project for all tests of this folder that run in this process."""
    server = PostgreSQL("-c", "fsync=off")
    asyncio.run(start_or_skip(server))
    psql = Psql(server.url)

    async def set_up() -> None:
        await psql.run(SET_UP)
        await psql.migrate(supabase=True)

    asyncio.run(set_up())
    standin = Supabase(server.url)
    standin.start()
    yield Project(standin, psql)
    standin.stop()
    asyncio.run(server.stop())


@pytest.fixture
def namespace() -> str:
    """A namespace of the test's own."""
    return f"t{secrets.token_hex(6)}"
