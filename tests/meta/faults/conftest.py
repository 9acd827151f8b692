"""The suite on faulty adapters; `test_faults.py` runs it and judges what failed."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from motia_core.adapter import Adapter, StorageSettings
from motia_core.testing import Harness, world
from motia_core.testing.faults import FAULTS
from motia_core.testing.references import CoalescedHarness

CHOSEN = os.environ.get("MOTIA_FAULTS", "").split(",")
FAILED: dict[str, list[str]] = {name: [] for name in CHOSEN if name}


class Faulty(CoalescedHarness):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.fault = FAULTS[name]

    def make(self, settings: StorageSettings) -> Adapter:
        return self.fault.make(settings, self.store)


@pytest.fixture(params=[name for name in CHOSEN if name])
async def harness(request: pytest.FixtureRequest) -> Harness:
    if "TestTriggers" in request.node.nodeid and not FAULTS[request.param].clause.startswith("D"):
        pytest.skip("triggers need all the rest: their tests would see every other fault too")
    return Faulty(request.param)


def pytest_runtest_logreport(report: Any) -> None:
    if report.failed:
        name = report.nodeid.partition("[")[2]
        for fault in FAILED:
            if re.match(re.escape(fault) + r"[\]-]", name):
                FAILED[fault].append(report.nodeid)


def pytest_sessionfinish() -> None:
    if "MOTIA_FAULTS_REPORT" in os.environ:
        Path(os.environ["MOTIA_FAULTS_REPORT"]).write_text(json.dumps(FAILED))


__all__ = ["world"]
