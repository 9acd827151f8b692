"""The compliance suite of motia-core on PostgreSQL: one test for each promise of the contract."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any

import pytest
from motia_adapters.postgresql.adapter import PostgresqlAdapter
from motia_adapters.postgresql.options import MappedOptions
from motia_adapters.postgresql.testing import MappedHarness, PostgresqlHarness
from motia_postgres.adapter import PostgresAdapter
from motia_postgres.options import PostgresOptions, options_from_url

from motia_core.adapter import Adapter, StorageSettings
from motia_core.testing import *  # noqa: F403 (the test classes, and the fixture `world`)
from motia_core.testing import Harness
from motia_core.testing.servers import Server


def build(settings: StorageSettings, url: str, mapped: MappedOptions | None = None) -> PostgresAdapter:
    """An adapter of the server."""
    return PostgresAdapter(settings, PostgresOptions(**options_from_url(url), mapped=mapped))


class PostgresHarness(PostgresqlHarness):
    """Tables of our own."""

    name = "postgres"

    def build(self, settings: StorageSettings, mapped: MappedOptions | None) -> PostgresqlAdapter:
        return build(settings, self.server.url, mapped)

    def maker(self, settings: StorageSettings) -> Callable[[StorageSettings], Adapter]:
        return partial(build, url=self.server.url)


class PostgresMappedHarness(MappedHarness):
    """A table of the user's; another connection is the other program."""

    name = "postgres-mapped"

    def build(self, settings: StorageSettings, mapped: MappedOptions | None) -> PostgresqlAdapter:
        return build(settings, self.server.url, mapped)

    def maker(self, settings: StorageSettings) -> Callable[[StorageSettings], Adapter]:
        return partial(build, url=self.server.url, mapped=self.options(settings))


BACKENDS: list[Any] = [PostgresHarness, PostgresMappedHarness]


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name)
async def harness(request: pytest.FixtureRequest, server: Server) -> AsyncGenerator[Harness, None]:
    harness = request.param(server)
    await harness.start()
    yield harness
    await harness.stop()
