"""Every clause on every backend: ``pytest tests/conformance -k sqlite``."""

from motia_core.testing import (
    TestData,
    TestForeign,
    TestMachine,
    TestOrder,
    TestQueues,
    TestRaces,
    TestReads,
    TestResilience,
    TestSubscribers,
    TestTriggers,
    TestTrouble,
    TestWandering,
)

__all__ = [
    "TestData",
    "TestForeign",
    "TestMachine",
    "TestOrder",
    "TestQueues",
    "TestRaces",
    "TestReads",
    "TestResilience",
    "TestSubscribers",
    "TestTriggers",
    "TestTrouble",
    "TestWandering",
]
