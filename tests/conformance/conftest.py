"""The matrix: every backend of this repository, one after the other."""

from __future__ import annotations

import json
import os
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from motia_core.testing import Harness, world
from tests.conformance.backends.firestore import Firestore
from tests.conformance.backends.redis import Redis, Redis62
from tests.conformance.backends.references import Coalesced, Memory, Modest
from tests.conformance.backends.serving import stop_all
from tests.conformance.backends.sqlite import SQLite, SQLiteMapped

BACKENDS: list[Any] = [Memory, Coalesced, Modest, SQLite, SQLiteMapped, Redis, Redis62, Firestore]


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


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Stop the servers; write the counts where ``MOTIA_CONFORMANCE_REPORT`` says."""
    stop_all()
    gathers = not hasattr(session.config, "workerinput")  # of several processes, the one that hears of all
    if gathers and "MOTIA_CONFORMANCE_REPORT" in os.environ and RESULTS:
        Path(os.environ["MOTIA_CONFORMANCE_REPORT"]).write_text(json.dumps(RESULTS, indent=2, sort_keys=True) + "\n")


__all__ = ["world"]
