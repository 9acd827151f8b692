"""Projects for these files: the stand-ins (`tests/standins`), and a real Supabase where one is (`tests/stack`)."""

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
from tests.stack.supabase import SupabaseStack, let_one_say_so, seen
from tests.standins.supabase import SECRET, SET_UP, Supabase, key


class Project:
    """A Supabase project, as far as the stand-ins go."""

    jwt_secret = SECRET

    def __init__(self, psql: Psql, standin: Supabase | None) -> None:
        self.psql = psql
        self._standin = standin

    @property
    def standin(self) -> Supabase:
        """The stand-in, which does what it is told; a real one does not, and the test is skipped."""
        if self._standin is None:
            pytest.skip("a real Supabase does not break when it is asked to")
        return self._standin

    @property
    def url(self) -> str:
        """The API's address."""
        return self.standin.url

    @property
    def anon_key(self) -> str:
        """The key that everybody may have."""
        return self.key("anon")

    def key(self, role: str = "service_role", **claims: Any) -> str:
        """A key, or a user's token."""
        return key(role, **claims)

    def adapter(self, namespace: str = "motia", **options: Any) -> SupabaseAdapter:
        options = {"project_url": self.url, "service_key": self.key(), **options}
        return SupabaseAdapter(StorageSettings("live", namespace=namespace), SupabaseOptions(**options))

    @asynccontextmanager
    async def opened(self, namespace: str = "motia", **options: Any) -> AsyncIterator[SupabaseAdapter]:
        adapter = self.adapter(namespace, **options)
        await adapter.open()
        try:
            yield adapter
        finally:
            await adapter.close()


class RealProject(Project):
    """A Supabase project."""

    def __init__(self, stack: SupabaseStack) -> None:
        super().__init__(Psql(stack.url), None)
        self._stack = stack
        self.jwt_secret = stack.jwt_secret

    @property
    def url(self) -> str:
        return self._stack.api_url

    @property
    def anon_key(self) -> str:
        return self._stack.anon_key

    def key(self, role: str = "service_role", **claims: Any) -> str:
        if role == "service_role" and not claims:
            return self._stack.service_key
        return self._stack.token(role, **claims)


@pytest.fixture(scope="session", params=["stand-ins", "stack"])
def project(request: pytest.FixtureRequest) -> Iterator[Project]:
    """One project of each kind for all tests of this folder that run in this process."""
    stacked = request.param == "stack"
    server = SupabaseStack() if stacked else PostgreSQL("-c", "fsync=off")
    asyncio.run(start_or_skip(server))
    psql, standin = Psql(server.url), Supabase(server.url)

    async def set_up() -> None:
        if not stacked:
            await psql.run(SET_UP)
            await standin.start()
        await psql.migrate(supabase=True)
        await seen(psql, found.url, found.key())

    async def stop() -> None:
        await standin.stop()
        await server.stop()

    found = RealProject(server) if isinstance(server, SupabaseStack) else Project(psql, standin)
    try:
        asyncio.run(set_up())
        yield found
    finally:
        asyncio.run(stop())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Not one skip for each test."""
    let_one_say_so(config, items, "stack")


@pytest.fixture
def namespace() -> str:
    """A namespace of the test's own."""
    return f"t{secrets.token_hex(6)}"
