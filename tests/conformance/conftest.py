"""The matrix: every backend of this repository, one after the other."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from motia_adapters.sqlite.adapter import SqliteAdapter
from motia_adapters.sqlite.options import SqliteOptions

from motia_core.adapter import Adapter, StorageSettings
from motia_core.memory import MemoryAdapter, MemoryStore
from motia_core.model import StreamSpec
from motia_core.testing import Cannot, Harness, world


class Memory(Harness):
    name = "memory"

    def __init__(self, path: Path) -> None:
        self.store = MemoryStore()

    def make(self, settings: StorageSettings) -> Adapter:
        return MemoryAdapter(settings, self.store)

    async def wipe(self) -> None:
        self.store.wipe()

    async def lose_reply(self) -> None:
        self.store.lose_replies = 1


class SQLite(Harness):
    name = "sqlite"

    def __init__(self, path: Path) -> None:
        self.path = path / "streams.db"

    def make(self, settings: StorageSettings) -> Adapter:
        return SqliteAdapter(settings, SqliteOptions(path=self.path))

    async def restart(self) -> None:
        """There is no server: whoever opens the file next is the restart."""
        raise Cannot("SQLite has no server to restart")

    async def wipe(self) -> None:
        for file in self._files():
            file.unlink()

    async def backup(self) -> Any:
        return {file.name: file.read_bytes() for file in self._files()}

    async def restore(self, backup: Any) -> None:
        await self.wipe()
        for name, content in backup.items():
            (self.path.parent / name).write_bytes(content)

    @asynccontextmanager
    async def hold(self, settings: StorageSettings, stream: StreamSpec) -> AsyncGenerator[None, None]:
        """A write transaction of another connection, open while others wait for it."""
        connection = sqlite3.connect(self.path, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TABLE held (x)")
        try:
            yield
            connection.execute("COMMIT")
        finally:
            connection.close()

    def _files(self) -> list[Path]:
        return [file for file in self.path.parent.glob("streams.db*") if file.is_file()]


BACKENDS: list[type[Memory | SQLite]] = [Memory, SQLite]


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name)
async def harness(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Harness, None]:
    harness = request.param(tmp_path)
    await harness.start()
    yield harness
    await harness.stop()


RESULTS: dict[str, dict[str, dict[str, int]]] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count outcomes by backend and letter, for the matrix."""
    found = re.search(r"::test_([A-F])\d+_\w+\[(\w+)", report.nodeid)
    if found and "tests/conformance" in report.nodeid and (report.when == "call" or report.outcome == "skipped"):
        letters = RESULTS.setdefault(found[2], {})
        counts = letters.setdefault(found[1], {"passed": 0, "failed": 0, "skipped": 0})
        counts[report.outcome] += 1


def pytest_sessionfinish() -> None:
    """Write the counts where ``MOTIA_CONFORMANCE_REPORT`` says."""
    if "MOTIA_CONFORMANCE_REPORT" in os.environ and RESULTS:
        Path(os.environ["MOTIA_CONFORMANCE_REPORT"]).write_text(json.dumps(RESULTS, indent=2, sort_keys=True) + "\n")


__all__ = ["world"]
