"""The matrix: every backend of this repository, one after the other."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from motia_core.adapter import Adapter, StorageSettings
from motia_core.memory import MemoryAdapter, MemoryStore
from motia_core.testing import Harness, World


class Memory(Harness):
    name = "memory"

    def __init__(self, path: Path) -> None:
        self.store = MemoryStore()

    def make(self, settings: StorageSettings) -> Adapter:
        return MemoryAdapter(settings, self.store)

    async def wipe(self) -> None:
        self.store.wipe()

    async def backup(self) -> Any:
        return self.store.copy()

    async def restore(self, backup: Any) -> None:
        self.store = backup


BACKENDS = [Memory]


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name)
async def harness(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Harness, None]:
    harness = request.param(tmp_path)
    await harness.start()
    yield harness
    await harness.stop()


@pytest.fixture
async def world(harness: Harness) -> AsyncGenerator[World, None]:
    world = World(harness)
    yield world
    await world.end()
