"""The matrix: every backend of this repository, one after the other."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from motia_adapters.sqlite.adapter import SqliteAdapter
from motia_adapters.sqlite.options import SqliteOptions

from motia_core.adapter import Adapter, Capabilities, StorageSettings, unsupported
from motia_core.errors import UnsupportedCapability
from motia_core.memory import CAPABILITIES, MemoryAdapter, MemoryStore
from motia_core.model import StreamSpec, Write, WriteResult
from motia_core.testing import Cannot, ExpectedFailure, Harness, world
from motia_core.testing.coalesced import CoalescedAdapter
from motia_core.values import encode_object


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


class Coalesced(Memory):
    """The reference for storage that tells states; another program writes straight into it."""

    name = "coalesced"

    def make(self, settings: StorageSettings) -> Adapter:
        return CoalescedAdapter(settings, self.store)

    async def set_out_of_band(
        self, settings: StorageSettings, stream: StreamSpec, group: str, id: str, value: Any
    ) -> None:
        self._write(settings, stream, Write("set", group, id, encode_object(value)))

    async def delete_out_of_band(self, settings: StorageSettings, stream: StreamSpec, group: str, id: str) -> None:
        self._write(settings, stream, Write("delete", group, id))

    async def move_out_of_band(
        self, settings: StorageSettings, stream: StreamSpec, group: str, id: str, to: str
    ) -> None:
        json = self.store.stream(settings.namespace, stream.name).groups[group][id].json
        self._write(settings, stream, Write("delete", group, id), Write("set", to, id, json))

    def _write(self, settings: StorageSettings, stream: StreamSpec, *writes: Write) -> None:
        CoalescedAdapter(settings, self.store).write_as_another_program(stream, writes)


class ModestAdapter(MemoryAdapter):
    """Declares nothing that is optional: what it is asked for all the same has to be refused."""

    def capabilities(self, stream: StreamSpec) -> Capabilities:
        no = unsupported("to see it refused")
        return replace(CAPABILITIES, conditional_writes=no, batch=no, ttl=no, custom_events=no, restore_detection=no)

    async def write(self, stream: StreamSpec, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        for write in writes:
            assert write.expect is None, "an undeclared condition reached the backend"
            assert write.ttl is None, "an undeclared ttl reached the backend"
            assert write.kind != "event", "an undeclared event reached the backend"
        assert len(writes) <= 1, "an undeclared batch reached the backend"
        return await super().write(stream, writes)


class Modest(Memory):
    name = "modest"
    expected_failures = (
        ExpectedFailure(
            "test_F5_hidden_streams_without_a_log_store_and_guard",
            "triggers need conditions and batches",
            UnsupportedCapability,
        ),
    )

    def make(self, settings: StorageSettings) -> Adapter:
        return ModestAdapter(settings, self.store)


class SQLite(Harness):
    name = "sqlite"

    def __init__(self, path: Path) -> None:
        self.path = path / "streams.db"

    def make(self, settings: StorageSettings) -> Adapter:
        return SqliteAdapter(settings, SqliteOptions(path=self.path))

    def maker(self) -> Callable[[StorageSettings], Adapter]:
        return partial(SqliteAdapter, options=SqliteOptions(path=self.path))

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


BACKENDS: list[type[Memory | SQLite]] = [Memory, Coalesced, Modest, SQLite]


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name)
async def harness(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Harness, None]:
    harness = request.param(tmp_path)
    await harness.start()
    yield harness
    await harness.stop()


RESULTS: dict[str, dict[str, dict[str, int]]] = {}
"""Outcomes by backend and clause."""


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count outcomes, for the matrix."""
    found = re.search(r"::test_([A-F]\d+)_\w+\[(.*)\]", report.nodeid)
    if found and "tests/conformance" in report.nodeid and (report.when == "call" or report.outcome == "skipped"):
        names = [name for backend in BACKENDS if f"{found[2]}-".startswith(f"{(name := backend.name)}-")]
        clauses = RESULTS.setdefault(max(names, key=len), {})
        counts = clauses.setdefault(found[1], {"passed": 0, "failed": 0, "skipped": 0})
        counts[report.outcome] += 1


def pytest_sessionfinish() -> None:
    """Write the counts where ``MOTIA_CONFORMANCE_REPORT`` says."""
    if "MOTIA_CONFORMANCE_REPORT" in os.environ and RESULTS:
        Path(os.environ["MOTIA_CONFORMANCE_REPORT"]).write_text(json.dumps(RESULTS, indent=2, sort_keys=True) + "\n")


__all__ = ["world"]
