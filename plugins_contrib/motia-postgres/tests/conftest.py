"""The server of the session; ``MOTIA_TEST_POSTGRES_URL`` gives another."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from motia_core.testing.servers import PostgreSQL, Server, start_or_skip


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A real PostgreSQL."""
    server = PostgreSQL()
    asyncio.run(start_or_skip(server))
    yield server
    asyncio.run(server.stop())
