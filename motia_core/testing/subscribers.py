"""Clauses C: subscribers, and clauses F: when things break."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from itertools import pairwise
from typing import Any

import pytest

from motia_core.adapter import Adapter
from motia_core.errors import BackendError, BackendUnavailable, GroupTooLarge, MotiaError, OutcomeUnknown
from motia_core.model import Batch, StreamSpec
from motia_core.ring import RING_CHANGES
from motia_core.testing.harness import DEADLINE, Cannot, Reader, World, ends_at, eventually
from motia_core.testing.history import is_coalesced
from motia_core.testing.suite import Suite

SPEC = StreamSpec("documents")


class Spy(Adapter):
    """An adapter that counts calls, and can lose its watches."""

    def __init__(self, inner: Adapter) -> None:
        super().__init__(inner.settings)
        self.inner = inner
        self.watches = 0
        self.snapshots = 0
        self.fail_watches = asyncio.Event()

    def __getattribute__(self, name: str) -> Any:
        if name in ("inner", "watches", "snapshots", "fail_watches", "watch", "snapshot", "__dict__", "__class__"):
            return object.__getattribute__(self, name)
        return getattr(object.__getattribute__(self, "inner"), name)

    async def snapshot(self, *args: Any, **kwargs: Any) -> Any:
        self.snapshots += 1
        return await self.inner.snapshot(*args, **kwargs)

    async def watch(self, stream: StreamSpec, after: str) -> AsyncGenerator[Batch, None]:
        self.watches += 1
        if self.fail_watches.is_set():
            raise BackendUnavailable("cut by the test")
        failing = asyncio.ensure_future(self.fail_watches.wait())
        async with aclosing(self.inner.watch(stream, after)) as batches:
            coming = asyncio.ensure_future(anext(batches))
            try:
                while True:
                    await asyncio.wait({coming, failing}, return_when=asyncio.FIRST_COMPLETED)
                    if failing.done():
                        raise BackendUnavailable("cut by the test")
                    yield coming.result()
                    coming = asyncio.ensure_future(anext(batches))
            finally:
                failing.cancel()
                coming.cancel()
                await asyncio.gather(failing, coming, return_exceptions=True)

    address = None  # type: ignore[assignment]
    capabilities = open = close = write = get = list = list_groups = head = floor = None  # type: ignore[assignment]


Spy.__abstractmethods__ = frozenset()  # everything else goes to the inner adapter


class Subscribers(Suite):
    """Joins without a gap, resume, isolation, slow readers (SEMANTICS C)."""

    async def test_C1_a_join_is_a_sync_and_then_exactly_what_follows(self, world: World) -> None:
        docs = await world.stream()
        await docs.set("g", "x", {"n": 0})
        reader = Reader(docs.watch("g"))
        await reader.count(1)
        for number in range(1, 20):
            result = await docs.set("g", "x", {"n": number})
            if is_coalesced(docs):
                await reader.until(ends_at(result.position))
        await docs.delete("g", "x")
        seen = await reader.count(21)
        await reader.stop()
        assert (seen[0].type, seen[0].data) == ("sync", [{"n": 0}])
        assert [entry.data for entry in seen[1:]] == [*({"n": number} for number in range(1, 20)), {"n": 19}]
        assert [entry.type for entry in seen[1:]] == ["update"] * 19 + ["delete"]

    async def test_C1_joins_under_full_speed_writers_miss_nothing(self, world: World) -> None:
        adapter = await world.adapter()
        writers = [await world.stream(adapter=adapter)]
        docs = await world.stream() if adapter.capabilities(SPEC).multi_process else writers[0]
        stop = False

        async def write(number: int) -> int:
            turn = 0
            name = {"type": "set", "path": "title", "value": f"{number}"}
            while not stop:
                await writers[0].update("g", f"{number}", [{"type": "increment", "path": "n", "by": 1}, name])
                turn += 1
                if turn % 20 == 0:
                    await writers[0].delete("g", f"{number}")
            return turn

        tasks = [asyncio.create_task(write(number)) for number in range(4)]
        readers = []
        for _ in range(30):
            readers.append(Reader(docs.watch("g")))
            await asyncio.sleep(0.005)
        stop = True
        await asyncio.gather(*tasks)
        last = await writers[0].set("g", "last", {"n": -1})
        stored = await adapter.snapshot(SPEC, "g", None, limit=None)
        final = {item.id: item.value for item in stored.items}
        for reader in readers:
            await reader.until(lambda seen: bool(seen) and seen[-1].position >= last.position)
            await reader.stop()
            if is_coalesced(docs):
                _check_states(reader.seen, final)
            else:
                _check_subscriber(reader.seen, final)

    async def test_C1_an_item_can_be_joined_before_it_exists(self, world: World) -> None:
        docs = await world.stream()
        reader = Reader(docs.watch("g", "x"))
        assert (await reader.count(1))[0].data is None
        await docs.set("g", "other", {})
        await docs.set("g", "x", {"n": 1})
        seen = await reader.count(2)
        await reader.stop()
        assert [(entry.type, entry.id, entry.data) for entry in seen] == [
            ("sync", "x", None),
            ("create", "x", {"n": 1}),
        ]

    async def test_C2_resume_gives_what_was_missed(self, world: World) -> None:
        docs = await world.stream()
        reader = Reader(docs.watch("g"))
        await reader.count(1)
        first = await docs.set("g", "x", {"n": 1})
        await reader.count(2)
        await reader.stop()
        for number in range(2, 30):
            await docs.set("g", "x", {"n": number})
            await docs.set("elsewhere", "x", {"n": number})
        # In this process, where the hub remembers, and in one that has just started.
        for stream in (docs, await world.stream(adapter=docs.hub.adapter)):
            reader = Reader(stream.watch("g", after=first.position))
            seen = await reader.until(lambda seen: bool(seen) and seen[-1].data == {"n": 29})
            await reader.stop()
            missed = [entry.data["n"] for entry in seen]
            assert {entry.type for entry in seen} == {"update"}
            assert missed == (sorted(set(missed)) if is_coalesced(docs) else list(range(2, 30)))

    async def test_C2_resume_from_a_syncs_own_position(self, world: World) -> None:
        docs = await world.stream()
        await docs.set("elsewhere", "x", {})
        reader = Reader(docs.watch("g"))
        position = (await reader.count(1))[0].position
        await reader.stop()
        for stream in (docs, await world.stream(adapter=docs.hub.adapter)):
            reader = Reader(stream.watch("g", after=position))
            result = await docs.set("g", "x", {"n": 1})
            await reader.until(ends_at(result.position))
            assert all(entry.type != "sync" for entry in reader.seen)
            await reader.stop()

    async def test_C2_resume_over_more_than_a_hub_remembers_is_a_sync_or_whole(self, world: World) -> None:
        docs = await world.stream()
        if not docs.capabilities.batch or not docs.capabilities.custom_events:
            pytest.skip("batches or custom events are declared unsupported")
        position = (await docs.set("g", "x", {"n": 0})).position
        total = RING_CHANGES + 200 if docs.capabilities.tested_items > 100_000 else 500
        for start in range(0, total, 500):
            async with docs.batch() as batch:
                for number in range(start, min(start + 500, total)):
                    batch.set("g", f"{number % 50}", {"n": number}) if number - start < 50 else batch.send(
                        {"groupId": "other"}, {"type": "t", "data": number}
                    )
        fresh = await world.stream(adapter=docs.hub.adapter)
        reader = Reader(fresh.watch("g", after=position))
        await reader.count(1)
        last = await docs.set("g", "last", {"n": -1})
        await reader.until(lambda seen: seen[-1].position >= last.position)
        await reader.stop()
        if is_coalesced(docs):
            stored = await docs.hub.adapter.snapshot(SPEC, "g", None, limit=None)
            _check_states(reader.seen, {item.id: item.value for item in stored.items if item.id != "x"})
        elif reader.seen[0].type != "sync":
            assert reader.seen[0].position > position
            assert sum(entry.type != "sync" for entry in reader.seen) == 50 * (total // 500) + min(50, total % 500) + 1
        else:
            assert len(reader.seen) == 2

    async def test_C2_an_unknown_position_is_answered_by_a_sync(self, world: World) -> None:
        docs = await world.stream()
        await docs.set("g", "x", {"n": 1})
        told = (await anext(docs.watch("g"))).position
        for position in ("nonsense", "0", "~", "\uffff", "z" + told):
            reader = Reader(docs.watch("g", after=position))
            seen = await reader.count(1)
            await reader.stop()
            assert (seen[0].type, seen[0].data, seen[0].reason) == ("sync", [{"n": 1}], "expired")

    async def test_C2_a_group_too_large_is_refused_by_name(self, world: World) -> None:
        docs = await world.stream(max_sync_items=10)
        for number in range(11):
            await docs.set("g", str(number), {})
        with pytest.raises(GroupTooLarge, match="'g' holds more than 10 items"):
            await anext(docs.watch("g"))
        await docs.delete("g", "0")
        reader = Reader(docs.watch("g"))
        assert len((await reader.count(1))[0].data) == 10
        await reader.stop()
        by_bytes = await world.stream(adapter=docs.hub.adapter, max_sync_bytes=1_000)
        await docs.set("h", "x", {"text": "y" * 1_000})
        with pytest.raises(GroupTooLarge, match="bytes"):
            await anext(by_bytes.watch("h"))

    async def test_C3_subscribers_get_their_own_and_nothing_else(self, world: World) -> None:
        docs = await world.stream()
        readers = {
            "group": Reader(docs.watch("g")),
            "item": Reader(docs.watch("g", "x")),
            "other": Reader(docs.watch("h")),
        }
        for reader in readers.values():
            await reader.count(1)
        events = bool(docs.capabilities.custom_events)
        writes: list[tuple[Callable[[], Awaitable[Any]], tuple[str, str | None], set[str]]] = [
            (lambda: docs.set("g", "x", {"n": 1}), ("create", "x"), {"group", "item"}),
            (lambda: docs.set("g", "y", {"n": 2}), ("create", "y"), {"group"}),
            (lambda: docs.set("h", "x", {"n": 3}), ("create", "x"), {"other"}),
            (lambda: docs.send({"groupId": "g"}, {"type": "t"}), ("event", None), {"group"} if events else set()),
            (
                lambda: docs.send({"groupId": "g", "id": "x"}, {"type": "t"}),
                ("event", "x"),
                {"group", "item"} if events else set(),
            ),
            (lambda: docs.delete("g", "x"), ("delete", "x"), {"group", "item"}),
            (lambda: docs.delete("h", "x"), ("delete", "x"), {"other"}),
        ]
        expected: dict[str, list[tuple[str, str | None]]] = {name: [] for name in readers}
        for write, entry, names in writes:
            if names:
                await write()
            for name in names:
                expected[name].append(entry)
                if is_coalesced(docs):
                    await readers[name].count(len(expected[name]) + 1)
        for name, reader in readers.items():
            await reader.count(len(expected[name]) + 1)
            await reader.stop()
            assert [(entry.type, entry.id) for entry in reader.seen[1:]] == expected[name]

    async def test_C4_one_watch_serves_all_and_a_burst_costs_few_reads(self, world: World) -> None:
        spies: list[Spy] = []

        def wrap(adapter: Adapter) -> Adapter:
            spies.append(Spy(adapter))
            return spies[0]

        docs = await world.stream(wrap=wrap)
        position = (await docs.set("g", "x", {"n": 1})).position
        readers = [Reader(docs.watch("g")) for _ in range(200)]
        for reader in readers:
            await reader.count(1)
        await docs.set("g", "x", {"n": 2})
        for reader in readers:
            await reader.count(2)
            await reader.stop()
        assert spies[0].watches == 1
        assert spies[0].snapshots <= 2
        # The same clients come back to a process that remembers nothing.
        spies.clear()
        fresh = await world.stream(adapter=docs.hub.adapter.inner, wrap=wrap)  # type: ignore[attr-defined]
        readers = [Reader(fresh.watch("g", after=position)) for _ in range(200)]
        for reader in readers:
            assert (await reader.count(1))[0].data == {"n": 2}
            await reader.stop()
        assert spies[0].watches - 1 + spies[0].snapshots <= 2

    async def test_C5_a_slow_reader_gets_a_sync_and_delays_nobody(self, world: World) -> None:
        docs = await world.stream()
        if not docs.capabilities.batch:
            pytest.skip("batches are declared unsupported")
        slow = docs.watch("g")
        assert (await anext(slow)).type == "sync"
        reader = Reader(docs.watch("g"))
        await reader.count(1)
        total = RING_CHANGES // 100 * 100 + 600 if docs.capabilities.tested_items > 100_000 else 0
        if not total:
            await reader.stop()
            await slow.aclose()
            pytest.skip("the test server cannot take so many changes")
        for start in range(0, total, 100):
            async with docs.batch() as batch:
                for number in range(start, start + 100):
                    batch.set("g", f"{number % 100}", {"n": number})
            await reader.count(start + 101)  # it keeps up, whatever the other does
        await reader.stop()
        entry = await anext(slow)
        assert (entry.type, entry.reason) == ("sync", "overflow")
        assert sorted(item["n"] for item in entry.data) == list(range(total - 100, total))
        last = await docs.set("g", "last", {})
        assert ends_at(last.position)([await anext(slow)])
        await slow.aclose()

    async def test_C6_a_watch_that_dies_is_restarted_where_it_was(self, world: World) -> None:
        spies: list[Spy] = []

        def wrap(adapter: Adapter) -> Adapter:
            spies.append(Spy(adapter))
            return spies[0]

        docs = await world.stream(wrap=wrap)
        reader = Reader(docs.watch("g"))
        await reader.count(1)
        for number in range(3):
            await docs.set("g", "x", {"before": number})
            spies[0].fail_watches.set()
            await docs.set("g", "x", {"during": number})
            await asyncio.sleep(0)
            spies[0].fail_watches.clear()
        seen = await reader.until(lambda seen: seen[-1].data == {"during": 2})
        await reader.stop()
        assert [entry.type for entry in seen[:2]] == ["sync", "create"]
        assert {entry.type for entry in seen[2:]} <= {"update"}
        assert len(seen) == 7 or is_coalesced(docs)
        assert spies[0].watches >= 2


class Resilience(Suite):
    """Cancelling, closing, errors (SEMANTICS F)."""

    async def test_F2_a_closed_adapter_says_so(self, world: World) -> None:
        docs = await world.stream()
        await docs.set("g", "x", {})
        await docs.hub.adapter.close()
        for attempt in (lambda: docs.get("g", "x"), lambda: docs.set("g", "x", {}), lambda: docs.list("g")):
            with pytest.raises(BackendError):
                async with asyncio.timeout(DEADLINE):
                    await attempt()

    async def test_F2_a_write_whose_reply_is_lost_is_unknown_and_not_repeated(self, world: World) -> None:
        docs = await world.stream()
        await docs.set("g", "x", {"n": 0})
        try:
            await world.harness.lose_reply()
        except Cannot as reason:
            pytest.skip(str(reason))
        with pytest.raises(OutcomeUnknown):
            await docs.update("g", "x", [{"type": "increment", "path": "n", "by": 1}])
        await docs.set("g", "after", {})
        assert await docs.get("g", "x") in ({"n": 0}, {"n": 1})

    async def test_F3_cancelling_leaves_the_adapter_usable(self, world: World) -> None:
        docs = await world.stream()
        await docs.set("g", "x", {"n": 0})
        adapter = docs.hub.adapter
        head = await adapter.head(SPEC)

        async def watch() -> None:
            async with aclosing(adapter.watch(SPEC, head)) as batches:
                async for _ in batches:
                    pass

        operations = [
            lambda: docs.get("g", "x"),
            lambda: docs.set("g", "y", {}),
            lambda: docs.update("g", "x", [{"type": "increment", "path": "n", "by": 1}]),
            lambda: docs.delete("g", "y"),
            lambda: docs.list("g"),
            lambda: docs.list_groups(),
            lambda: adapter.snapshot(SPEC, "g", None, limit=None),
            lambda: adapter.head(SPEC),
            watch,
        ]
        for operation in operations:
            for yields in range(6):
                task = asyncio.ensure_future(operation())
                for _ in range(yields):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await docs.set("g", "after", {"n": 1})
        assert await docs.get("g", "after") == {"n": 1}
        reader = Reader(docs.watch("g"))
        await reader.count(1)
        await docs.set("g", "after", {"n": 2})
        assert (await reader.count(2))[1].data == {"n": 2}
        await reader.stop()

    async def test_F4_closing_leaves_nothing_behind(self, world: World) -> None:
        async def use(turn: int) -> None:
            docs = await world.stream()
            reader = Reader(docs.watch("g"))
            await reader.count(1)
            await docs.set("g", "x", {"turn": turn}, **({"ttl": 60} if docs.capabilities.ttl else {}))  # type: ignore[arg-type]
            await reader.count(2)
            await reader.stop()
            await world.close(docs.hub.adapter)

        await use(0)  # what a driver keeps once per process is not a leak
        gc.collect()
        tasks, threads, files = len(asyncio.all_tasks()), threading.active_count(), _open_files()
        for turn in range(1, 6):
            await use(turn)

        async def clean() -> bool:
            gc.collect()
            return len(asyncio.all_tasks()) <= tasks and threading.active_count() <= threads and _open_files() <= files

        await eventually(clean, f"no more than {tasks} tasks, {threads} threads, {files} open files")

    async def test_F4_closing_ends_watches_and_may_be_repeated(self, world: World) -> None:
        adapter = await world.adapter()
        await adapter.prepare(SPEC)
        reader = Reader(adapter.watch(SPEC, await adapter.head(SPEC)))
        await reader.count(1)
        async with asyncio.timeout(DEADLINE):
            await adapter.close()
            await adapter.close()
            with pytest.raises((AssertionError, MotiaError)):
                await reader.until(lambda _: False)
        never_opened = world.harness.make(world.settings())
        await never_opened.close()


def _check_subscriber(seen: list[Any], final: dict[str, Any]) -> None:
    """A sync and then changes: replayed, they must give what is stored, each once and in order."""
    assert seen[0].type == "sync"
    state: dict[str, Any] = {}
    position = ""
    for entry in seen:
        assert entry.position >= position if entry.type == "sync" else entry.position > position
        position = entry.position
        if entry.type == "sync":
            state = {item["title"]: item for item in entry.data}  # it is the id
            continue
        before = state.pop(entry.id, None)
        if entry.type == "delete":
            assert before == entry.data
            assert entry.data["n"] == 20
        else:
            state[entry.id] = entry.data
            if entry.id != "last":
                assert entry.data["n"] == (before["n"] if before else 0) + 1
    assert state == final


def _check_states(seen: list[Any], final: dict[str, Any]) -> None:
    """What a coalesced subscriber got leads to what is stored, in rising order."""
    assert all(earlier.position <= later.position for earlier, later in pairwise(seen))
    state: dict[str, Any] = {}
    synced: list[Any] = []
    for entry in seen:
        if entry.type == "sync":
            state, synced = {}, entry.data
        elif entry.id is not None and entry.type != "event":
            state[entry.id] = None if entry.type == "delete" else entry.data
    for id, value in final.items():
        assert state.get(id, value) == value
        assert id in state or value in synced
    assert all(value is None or id in final for id, value in state.items())


def _open_files() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0
