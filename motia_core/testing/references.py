"""Harnesses of the references: how yours may look, and what the suite's own tests use."""

from __future__ import annotations

from typing import Any

from motia_core.adapter import Adapter, StorageSettings
from motia_core.memory import MemoryAdapter, MemoryStore
from motia_core.model import StreamSpec, Write
from motia_core.testing.coalesced import CoalescedAdapter
from motia_core.testing.harness import Harness
from motia_core.values import encode_object


class MemoryHarness(Harness):
    """The reference backend; its store outlives its adapters, as a server would."""

    name = "memory"

    def __init__(self) -> None:
        self.store = MemoryStore()

    def make(self, settings: StorageSettings) -> Adapter:
        """A client of the store."""
        return MemoryAdapter(settings, self.store)

    async def wipe(self) -> None:
        """Empty the store."""
        self.store.wipe()

    async def lose_reply(self) -> None:
        """The next write happens, and nobody is told."""
        self.store.lose_replies = 1


class CoalescedHarness(MemoryHarness):
    """The reference for storage that tells states; another program writes straight into the store."""

    name = "coalesced"

    def make(self, settings: StorageSettings) -> Adapter:
        """A client of the store."""
        return CoalescedAdapter(settings, self.store)

    async def set_out_of_band(
        self, settings: StorageSettings, stream: StreamSpec, group: str, id: str, value: Any
    ) -> None:
        """Past every adapter."""
        self._write(settings, stream, Write("set", group, id, encode_object(value)))

    async def delete_out_of_band(self, settings: StorageSettings, stream: StreamSpec, group: str, id: str) -> None:
        """Past every adapter."""
        self._write(settings, stream, Write("delete", group, id))

    async def move_out_of_band(
        self, settings: StorageSettings, stream: StreamSpec, group: str, id: str, to: str
    ) -> None:
        """Past every adapter, in one step."""
        json = self.store.stream(settings.namespace, stream.name).groups[group][id].json
        self._write(settings, stream, Write("delete", group, id), Write("set", to, id, json))

    def _write(self, settings: StorageSettings, stream: StreamSpec, *writes: Write) -> None:
        adapter = self.make(settings)
        assert isinstance(adapter, CoalescedAdapter)
        adapter.write_as_another_program(stream, writes)
