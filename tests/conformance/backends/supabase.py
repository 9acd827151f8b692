"""Supabase: supabase-py on the stand-ins of `tests/standins`, on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from motia_adapters.postgresql.adapter import PostgresqlAdapter
from motia_adapters.postgresql.options import MappedOptions
from motia_adapters.postgresql.testing import MappedHarness, PostgresqlHarness
from motia_adapters.supabase.adapter import SupabaseAdapter
from motia_adapters.supabase.options import SupabaseOptions

from motia_core.adapter import Adapter, StorageSettings
from tests.conformance.backends.serving import served
from tests.standins.supabase import SET_UP, Supabase, key

STANDINS: list[Supabase] = []
"""The stand-ins of this session."""


def build(settings: StorageSettings, options: SupabaseOptions) -> SupabaseAdapter:
    """An adapter, also in another process."""
    return SupabaseAdapter(settings, options)


class _Standing(PostgresqlHarness):
    realtime = True
    supabase = True

    def __init__(self, path: Path) -> None:
        self.adapters = []

    async def start(self) -> None:
        self.server = await served("postgres")
        super().__init__(self.server)
        await self.psql.run(SET_UP)
        if not STANDINS:
            STANDINS.append(Supabase(self.server.url))
            STANDINS[0].start()
        await super().start()

    def supabase_options(self, mapped: MappedOptions | None) -> SupabaseOptions:
        options: dict[str, Any] = {
            "project_url": STANDINS[0].url,
            "service_key": key(),
            "realtime": self.realtime,
            "mapped": mapped,
        }
        return SupabaseOptions(**options)

    def build(self, settings: StorageSettings, mapped: MappedOptions | None) -> PostgresqlAdapter:
        return build(settings, self.supabase_options(mapped))

    def maker(self, settings: StorageSettings) -> Callable[[StorageSettings], Adapter]:
        return partial(build, options=self.supabase_options(None))

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


def stop_standins() -> None:
    """Stop what this session started."""
    for standin in STANDINS:
        standin.stop()
    STANDINS.clear()


__all__ = ["SupabaseDeaf", "SupabaseManaged", "SupabaseMapped", "stop_standins"]
