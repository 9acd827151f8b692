"""The suite on faulty adapters; `test_faults.py` runs it and judges what failed."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from motia_core.adapter import Adapter, StorageSettings
from motia_core.memory import MemoryStore
from motia_core.model import StreamSpec, Write
from motia_core.testing import Harness, world
from motia_core.testing.coalesced import CoalescedAdapter
from motia_core.testing.faults import FAULTS
from motia_core.values import encode_object

CHOSEN = os.environ.get("MOTIA_FAULTS", "").split(",")
FAILED: dict[str, list[str]] = {name: [] for name in CHOSEN if name}


class Faulty(Harness):
    def __init__(self, name: str) -> None:
        self.fault = FAULTS[name]
        self.store = MemoryStore()

    def make(self, settings: StorageSettings) -> Adapter:
        return self.fault.make(settings, self.store)

    async def wipe(self) -> None:
        self.store.wipe()

    async def lose_reply(self) -> None:
        self.store.lose_replies = 1

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
        adapter = self.fault.make(settings, self.store)
        assert isinstance(adapter, CoalescedAdapter)
        adapter.write_as_another_program(stream, writes)


@pytest.fixture(params=[name for name in CHOSEN if name])
async def harness(request: pytest.FixtureRequest) -> Harness:
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
