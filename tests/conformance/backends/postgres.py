"""PostgreSQL by the plugin of plugins_contrib, in this environment; `nox -s contrib` runs it from the wheels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from motia_adapters.postgresql.adapter import PostgresqlAdapter
from motia_adapters.postgresql.options import MappedOptions
from motia_adapters.postgresql.testing import MappedHarness, PostgresqlHarness
from motia_postgres.adapter import PostgresAdapter
from motia_postgres.options import PostgresOptions, options_from_url

from motia_core.adapter import Adapter, StorageSettings
from tests.conformance.backends.serving import served


def build(settings: StorageSettings, url: str, mapped: MappedOptions | None = None) -> PostgresAdapter:
    """An adapter, also in another process."""
    return PostgresAdapter(settings, PostgresOptions(**options_from_url(url), mapped=mapped))


class _Served(PostgresqlHarness):
    def __init__(self, path: Path) -> None:
        self.adapters = []

    async def start(self) -> None:
        super().__init__(await served("postgres"))
        await super().start()

    def build(self, settings: StorageSettings, mapped: MappedOptions | None) -> PostgresqlAdapter:
        return build(settings, self.server.url, mapped)


class Postgres(_Served):
    name = "postgres"

    def maker(self, settings: StorageSettings) -> Callable[[StorageSettings], Adapter]:
        return partial(build, url=self.server.url)


class PostgresMapped(_Served, MappedHarness):
    name = "postgres-mapped"

    def maker(self, settings: StorageSettings) -> Callable[[StorageSettings], Adapter]:
        return partial(build, url=self.server.url, mapped=self.options(settings))
