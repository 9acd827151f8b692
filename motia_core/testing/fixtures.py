"""The fixture that the suite's tests ask for; yours is ``harness``."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from motia_core.testing.harness import Harness, World


@pytest.fixture
async def world(harness: Harness) -> AsyncGenerator[World, None]:
    """Adapters and streams on the harness's store, closed at the end."""
    world = World(harness)
    yield world
    await world.end()
