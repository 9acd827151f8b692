"""Every clause on every backend: ``pytest tests/conformance -k sqlite``."""

from motia_core.testing import TestData, TestMachine, TestOrder, TestResilience, TestSubscribers

__all__ = ["TestData", "TestMachine", "TestOrder", "TestResilience", "TestSubscribers"]
