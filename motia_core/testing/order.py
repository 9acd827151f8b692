"""Clauses B: the order of changes."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import aclosing
from itertools import pairwise
from typing import Any

import pytest

from motia_core.adapter import Retention
from motia_core.errors import PositionExpired, UnsupportedCapability
from motia_core.model import StreamSpec
from motia_core.testing.harness import DEADLINE, Cannot, Reader, World, ends_at, eventually, read_log
from motia_core.testing.history import Told, check_history, is_coalesced, story, told
from motia_core.testing.suite import Suite

SPEC = StreamSpec("documents")


class Order(Suite):
    """The log, positions, timestamps, retention (SEMANTICS B)."""

    async def test_B1_every_write_is_in_the_log_and_nothing_else(self, world: World) -> None:
        docs = await world.stream()
        head = await docs.hub.adapter.head(SPEC)
        results = [
            await docs.set("g", "x", {"n": 1}),
            await docs.update("g", "x", [{"type": "increment", "path": "n", "by": 1}]),
            await docs.set("h", "y", {}),
            await docs.delete("g", "x"),
        ]
        await docs.delete("g", "x")
        log = await read_log(docs.hub.adapter, SPEC, head)
        written = {result.position: (result.version, result.timestamp) for result in results if result}
        read = {change.position: (change.version, change.timestamp) for change in log}
        assert list(read) == [position for position in written if position in read]
        assert len(read) == len(log)
        assert read.items() <= written.items()
        assert story(docs.capabilities, told(log)) == story(
            docs.capabilities,
            [
                Told("create", "g", "x", {"n": 1}),
                Told("update", "g", "x", {"n": 2}),
                Told("create", "h", "y", {}),
                Told("delete", "g", "x", {"n": 2}),
            ],
        )

    async def test_B1_cancelled_writes_are_in_both_or_in_neither(self, world: World) -> None:
        docs = await world.stream()
        head = await docs.hub.adapter.head(SPEC)

        async def write(number: int) -> None:
            for turn in range(500):
                await docs.set("g", f"{number}", {"turn": turn})

        tasks = [asyncio.create_task(write(number)) for number in range(12)]
        for number, task in enumerate(tasks):
            for _ in range(number * 7):
                await asyncio.sleep(0)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await docs.set("g", "last", {})  # whatever was still under way is settled behind it
        log = await read_log(docs.hub.adapter, SPEC, head)
        snapshot = await docs.hub.adapter.snapshot(SPEC, "g", None, limit=None)
        final = {("g", item.id): item.value for item in snapshot.items}
        assert check_history(log, final, coalesced=is_coalesced(docs))

    async def test_B2_all_observers_see_one_order(self, world: World) -> None:
        adapters = [await world.adapter()]
        if adapters[0].capabilities(SPEC).multi_process:
            adapters += [await world.adapter(), await world.adapter()]
        writers = [await world.stream(adapter=adapter) for adapter in adapters]
        head = await adapters[0].head(SPEC)
        readers = [Reader(adapter.watch(SPEC, head)) for adapter in adapters]

        async def write(number: int) -> None:
            docs = writers[number % len(writers)]
            for turn in range(30):
                await docs.set("g", f"{turn % 3}", {"by": number, "turn": turn})
                if turn % 10 == 9:
                    await docs.delete("g", f"{turn % 3}")
                if turn % 10 == 5 and docs.capabilities.batch:
                    async with docs.batch() as batch:
                        for item in range(3):
                            batch.set("g", f"{item}", {"by": number, "turn": turn})

        await asyncio.gather(*(write(number) for number in range(6)))
        last = await writers[0].set("g", "last", {})
        seen = []
        for reader in readers:
            await reader.until(lambda batches: bool(batches) and batches[-1].position >= last.position)
            seen.append([change for batch in reader.seen for change in batch.changes])
            await reader.stop()
        coalesced = is_coalesced(writers[0])
        positions = [[change.position for change in changes] for changes in seen]
        assert coalesced or all(other == positions[0] for other in positions)
        final = await adapters[0].snapshot(SPEC, "g", None, limit=None)
        for changes in seen:
            stored = {("g", item.id): item.value for item in final.items}
            verdict = check_history(changes, stored, coalesced=coalesced)
            assert verdict, verdict

    async def test_B2_nothing_appears_before_what_was_read(self, world: World) -> None:
        """Snapshots and watches, while writers run: what was read stays a prefix of the order."""
        docs = await world.stream()
        adapter = docs.hub.adapter
        head = await adapter.head(SPEC)
        reader = Reader(adapter.watch(SPEC, head))
        stop = False

        async def write(number: int) -> int:
            turn = 0
            while not stop:
                await docs.set("g", f"{number}", {"turn": turn})
                turn += 1
            return turn

        writers = [asyncio.create_task(write(number)) for number in range(4)]
        snapshots = []
        for _ in range(20):
            snapshots.append(await adapter.snapshot(SPEC, "g", None, limit=None))
            await asyncio.sleep(0)
        stop = True
        written = sum(await asyncio.gather(*writers))
        last = await docs.set("g", "last", {"turn": 0})
        await reader.until(lambda batches: bool(batches) and batches[-1].position >= last.position)
        await reader.stop()
        changes = [change for batch in reader.seen for change in batch.changes]
        coalesced = is_coalesced(docs)
        assert coalesced or len(changes) == written + 1
        for snapshot in snapshots:
            items = {item.id: item.value for item in snapshot.items}
            if not coalesced:  # else what led to the snapshot may not have been told
                before = [change for change in changes if change.position <= snapshot.position]
                assert {change.id: change.data for change in before} == items
            turns = {change.id: change.data["turn"] for change in changes if change.position <= snapshot.position}
            assert all(items[id]["turn"] >= turn for id, turn in turns.items())
            later = [change for change in changes if change.position > snapshot.position and change.id in items]
            assert all(change.data["turn"] > items[change.id]["turn"] for change in later)
            stamps = [change.timestamp for change in changes if change.position <= snapshot.position]
            after = [change.timestamp for change in changes if change.position > snapshot.position]
            assert not stamps or stamps[-1] <= snapshot.timestamp
            assert not after or snapshot.timestamp < after[0]

    async def test_B2_a_commit_that_is_held_open_is_never_missed(self, world: World) -> None:
        docs = await world.stream()
        await docs.set("g", "first", {})
        adapter = docs.hub.adapter
        head = await adapter.head(SPEC)
        reader = Reader(adapter.watch(SPEC, head))
        results = []
        try:
            async with world.harness.hold(adapter.settings, SPEC):
                passing = [asyncio.create_task(docs.set("g", str(number), {"n": number})) for number in range(5)]
                await asyncio.wait(passing, timeout=1.0)  # stores that lock let none of them pass yet
                snapshot = await adapter.snapshot(SPEC, "g", None, limit=None)
        except Cannot as reason:
            await reader.stop()
            pytest.skip(str(reason))
        results = await asyncio.gather(*passing)
        last = await docs.set("g", "last", {})
        await reader.until(lambda batches: bool(batches) and batches[-1].position >= last.position)
        await reader.stop()
        live = [change.position for batch in reader.seen for change in batch.changes]
        replayed = [change.position for change in await read_log(adapter, SPEC, head)]
        assert live == replayed
        assert {result.position for result in results} <= set(live)
        later = await read_log(adapter, SPEC, snapshot.position)
        assert len(later) + len([p for p in replayed if p <= snapshot.position]) == len(replayed)

    async def test_B2_get_and_list_see_own_writes(self, world: World) -> None:
        docs = await world.stream()
        for number in range(50):
            await docs.set("g", "x", {"n": number})
            assert await docs.get("g", "x") == {"n": number}
            assert await docs.list("g") == [{"n": number}]
            assert list(await docs.list_groups()) == ["g"]

    async def test_B2_another_process_sees_a_write(self, world: World) -> None:
        adapter = await world.adapter()
        if not adapter.capabilities(SPEC).multi_process:
            pytest.skip("several processes are declared unsupported")
        mine, theirs = await world.stream(adapter=adapter), await world.stream()
        reader = Reader(theirs.watch("g"))
        await reader.count(1)
        for number in range(20):
            result = await mine.set("g", "x", {"n": number})
            await reader.until(ends_at(result.position))
            assert await theirs.get("g", "x") == {"n": number}
        assert len(reader.seen) == 21
        await reader.stop()

    async def test_B3_watch_gives_the_rest_from_every_position(self, world: World) -> None:
        docs = await world.stream()
        adapter = docs.hub.adapter
        head = await adapter.head(SPEC)
        positions = []
        for number in range(15):
            result = await docs.set("g", str(number % 4), {"n": number})
            positions.append(result.position)
        whole = [Told("create" if n < 4 else "update", "g", str(n % 4), {"n": n}) for n in range(15)]
        for at, position in enumerate([head, *positions]):
            log = await read_log(adapter, SPEC, position)
            assert story(docs.capabilities, told(log)) == story(docs.capabilities, whole[at:])
            read = [change.position for change in log]
            assert read == [place for place in positions[at:] if place in read or not is_coalesced(docs)]

    async def test_B3_watch_goes_on_in_another_process_and_after_reopening(self, world: World) -> None:
        docs = await world.stream()
        adapter = docs.hub.adapter
        head = await adapter.head(SPEC)
        first = await docs.set("g", "x", {"n": 1})
        await docs.set("g", "x", {"n": 2})
        whole = await read_log(adapter, SPEC, head)
        rest = await read_log(adapter, SPEC, first.position)
        assert told(rest) == [Told("update", "g", "x", {"n": 2})]
        await world.close(adapter)
        again = await world.adapter()
        for position, before in ((head, whole), (first.position, rest)):
            after = await read_log(again, SPEC, position)
            assert story(docs.capabilities, told(after)) == story(docs.capabilities, told(before))
            assert after == before or is_coalesced(docs)
        await (await world.stream(adapter=again)).set("g", "y", {})
        assert [change.id for change in await read_log(again, SPEC, first.position)] == ["x", "y"]

    async def test_B3_watch_survives_a_restart_of_the_store(self, world: World) -> None:
        docs = await world.stream()
        if not docs.capabilities.durable:
            pytest.skip("the store is declared not to be durable")
        reader = Reader(docs.watch("g"))
        await reader.count(1)
        before = await docs.set("g", "x", {"n": 1})
        try:
            await world.harness.restart()
        except Cannot as reason:
            await reader.stop()
            pytest.skip(str(reason))

        async def written() -> bool:
            try:
                await docs.set("g", "y", {"n": 2})
            except Exception:
                return False
            return True

        await eventually(written, "a write after the restart")
        await reader.until(lambda seen: any(entry.id == "y" for entry in seen))
        await reader.stop()
        assert [entry.type for entry in reader.seen].count("sync") == 1
        assert any(entry.position.startswith(before.position) for entry in reader.seen)

    async def test_B4_positions_that_are_none_of_this_store_are_expired(self, world: World) -> None:
        docs = await world.stream()
        adapter = docs.hub.adapter
        result = await docs.set("g", "x", {})
        ahead = _ahead(result.position)
        for position in ("", "x", "0", "~~~", "\u00e9", ahead, result.position + "0", result.position[:-1]):
            with pytest.raises(PositionExpired):
                async with asyncio.timeout(DEADLINE), aclosing(adapter.watch(SPEC, position)) as batches:
                    async for batch in batches:
                        assert not batch.changes
                        assert batch.position != position

    async def test_B4_a_wiped_store_expires_its_positions(self, world: World) -> None:
        docs = await world.stream()
        adapter = docs.hub.adapter
        positions = [(await docs.set("g", "x", {"n": number})).position for number in range(3)]
        try:
            await world.harness.wipe()
        except Cannot as reason:
            pytest.skip(str(reason))
        again = await world.stream()
        for number in range(6):  # past where the old history was
            await again.set("g", "x", {"n": number})
        for position in positions:
            with pytest.raises(PositionExpired):
                await read_log(again.hub.adapter, SPEC, position)
        assert adapter is not again.hub.adapter

    async def test_B4_a_restored_store_expires_what_was_lost_and_nothing_else(self, world: World) -> None:
        docs = await world.stream()
        if not docs.capabilities.restore_detection:
            pytest.skip("detecting a restore is declared unsupported")
        kept = [(await docs.set("g", "x", {"n": number})).position for number in range(3)]
        await world.close(docs.hub.adapter)
        try:
            backup = await world.harness.backup()
        except Cannot as reason:
            pytest.skip(str(reason))
        docs = await world.stream()
        lost = [(await docs.set("g", "x", {"n": number})).position for number in range(3, 6)]
        lost_version = await docs.version("g", "x")
        await world.close(docs.hub.adapter)
        await world.harness.restore(backup)
        docs = await world.stream()
        for position in lost:
            with pytest.raises(PositionExpired):
                await read_log(docs.hub.adapter, SPEC, position)
        new = [(await docs.set("g", "x", {"n": -number})) for number in range(9)]
        for position in lost:
            with pytest.raises(PositionExpired):
                await read_log(docs.hub.adapter, SPEC, position)
        assert lost_version not in [result.version for result in new]
        after = await read_log(docs.hub.adapter, SPEC, kept[-1])
        expected = [Told("update", "g", "x", {"n": -number}) for number in range(9)]
        assert story(docs.capabilities, told(after)) == story(docs.capabilities, expected)
        assert after[-1].position == new[-1].position

    async def test_B4_restarts_expire_nothing(self, world: World) -> None:
        positions = []
        head = None
        for number in range(4):
            docs = await world.stream()
            head = head or await docs.hub.adapter.head(SPEC)
            if number != 2:  # one that writes nothing
                positions.append((await docs.set("g", f"{number}", {"n": number})).position)
            await world.close(docs.hub.adapter)
        adapter = await world.adapter()
        assert head is not None
        assert [change.position for change in await read_log(adapter, SPEC, head)] == positions
        assert positions == sorted(positions)

    async def test_B6_custom_events_travel_in_the_same_order(self, world: World) -> None:
        docs = await world.stream()
        if not docs.capabilities.custom_events:
            with pytest.raises(UnsupportedCapability):
                await docs.send({"groupId": "g"}, {"type": "t", "data": 1})
            return
        head = await docs.hub.adapter.head(SPEC)
        await docs.set("g", "x", {"n": 1})
        sent = await docs.send({"groupId": "g", "id": "x"}, {"type": "hello", "data": {"text": "é"}})
        await docs.send({"groupId": "g"}, {"type": "bare"})
        await docs.delete("g", "x")
        assert (sent.type, sent.old_value, sent.new_value, sent.version) == ("event", None, None, "")
        log = await read_log(docs.hub.adapter, SPEC, head)
        assert story(docs.capabilities, told(log)) == story(
            docs.capabilities,
            [
                Told("create", "g", "x", {"n": 1}),
                Told("event", "g", "x", {"text": "é"}, "hello"),
                Told("event", "g", None, None, "bare"),
                Told("delete", "g", "x", {"n": 1}),
            ],
        )
        assert sent.position == next(change.position for change in log if change.event_type == "hello")
        assert await docs.list("g") == []

    async def test_B7_retention_is_bounded_and_tells_how_far_it_went(self, world: World) -> None:
        adapter = await world.adapter(retention=Retention(count=20))
        docs = await world.stream(adapter=adapter)
        head = await adapter.head(SPEC)
        positions = [(await docs.set("g", f"{number}", {"n": number})).position for number in range(300)]

        async def trimmed() -> bool:
            # A little more than asked for may be kept, but not for ever.
            await docs.set("g", secrets.token_hex(8), {"n": -1})
            return await adapter.floor(SPEC) >= positions[100]

        await eventually(trimmed, "the log to be trimmed")
        for position in (head, positions[0]):
            with pytest.raises(PositionExpired) as caught:
                await read_log(adapter, SPEC, position)
            assert caught.value.floor is not None
        floor, rest = "", []

        async def read() -> bool:
            nonlocal floor, rest
            floor = await adapter.floor(SPEC)
            try:
                rest = await read_log(adapter, SPEC, floor)
            except PositionExpired:  # it was trimmed on in between
                return False
            return True

        await eventually(read, "what is kept to be read")
        assert len(rest) >= 20
        assert [c.position for c in rest if c.position <= positions[-1]] == [p for p in positions if p > floor]

    async def test_B7_retention_by_age_forgets_what_is_old(self, world: World) -> None:
        adapter = await world.adapter(retention=Retention(count=None, age=0.3))
        docs = await world.stream(adapter=adapter)
        head = await adapter.head(SPEC)
        old = (await docs.set("g", "old", {"n": 1})).position

        async def forgotten() -> bool:
            await docs.set("g", secrets.token_hex(8), {"n": 2})
            return await adapter.floor(SPEC) >= old

        await eventually(forgotten, "the old change to be trimmed")
        with pytest.raises(PositionExpired):
            await read_log(adapter, SPEC, head)
        new = await docs.set("g", "new", {"n": 3})
        assert (await read_log(adapter, SPEC, await adapter.floor(SPEC)))[-1].position >= new.position
        assert await docs.get("g", "old") == {"n": 1}, "retention is about the log, not about items"

    async def test_B8_a_wipe_reaches_subscribers(self, world: World) -> None:
        docs = await world.stream()
        await docs.set("g", "x", {"n": 1})
        reader = Reader(docs.watch("g"))
        await reader.count(1)
        try:
            await world.harness.wipe()
        except Cannot as reason:
            await reader.stop()
            pytest.skip(str(reason))

        def told(seen: list[Any]) -> bool:
            return any(entry.type == "delete" or (entry.type == "sync" and entry.reason) for entry in seen)

        await reader.until(told)

        async def written() -> bool:
            try:
                await docs.set("g", "after", {"n": 2})
            except Exception:
                return False
            return True

        await eventually(written, "a write after the wipe")

        def known(seen: list[Any]) -> bool:
            last = seen[-1]
            return last.id == "after" or (last.type == "sync" and {"n": 2} in last.data)

        await reader.until(known)
        await reader.stop()

    async def test_B10_timestamps_rise_and_are_the_same_for_everybody(self, world: World) -> None:
        docs = await world.stream()
        adapter = docs.hub.adapter
        head = await adapter.head(SPEC)
        results = list(await asyncio.gather(*(docs.set("g", str(number), {}) for number in range(100))))
        if docs.capabilities.batch:  # what one moment writes has an order too
            async with docs.batch() as batch:
                handles = [batch.set("g", f"in one batch {number}", {}) for number in range(10)]
            results += [handle.result for handle in handles if handle.result]
        log = await read_log(adapter, SPEC, head)
        stamps = [change.timestamp for change in log]
        assert all(earlier < later for earlier, later in pairwise(stamps))
        by_position = {result.position: result.timestamp for result in results}
        assert {change.position: change.timestamp for change in log} == by_position
        await world.close(adapter)
        again = await world.adapter()
        assert [change.timestamp for change in await read_log(again, SPEC, head)] == stamps
        snapshot = await again.snapshot(SPEC, "g", None, limit=None)
        assert snapshot.timestamp >= stamps[-1]
        later = await (await world.stream(adapter=again)).set("g", "later", {})
        assert later.timestamp > snapshot.timestamp
        assert all(stamp > 1_500_000_000_000 for stamp in stamps), "milliseconds since the epoch"

    async def test_F5_positions_are_bounded_and_the_head_is_a_position(self, world: World) -> None:
        docs = await world.stream()
        adapter = docs.hub.adapter
        result = await docs.set("g", "x", {})
        head = await adapter.head(SPEC)
        assert head >= result.position
        snapshot = await adapter.snapshot(SPEC, "g", None, limit=None)
        for position in (result.position, head, snapshot.position, await adapter.floor(SPEC)):
            assert 0 < len(position) <= adapter.capabilities(SPEC).max_position_length
            assert position.isascii()
            assert await read_log(adapter, SPEC, max(position, head)) == []

    async def test_F5_a_quiet_watch_reaches_the_head(self, world: World) -> None:
        """Progress: other streams' traffic moves a quiet stream's position along."""
        adapter = await world.adapter()
        quiet, busy = SPEC, await hidden_stream(adapter, StreamSpec("$busy", hidden=True))
        await adapter.prepare(quiet)
        reader = Reader(adapter.watch(quiet, await adapter.head(quiet)))
        await reader.count(1)
        for number in range(50):
            await busy.set("g", str(number), {})
        head = await adapter.head(quiet)
        await reader.until(lambda batches: batches[-1].position >= head)
        assert not any(batch.changes for batch in reader.seen)
        await reader.stop()

    async def test_F5_hidden_streams_without_a_log_store_and_guard(self, world: World) -> None:
        adapter = await world.adapter()
        spec = StreamSpec("$control", hidden=True, log=False)
        control = await hidden_stream(adapter, spec)
        first = await control.set("workers", "a", {"beat": 1}, expect="absent")
        async with control.batch() as batch:
            for number in range(16):
                batch.set("part", str(number), {"n": number}, expect="absent")
            batch.delete("workers", "a", expect=first.version)
        assert len(await control.list("part")) == 16
        assert await control.get("workers", "a") is None
        with pytest.raises(UnsupportedCapability):
            async with aclosing(adapter.watch(spec, await adapter.head(spec))) as batches:
                await anext(batches)


def _ahead(position: str) -> str:
    """A position of the same make that this store has not reached: its first digit raised."""
    digits = [at for at, letter in enumerate(position) if letter in "0123456789abcde"]
    at = digits[0]
    return position[:at] + chr(ord(position[at]) + 1 if position[at] != "9" else ord("a")) + position[at + 1 :]


async def hidden_stream(adapter: Any, spec: StreamSpec) -> Any:
    """A stream of motia-core's own, as the trigger runner keeps them."""
    from motia_core.hub import Hub
    from motia_core.streams import Stream

    await adapter.prepare(spec)
    return Stream(spec, adapter, Hub(adapter, spec))
