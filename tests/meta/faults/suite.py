"""Not collected by itself: see `test_faults.py`."""

from motia_core.testing import (
    TestData,
    TestForeign,
    TestOrder,
    TestRaces,
    TestReads,
    TestResilience,
    TestSubscribers,
    TestTriggers,
)

__all__ = [
    "TestData",
    "TestForeign",
    "TestOrder",
    "TestRaces",
    "TestReads",
    "TestResilience",
    "TestSubscribers",
    "TestTriggers",
]
