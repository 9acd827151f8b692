"""Supabase: supabase-py on PostgREST and PostgreSQL, with a stand-in for Realtime; and on Supabase's own servers."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from motia_adapters.postgresql.adapter import PostgresqlAdapter
from motia_adapters.postgresql.options import MappedOptions
from motia_adapters.postgresql.testing import MappedHarness, PostgresqlHarness
from motia_adapters.supabase.adapter import SupabaseAdapter
from motia_adapters.supabase.options import SupabaseOptions

from motia_core.adapter import Adapter, StorageSettings
from motia_core.testing import Cannot
from motia_core.testing.proxy import Proxy
from motia_core.testing.servers import Missing
from tests.conformance.backends.serving import served
from tests.stack.supabase import SupabaseStack, seen
from tests.standins.supabase import SET_UP, Supabase, key

STANDINS: list[Supabase] = []
"""The stand-ins of this session."""
SEEN: set[str] = set()
"""Databases whose API sees our functions."""


def build(settings: StorageSettings, options: SupabaseOptions) -> SupabaseAdapter:
    """An adapter, also in another process."""
    return SupabaseAdapter(settings, options)


class _Project(PostgresqlHarness):
    supabase = True
    realtime = True

    def __init__(self, path: Path) -> None:
        self.adapters = []

    async def start(self) -> None:
        await super().start()
        if self.server.url not in SEEN:
            await self._seen()
            SEEN.add(self.server.url)

    async def wipe(self) -> None:
        await super().wipe()
        await self._seen()

    async def restart(self) -> None:
        await super().restart()
        await self._seen()

    async def backup(self) -> Any:
        found = await super().backup()
        await self._seen()
        return found

    async def restore(self, backup: Any) -> None:
        await super().restore(backup)
        await self._seen()

    @asynccontextmanager
    async def away(self) -> AsyncGenerator[None, None]:
        async with super().away():
            yield
        await self._seen()

    async def _seen(self) -> None:
        await seen(self.psql, *self.door())

    @abstractmethod
    def door(self) -> tuple[str, str]:
        """The API's address, and the service role's key."""

    def supabase_options(self, mapped: MappedOptions | None) -> SupabaseOptions:
        address, service_key = self.door()
        options: dict[str, Any] = {
            "project_url": address,
            "service_key": service_key,
            "realtime": self.realtime,
            "mapped": mapped,
        }
        return SupabaseOptions(**options)

    def build(self, settings: StorageSettings, mapped: MappedOptions | None) -> PostgresqlAdapter:
        return build(settings, self.supabase_options(mapped))

    def maker(self, settings: StorageSettings) -> Callable[[StorageSettings], Adapter]:
        return partial(build, options=self.supabase_options(None))


class _Standing(_Project):
    async def start(self) -> None:
        self.server = await served("postgres")
        PostgresqlHarness.__init__(self, self.server)
        await self.psql.run(SET_UP)
        if not STANDINS:
            STANDINS.append(Supabase(self.server.url))
            await STANDINS[0].start()
        await super().start()

    def door(self) -> tuple[str, str]:
        return STANDINS[0].url, key()

    async def cut(self) -> None:
        STANDINS[0].cut()


class SupabaseManaged(_Standing):
    name = "supabase"


class SupabaseDeaf(_Standing):
    """Realtime is off: only looking tells."""

    name = "supabase-norealtime"
    realtime = False


class SupabaseMapped(_Standing, MappedHarness):
    name = "supabase-mapped"

    def maker(self, settings: StorageSettings) -> Callable[[StorageSettings], Adapter]:
        return partial(build, options=self.supabase_options(self.options(settings)))


class _Stacked(_Project):
    """Through a proxy, which can break what the harness may not."""

    server: SupabaseStack

    async def start(self) -> None:
        server = await served("supabase")
        assert isinstance(server, SupabaseStack)
        PostgresqlHarness.__init__(self, server)
        address = urlsplit(server.api_url)
        if address.scheme != "http":
            raise Missing("supabase: the suite breaks connections, and cannot do so with TLS: a local stack is needed")
        self.proxy = await Proxy(address.port or 80, address.hostname or "127.0.0.1").__aenter__()
        await super().start()

    async def stop(self) -> None:
        await super().stop()
        await self.proxy.__aexit__(None, None, None)

    def door(self) -> tuple[str, str]:
        return f"http://127.0.0.1:{self.proxy.port}", self.server.service_key

    async def cut(self) -> None:
        self.proxy.cut()

    @asynccontextmanager
    async def away(self) -> AsyncGenerator[None, None]:
        self.proxy.mode = "refuse"
        self.proxy.cut()
        yield
        self.proxy.mode = "pass"

    async def backup(self) -> Any:
        raise Cannot("a Supabase project is not copied")


class SupabaseStackManaged(_Stacked):
    name = "supabase-stack"


class SupabaseStackMapped(_Stacked, MappedHarness):
    name = "supabase-stack-mapped"

    def maker(self, settings: StorageSettings) -> Callable[[StorageSettings], Adapter]:
        return partial(build, options=self.supabase_options(self.options(settings)))


def stop_standins() -> None:
    """Stop what this session started."""
    for standin in STANDINS:
        asyncio.run(standin.stop())
    STANDINS.clear()


__all__ = [
    "SupabaseDeaf",
    "SupabaseManaged",
    "SupabaseMapped",
    "SupabaseStackManaged",
    "SupabaseStackMapped",
    "stop_standins",
]
