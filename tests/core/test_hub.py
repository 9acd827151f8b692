"""What happens to those who join while the hub around them begins anew, or closes (SEMANTICS C, F4)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest
import pytest_asyncio

from motia_core.adapter import StorageSettings
from motia_core.errors import BackendUnavailable
from motia_core.hub import Hub
from motia_core.memory import MemoryAdapter
from motia_core.model import Batch, Snapshot, StreamSpec
from motia_core.schema import compile_schema
from motia_core.streams import Stream
from motia_core.testing.coalesced import CoalescedAdapter
from motia_core.testing.harness import DEADLINE, Reader
from motia_core.watching import Queue

SPEC = StreamSpec("documents")


class Slow(MemoryAdapter):
    """Answers can be held back on their way."""

    def __init__(self, settings: StorageSettings) -> None:
        super().__init__(settings)
        self.watches, self.snapshots, self.heads = Gate(), Gate(), Gate()

    async def head(self, stream: StreamSpec) -> str:
        head = await super().head(stream)
        await self.heads.passed()
        return head

    async def watch(self, stream: StreamSpec, after: str) -> AsyncGenerator[Batch, None]:
        async with aclosing(super().watch(stream, after)) as batches:
            async for batch in batches:
                await self.watches.passed()
                yield batch

    async def snapshot(self, stream: StreamSpec, group: str, id: str | None, *, limit: int | None) -> Snapshot:
        snapshot = await super().snapshot(stream, group, id, limit=limit)
        await self.snapshots.passed()
        return snapshot


class SlowStates(Slow, CoalescedAdapter):
    """The same, of storage that tells states; there it is `resume` that is held back."""

    watch = CoalescedAdapter.watch

    async def resume(self, stream: StreamSpec, after: str) -> AsyncGenerator[Batch, None]:
        async with aclosing(super().resume(stream, after)) as batches:
            async for batch in batches:
                await self.watches.passed()
                yield batch


class Gate:
    """Who comes while it is shut waits until it is opened, or for ever."""

    def __init__(self) -> None:
        self.came = asyncio.Event()
        self._open = asyncio.Event()
        self._open.set()

    def shut(self) -> None:
        """From now on."""
        self.came.clear()
        self._open.clear()

    def open(self) -> None:
        """Let all go on."""
        self._open.set()

    async def passed(self) -> None:
        """Wait, if need be."""
        self.came.set()
        await self._open.wait()


@pytest_asyncio.fixture(params=[Slow])
async def slow(request: pytest.FixtureRequest) -> AsyncGenerator[Slow, None]:
    adapter = request.param(StorageSettings("default"))
    await adapter.open()
    yield adapter
    await adapter.close()


@pytest_asyncio.fixture
async def docs(slow: Slow) -> AsyncGenerator[Stream[dict[str, Any]], None]:
    hub = Hub(slow, SPEC)
    yield Stream(SPEC, slow, hub, schema=compile_schema("stream 'documents'", None), max_value_bytes=1_000_000)
    await hub.close()


async def held(gate: Gate) -> None:
    """Wait until somebody waits there."""
    async with asyncio.timeout(DEADLINE):
        await gate.came.wait()


async def test_B8_who_resumes_while_the_history_is_lost_gets_the_new_one(
    slow: Slow, docs: Stream[dict[str, Any]]
) -> None:
    """The store has said that it knows a position, and is emptied before that is heard."""
    witness = Reader(docs.watch("w"))
    await witness.count(1)
    behind = slow.watches
    behind.shut()
    for number in range(9):
        last = await docs.set("g", "x", {"n": number})
    await held(behind)
    slow.watches = Gate()
    slow.watches.shut()
    reader = Reader(docs.watch("g", after=last.position))
    await held(slow.watches)
    slow.store.wipe()
    asked, slow.watches = slow.watches, Gate()
    behind.open()
    await witness.until(lambda seen: seen[-1].reason == "reset")
    asked.open()
    await reader.until(lambda seen: bool(seen) and seen[-1].type == "sync")
    await docs.set("g", "x", {"n": "new"})
    await reader.until(lambda seen: seen[-1].data == {"n": "new"})
    await reader.stop()
    await witness.stop()


async def test_F4_who_resumes_while_the_hub_is_closed_is_told(slow: Slow, docs: Stream[dict[str, Any]]) -> None:
    """Whatever the store says in the end: nothing would come any more."""
    witness = Reader(docs.watch("w"))
    await witness.count(1)
    behind = slow.watches
    behind.shut()
    last = await docs.set("g", "x", {"n": 1})
    await held(behind)
    slow.watches = Gate()
    slow.watches.shut()
    joining = asyncio.create_task(docs.hub.join(Queue(), "g", after=last.position))
    await held(slow.watches)
    await docs.hub.close()
    slow.watches.open()
    with pytest.raises(BackendUnavailable, match="'documents' is closed"):
        await joining
    await witness.stop()


async def test_F4_a_snapshot_that_nobody_waits_for_any_more_ends_with_the_hub(
    slow: Slow, docs: Stream[dict[str, Any]]
) -> None:
    before = asyncio.all_tasks()
    slow.snapshots.shut()
    reader = Reader(docs.watch("g"))
    await held(slow.snapshots)
    await reader.stop()
    await docs.hub.close()
    assert asyncio.all_tasks() <= before


class Leaping(SlowStates):
    """Its watch can be held back, and has forgotten the item ``brief`` when it goes on."""

    async def watch(self, stream: StreamSpec, after: str) -> AsyncGenerator[Batch, None]:
        async with aclosing(CoalescedAdapter.watch(self, stream, after)) as batches:
            async for batch in batches:
                await self.watches.passed()
                told = tuple(change for change in batch.changes if change.id != "brief")
                yield Batch(told, batch.position, leaps=told != batch.changes)


@pytest.mark.parametrize("slow", [Leaping], indirect=True)
@pytest.mark.parametrize("when", ["joined", "joining", "gone"])
async def test_B9_who_has_a_snapshot_from_within_a_leap_is_told_of_what_it_shows(
    slow: Leaping, docs: Stream[dict[str, Any]], when: str
) -> None:
    """Also where it is on its way yet, or whoever has it has left meanwhile."""
    witness = Reader(docs.watch("w"))
    await witness.count(1)
    slow.watches.shut()
    await docs.set("w", "x", {"id": "x"})
    await held(slow.watches)
    await docs.set("g", "brief", {"id": "brief"})
    if when == "joining":
        slow.snapshots.shut()
    readers = [Reader(docs.watch("g"))]
    if when == "joining":
        await held(slow.snapshots)
    else:
        sync = (await readers[0].count(1))[0]
        assert sync.data == [{"id": "brief"}]
    if when == "gone":
        await readers[0].stop()
    await docs.delete("g", "brief")
    slow.watches.open()
    await docs.set("w", "y", {"id": "y"})
    await witness.until(lambda seen: seen[-1].id == "y")
    slow.snapshots.open()
    if when == "gone":
        readers.append(Reader(docs.watch("g", after=sync.position)))
    await docs.set("g", "last", {"id": "last"})
    await readers[-1].until(lambda seen: bool(seen) and {"id": "last"} in (seen[-1].data, *seen[-1].data))
    shown: set[str] = set()
    for entry in [entry for reader in readers for entry in reader.seen]:
        if entry.type == "sync":
            shown = {item["id"] for item in entry.data}
        else:
            (shown.discard if entry.type == "delete" else shown.add)(entry.data["id"])
    assert shown == {"last"}
    for reader in {witness, readers[-1]}:
        await reader.stop()


@pytest.mark.parametrize("slow", [SlowStates], indirect=True)
async def test_B2_who_comes_from_elsewhere_while_a_new_history_begins_sees_nothing_twice(
    slow: Slow, docs: Stream[dict[str, Any]]
) -> None:
    """The sync that everybody gets may be faster than what is read for those who resume."""
    witness = Reader(docs.watch("g"))
    await witness.count(1)
    slow.heads.shut()
    slow.store.wipe()
    await held(slow.heads)
    elsewhere = await MemoryAdapter.head(slow, SPEC)
    await docs.set("g", "x", {"n": 1})
    slow.watches.shut()
    reader = Reader(docs.watch("g", after=elsewhere))
    await held(slow.watches)
    await docs.set("g", "x", {"n": 2})
    slow.heads.open()
    await witness.until(lambda seen: seen[-1].reason == "reset" or seen[-1].data == {"n": 2})
    slow.watches.open()
    await docs.set("g", "x", {"n": 3})
    await reader.until(lambda seen: bool(seen) and {"n": 3} in (seen[-1].data, *seen[-1].data))
    await reader.stop()
    await witness.stop()
    positions = [entry.position for entry in reader.seen]
    assert positions == sorted(positions)
