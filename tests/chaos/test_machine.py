"""Row 21: all operations in any order, against a dict: two thousand walks of fifty steps."""

from __future__ import annotations

from pathlib import Path

import pytest
from motia_adapters.sqlite.adapter import SqliteAdapter
from motia_adapters.sqlite.options import SqliteOptions

from motia_core.adapter import Adapter, StorageSettings
from motia_core.memory import MemoryAdapter, MemoryStore
from motia_core.testing import Harness
from motia_core.testing.machine import walk_about

from .figures import Figures, bounded, scaled

pytestmark = pytest.mark.chaos

STEPS = 50


class Memory(Harness):
    name = "memory"

    def __init__(self, folder: Path) -> None:
        self.store = MemoryStore()

    def make(self, settings: StorageSettings) -> Adapter:
        return MemoryAdapter(settings, self.store)


class SQLite(Harness):
    name = "sqlite"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "streams.db"

    def make(self, settings: StorageSettings) -> Adapter:
        return SqliteAdapter(settings, SqliteOptions(path=self.path))


@pytest.mark.parametrize("backend", [Memory, SQLite], ids=lambda backend: backend.name)
@bounded
async def test_row_21_any_sequence_of_operations(
    tmp_path: Path, backend: type[Memory | SQLite], seed: int, figures: Figures
) -> None:
    walks = scaled(2_000, least=20)
    figures.add(walks=walks, steps_of_each_at_most=STEPS, seed_of_Hypothesis=str(seed))
    await walk_about(backend(tmp_path), walks=walks, steps=STEPS, replay=seed)
