"""Every clause on every backend: ``pytest tests/conformance -k sqlite``."""

from motia_core.testing import (
    TestData,
    TestForeign,
    TestMachine,
    TestOrder,
    TestRaces,
    TestReads,
    TestResilience,
    TestSubscribers,
)

__all__ = [
    "TestData",
    "TestForeign",
    "TestMachine",
    "TestOrder",
    "TestRaces",
    "TestReads",
    "TestResilience",
    "TestSubscribers",
]
