"""The references, and one that declares nothing which is optional."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from motia_core.adapter import Adapter, Capabilities, StorageSettings, unsupported
from motia_core.errors import UnsupportedCapability
from motia_core.memory import CAPABILITIES, MemoryAdapter
from motia_core.model import StreamSpec, Write, WriteResult
from motia_core.testing import ExpectedFailure
from motia_core.testing.references import CoalescedHarness, MemoryHarness


class Memory(MemoryHarness):
    def __init__(self, path: Path) -> None:
        super().__init__()


class Coalesced(CoalescedHarness):
    def __init__(self, path: Path) -> None:
        super().__init__()


class ModestAdapter(MemoryAdapter):
    """Declares nothing that is optional: what it is asked for all the same has to be refused."""

    def capabilities(self, stream: StreamSpec) -> Capabilities:
        no = unsupported("to see it refused")
        return replace(CAPABILITIES, conditional_writes=no, batch=no, ttl=no, custom_events=no, restore_detection=no)

    async def write(self, stream: StreamSpec, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        for write in writes:
            assert write.expect is None, "an undeclared condition reached the backend"
            assert write.ttl is None, "an undeclared ttl reached the backend"
            assert write.kind != "event", "an undeclared event reached the backend"
        assert len(writes) <= 1, "an undeclared batch reached the backend"
        return await super().write(stream, writes)


class Modest(Memory):
    name = "modest"
    expected_failures = (
        ExpectedFailure(
            "test_F5_hidden_streams_without_a_log_store_and_guard",
            "triggers need conditions and batches",
            UnsupportedCapability,
        ),
    )

    def make(self, settings: StorageSettings) -> Adapter:
        return ModestAdapter(settings, self.store)
