"""Faults that durable triggers cannot live with: on the reference backend, shared by two processes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

import orjson

from motia_core.adapter import FULL, Capabilities
from motia_core.errors import PositionExpired
from motia_core.memory import MemoryAdapter
from motia_core.model import Batch, StreamSpec, Write, WriteResult
from motia_core.testing.faults import fault


class _Shared(MemoryAdapter):
    """Two adapters on one store play two processes."""

    def capabilities(self, stream: StreamSpec) -> Capabilities:
        return replace(super().capabilities(stream), multi_process=FULL)


@fault("D5")
class LeaseThatTwoHold(_Shared):
    """Conditions on the records of triggers are not looked at: whoever claims a partition has it."""

    async def write(self, stream: StreamSpec, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        if stream.name == "$control":
            writes = [replace(write, expect=None) if write.expect != "absent" else write for write in writes]
        return await super().write(stream, writes)


@fault("D3", "D5")
class CheckpointGoesBack(_Shared):
    """A partition's record is stored with the cursor that it had before."""

    async def write(self, stream: StreamSpec, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        results = await super().write(stream, writes)
        rows = self.store.stream(self.settings.namespace, stream.name).groups
        for result in results:
            if stream.name == "$control" and result and result.type == "update" and result.group.startswith("part:"):
                old, new = orjson.loads(result.old_json or b"{}"), orjson.loads(result.new_json or b"{}")
                row = rows[result.group][result.id or ""]
                row.json = orjson.dumps({**new, "cursor": old["cursor"], "done": []})
        return results


@fault("D4")
class ForgetsDeadLetters(_Shared):
    """A dead letter is acknowledged and not stored."""

    async def write(self, stream: StreamSpec, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        kept = [write for write in writes if not write.group.startswith("dead:")]
        results = iter(await super().write(stream, kept))
        return [next(results) if write in kept else None for write in writes]


@fault("D6")
class ExpiresWithoutAFloor(_Shared):
    """History is gone, and nobody says where it begins now."""

    async def watch(self, stream: StreamSpec, after: str) -> AsyncGenerator[Batch, None]:
        async with aclosing(super().watch(stream, after)) as batches:
            try:
                async for batch in batches:
                    yield batch
            except PositionExpired as error:
                raise PositionExpired(str(error), position=after, floor=self.store.position(1)) from None
