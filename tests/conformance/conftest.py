"""The matrix: every backend of this repository, one after the other."""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from motia_core.testing import Harness, world
from tests.conformance.backends import firestore_mapped
from tests.conformance.backends.firestore import Firestore
from tests.conformance.backends.firestore_mapped import FirestoreDeltas, FirestoreMapped
from tests.conformance.backends.mongodb import MongoDB, MongoDBMapped, MongoDBMotor
from tests.conformance.backends.postgres import Postgres, PostgresMapped
from tests.conformance.backends.redis import Redis, Redis62
from tests.conformance.backends.references import Coalesced, Memory, Modest
from tests.conformance.backends.serving import stop_all
from tests.conformance.backends.sqlite import SQLite, SQLiteMapped
from tests.conformance.backends.supabase import (
    SupabaseDeaf,
    SupabaseManaged,
    SupabaseMapped,
    SupabaseStackManaged,
    SupabaseStackMapped,
    stop_standins,
)
from tests.stack.supabase import let_one_say_so

BACKENDS: list[Any] = [
    Memory,
    Coalesced,
    Modest,
    SQLite,
    SQLiteMapped,
    Redis,
    Redis62,
    Firestore,
    FirestoreMapped,
    FirestoreDeltas,
    MongoDB,
    MongoDBMapped,
    MongoDBMotor,
    Postgres,
    PostgresMapped,
    SupabaseManaged,
    SupabaseDeaf,
    SupabaseMapped,
    SupabaseStackManaged,
    SupabaseStackMapped,
]


SHORT = {
    SupabaseMapped.name: re.compile(r"::test_(A1|A2|B2|B5|C1)_"),
    FirestoreDeltas.name: re.compile(r"::test_(B2|B3|B5|B9|C1)_"),
}
"""What is run of backends that are the same mapping as another one's by another way: the clauses that the way could
break. `nox -s chaos` runs the others."""


@pytest.fixture(params=[pytest.param(one, id=one.name) for one in BACKENDS])
async def harness(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Harness, None]:
    harness = request.param(tmp_path)
    await harness.start()
    yield harness
    await harness.stop()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Realtime has no part in one process's random walk: without it that runs with the long tests."""
    let_one_say_so(config, items, SupabaseStackManaged.name)
    for item in items:
        walk = "::TestMachine::" in item.nodeid and f"[{SupabaseDeaf.name}]" in item.nodeid
        cut = any(f"[{name}" in item.nodeid and not short.search(item.nodeid) for name, short in SHORT.items())
        if walk or cut:
            item.add_marker(pytest.mark.chaos)


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
    """Stop the servers; write the counts where ``MOTIA_CONFORMANCE_REPORT`` says."""
    stop_standins()
    firestore_mapped.stop_standins()
    stop_all()
    if "MOTIA_CONFORMANCE_REPORT" in os.environ and RESULTS:
        report = Path(os.environ["MOTIA_CONFORMANCE_REPORT"])
        with report.open("a+") as file:  # each process brings the backends that it ran; what others said stays
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            found = {**json.loads(file.read() or "{}"), **RESULTS}
            file.truncate(0)
            file.write(json.dumps(found, indent=2, sort_keys=True) + "\n")


__all__ = ["world"]
