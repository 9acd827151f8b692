"""Clauses A, B, C and F once more: what shows only when several things happen at a time."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from motia_core.adapter import Retention
from motia_core.errors import Conflict, OutcomeUnknown, PositionExpired, SchemaError
from motia_core.model import ABSENT, StreamSpec
from motia_core.testing.harness import DEADLINE, Cannot, Reader, World, eventually, read_log
from motia_core.testing.history import is_coalesced
from motia_core.testing.suite import Suite

SPEC = StreamSpec("documents")


class Races(Suite):
    """Racing writes, batches that are large or cut short, readers that are overtaken (SEMANTICS A4, A5, A7, B7, F2)."""

    async def test_A4_old_and_new_values_of_racing_writes_form_a_chain(self, world: World) -> None:
        docs = await world.stream()
        before = (await docs.set("g", "x", {"n": -1})).new_value
        results = await asyncio.gather(*(docs.set("g", "x", {"n": number}) for number in range(40)))
        results.sort(key=lambda result: result.position)
        for result in results:
            assert result.old_value == before
            before = result.new_value
        assert await docs.get("g", "x") == before

    async def test_A4_of_racing_deletes_one_deletes(self, world: World) -> None:
        docs = await world.stream()
        for turn in range(10):
            await docs.set("g", "x", {"n": turn})
            results = await asyncio.gather(*(docs.delete("g", "x") for _ in range(5)))
            assert [result.old_value for result in results if result] == [{"n": turn}]

    async def test_A5_of_racing_creates_updates_and_deletes_on_a_condition_one_wins(self, world: World) -> None:
        docs = await world.stream()
        if not docs.capabilities.conditional_writes:
            pytest.skip("conditional writes are declared unsupported")
        op = [{"type": "increment", "path": "n", "by": 1}]

        async def race(*attempts: Any) -> Any:
            results = await asyncio.gather(*attempts, return_exceptions=True)
            (won,) = [result for result in results if not isinstance(result, Conflict)]
            assert not isinstance(won, BaseException), won
            return won

        for _ in range(5):
            made = await race(*(docs.set("g", "x", {"n": 0}, expect=ABSENT) for _ in range(6)))
            changed = await race(*(docs.update("g", "x", op, expect=made.version) for _ in range(6)))
            assert await docs.get("g", "x") == {"n": 1}
            either = [docs.update("g", "x", op, expect=changed.version) for _ in range(3)]
            await race(*either, *(docs.delete("g", "x", expect=changed.version) for _ in range(3)))
            assert await docs.get("g", "x") in (None, {"n": 2})
            await docs.delete("g", "x")

    async def test_A7_the_largest_batch_is_one_step_too(self, world: World) -> None:
        docs = await world.stream()
        if not docs.capabilities.batch or not docs.capabilities.conditional_writes:
            pytest.skip("batches or conditional writes are declared unsupported")
        size = min(docs.capabilities.max_batch_writes, 1_000)
        head = await docs.hub.adapter.head(SPEC)
        with pytest.raises(Conflict):
            async with docs.batch() as batch:
                for number in range(size - 1):
                    batch.set("g", f"{number}", {"n": number})
                batch.set("g", "last", {}, expect="no-such-version")
        assert await docs.list("g") == []
        assert await read_log(docs.hub.adapter, SPEC, head) == []
        async with docs.batch() as batch:
            for number in range(size):
                batch.set("g", f"{number}", {"n": number})
        assert len(await docs.list("g")) == size

    async def test_A7_updates_and_the_schema_hold_in_a_batch(self, world: World) -> None:
        docs = await world.stream(schema={"type": "object", "properties": {"n": {"maximum": 10}}})
        if not docs.capabilities.batch:
            pytest.skip("batches are declared unsupported")
        await docs.set("g", "x", {"n": 9, "title": "a"})
        op = [{"type": "increment", "path": "n", "by": 1}]
        async with docs.batch() as batch:
            old = batch.update("g", "x", op)
            new = batch.update("g", "y", op)
        assert old.result is not None
        assert new.result is not None
        assert (old.result.old_value, old.result.new_value) == ({"n": 9, "title": "a"}, {"n": 10, "title": "a"})
        assert (new.result.type, new.result.new_value) == ("create", {"n": 1})
        with pytest.raises(SchemaError):
            async with docs.batch() as batch:
                batch.update("g", "y", op)
                batch.update("g", "x", op)
        assert await docs.list("g") == [{"n": 10, "title": "a"}, {"n": 1}]

    async def test_A7_a_batch_that_is_cancelled_is_whole_or_not_there(self, world: World) -> None:
        docs = await world.stream()
        if not docs.capabilities.batch:
            pytest.skip("batches are declared unsupported")

        async def write(turn: int) -> None:
            async with docs.batch() as batch:
                for part in range(5):
                    batch.set(f"{turn}", f"{part}", {})

        for turn in range(12):
            task = asyncio.create_task(write(turn))
            for _ in range(turn):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await docs.set("g", "last", {})  # whatever was still under way is settled behind it
        assert {len(await docs.list(f"{turn}")) for turn in range(12)} <= {0, 5}

    async def test_B2_one_item_too_is_shown_as_its_position_says(self, world: World) -> None:
        docs = await world.stream()
        adapter = docs.hub.adapter
        start = (await docs.set("g", "x", {"n": 0})).position
        stop = False

        async def write() -> None:
            number = 0
            while not stop:
                number += 1
                await docs.set("g", "x", {"n": number})

        writer = asyncio.create_task(write())
        snapshots = []
        for _ in range(20):
            snapshots.append(await adapter.snapshot(SPEC, "g", "x", limit=None))
            await asyncio.sleep(0)
        stop = True
        await writer
        log = await read_log(adapter, SPEC, start)
        for snapshot in snapshots:
            (item,) = snapshot.items
            before = [change.data["n"] for change in log if change.position <= snapshot.position]
            after = [change.data["n"] for change in log if change.position > snapshot.position]
            assert item.value["n"] == max(before, default=0) or is_coalesced(docs)
            assert max(before, default=0) <= item.value["n"] < min(after, default=item.value["n"] + 1)

    async def test_B7_a_watch_that_is_overtaken_says_so_or_misses_nothing(self, world: World) -> None:
        adapter = await world.adapter(retention=Retention(count=20))
        docs = await world.stream(adapter=adapter)
        head = await adapter.head(SPEC)
        async with aclosing(adapter.watch(SPEC, head)) as batches:
            assert not (await anext(batches)).changes
            results = [await docs.set("g", f"{number}", {"n": number}) for number in range(200)]

            async def trimmed() -> bool:
                await docs.set("g", "more", {"n": -1})
                return await adapter.floor(SPEC) >= results[100].position

            await eventually(trimmed, "the log to be trimmed")
            told: list[str] = []
            try:
                async with asyncio.timeout(DEADLINE):
                    async for batch in batches:
                        told += [change.position for change in batch.changes]
                        if batch.position >= results[-1].position:
                            break
            except PositionExpired:
                return
        wanted = [result.position for result in results]
        assert [position for position in told if position <= wanted[-1]] == wanted

    async def test_C1_an_item_that_is_joined_while_it_changes_misses_nothing(self, world: World) -> None:
        docs = await world.stream()
        await docs.set("g", "x", {"n": 0})
        stop = False

        async def write() -> int:
            number = 0
            while not stop:
                number += 1
                await docs.set("g", "x", {"n": number})
            return number

        writer = asyncio.create_task(write())
        readers = []
        for _ in range(20):
            readers.append(Reader(docs.watch("g", "x")))
            await asyncio.sleep(0.002)
        stop = True
        last = await writer
        for reader in readers:
            seen = await reader.until(lambda seen: bool(seen) and seen[-1].data == {"n": last})
            await reader.stop()
            told = [entry.data["n"] for entry in seen]
            assert told == (sorted(set(told)) if is_coalesced(docs) else list(range(told[0], last + 1)))

    @pytest.mark.parametrize("kind", ["set", "delete", "event", "batch"])
    async def test_F2_no_write_whose_reply_is_lost_is_sent_again(self, world: World, kind: str) -> None:
        docs = await world.stream()
        adapter = docs.hub.adapter
        await docs.set("g", "x", {"n": 0})
        head = await adapter.head(SPEC)
        try:
            if kind == "batch" and not docs.capabilities.batch:
                raise Cannot("batches are declared unsupported")
            if kind == "event" and not docs.capabilities.custom_events:
                raise Cannot("custom events are declared unsupported")
            await world.harness.lose_reply()
        except Cannot as reason:
            pytest.skip(str(reason))
        with pytest.raises(OutcomeUnknown):
            if kind == "set":
                await docs.set("g", "x", {"n": 1})
            elif kind == "delete":
                await docs.delete("g", "x")
            elif kind == "event":
                await docs.send({"groupId": "g", "id": "x"}, {"type": "t"})
            else:
                async with docs.batch() as batch:
                    batch.update("g", "x", [{"type": "increment", "path": "n", "by": 1}])
                    batch.set("g", "y", {})
        await docs.set("g", "after", {})
        log = await read_log(adapter, SPEC, head)
        assert sum(change.id == "x" for change in log) <= 1
