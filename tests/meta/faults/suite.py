"""Not collected by itself: see `test_faults.py`."""

from motia_core.testing import TestData, TestForeign, TestOrder, TestResilience, TestSubscribers, TestTriggers

__all__ = ["TestData", "TestForeign", "TestOrder", "TestResilience", "TestSubscribers", "TestTriggers"]
