"""Not collected by itself: see `test_faults.py`."""

from motia_core.testing import TestData, TestOrder, TestResilience, TestSubscribers

__all__ = ["TestData", "TestOrder", "TestResilience", "TestSubscribers"]
