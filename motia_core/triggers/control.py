"""The control stream through the adapter's contract, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from motia_core.adapter import Adapter, Capabilities
from motia_core.errors import UnsupportedCapability
from motia_core.model import Item, Write, WriteResult
from motia_core.triggers.records import CONTROL, NOTICE, WORKERS

PAGE = 500
"""Records read at once."""


def put(group: str, id: str, json: bytes, expect: str | None = None) -> Write:
    """A write of one record."""
    return Write("set", group, id, json, expect)


def remove(group: str, id: str, expect: str | None = None) -> Write:
    """A delete of one record."""
    return Write("delete", group, id, expect=expect)


def lacking(adapter: Adapter) -> str | None:
    """What keeps durable triggers from running on a storage (the capability, and why), or ``None``."""
    declared = adapter.capabilities(CONTROL)
    for name in ("conditional_writes", "batch"):
        support = getattr(declared, name)
        if not support:
            return f"{name}: {support.note}"
    return None


class Control:
    """Reads and writes of the control stream of one storage."""

    def __init__(self, adapter: Adapter, rng: Random) -> None:
        self.adapter = adapter
        self.rng = rng

    @property
    def capabilities(self) -> Capabilities:
        """What the storage promises for the control stream."""
        return self.adapter.capabilities(CONTROL)

    async def open(self) -> None:
        """Prepare the stream. Raises `UnsupportedCapability` where durable triggers cannot work."""
        if missing := lacking(self.adapter):
            raise UnsupportedCapability(f"storage {self.adapter.settings.name!r} cannot run triggers: {missing}")
        await self.adapter.prepare(CONTROL)

    def token(self) -> str:
        """A fresh random name: of a worker, a trigger, or one attempt to write."""
        return f"{self.rng.getrandbits(64):016x}"

    def notice(self) -> Write:
        """Tells all workers to look again."""
        return put(WORKERS, NOTICE, b'{"notice":"%s"}' % self.token().encode())

    async def get(self, group: str, id: str) -> Item | None:
        """One record."""
        return await self.adapter.get(CONTROL, group, id)

    async def write(self, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        """All or nothing."""
        return await self.adapter.write(CONTROL, writes)

    async def list(self, group: str, *, after: str | None = None, before: str | None = None) -> list[Item]:
        """The group's records with ids > ``after`` and < ``before``, page by page."""
        items: list[Item] = []
        while True:
            page = await self.adapter.list(CONTROL, group, after=after, limit=PAGE)
            for item in page:
                if before is not None and item.id >= before:
                    return items
                items.append(item)
            if len(page) < PAGE:
                return items
            after = page[-1].id
