"""Clauses B5 and B9: writes by other programs, and changes told as states."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from motia_core.adapter import Adapter
from motia_core.errors import Conflict
from motia_core.model import Change, StreamSpec
from motia_core.streams import Stream
from motia_core.testing.harness import Cannot, Reader, World, eventually, read_log
from motia_core.testing.history import Told, check_history, is_coalesced, story, told
from motia_core.testing.suite import Suite
from motia_core.values import encode_object

SPEC = StreamSpec("documents")


class Outsider:
    """Another program, as far as the harness can play it; skips the test where it cannot."""

    def __init__(self, world: World, adapter: Adapter) -> None:
        if not adapter.capabilities(SPEC).foreign_writes:
            pytest.skip(f"foreign writes are declared unsupported: {adapter.capabilities(SPEC).foreign_writes.note}")
        self._harness = world.harness
        self._settings = adapter.settings

    async def set(self, group: str, id: str, value: dict[str, Any]) -> None:
        """Create or replace an item."""
        await self._harness.set_out_of_band(self._settings, SPEC, group, id, value)

    async def delete(self, group: str, id: str) -> None:
        """Remove an item."""
        await self._harness.delete_out_of_band(self._settings, SPEC, group, id)

    async def move(self, group: str, id: str, to: str) -> None:
        """Give an item another group."""
        try:
            await self._harness.move_out_of_band(self._settings, SPEC, group, id, to)
        except Cannot as reason:
            pytest.skip(str(reason))


class Foreign(Suite):
    """Writes by other programs (SEMANTICS B5), and states in the place of steps (B9)."""

    async def test_B5_what_another_program_writes_is_there_and_is_a_change(self, world: World) -> None:
        docs = await world.stream()
        adapter = docs.hub.adapter
        outsider = Outsider(world, adapter)
        head = await adapter.head(SPEC)
        await docs.set("g", "mine", {"n": 1})
        await outsider.set("g", "theirs", {"n": 2, "s": "é"})
        assert await docs.get("g", "theirs") == {"n": 2, "s": "é"}
        assert sorted(item["n"] for item in await docs.list("g")) == [1, 2]
        assert list(await docs.list_groups()) == ["g"]
        await outsider.set("g", "mine", {"n": 3})
        await outsider.delete("g", "theirs")
        await outsider.set("h", "other", {"n": 4})
        expected = [
            Told("create", "g", "mine", {"n": 1}),
            Told("create", "g", "theirs", {"n": 2, "s": "é"}),
            Told("update", "g", "mine", {"n": 3}),
            Told("delete", "g", "theirs", {"n": 2, "s": "é"}),
            Told("create", "h", "other", {"n": 4}),
        ]
        await _logged(adapter, head, lambda log: log[-1:] == expected[-1:])
        log = await read_log(adapter, SPEC, head)
        assert story(docs.capabilities, told(log)) == story(docs.capabilities, expected)
        stored = {("g", "mine"): {"n": 3}, ("h", "other"): {"n": 4}}
        assert check_history(log, stored, coalesced=is_coalesced(docs))
        snapshot = await adapter.snapshot(SPEC, "g", None, limit=None)
        assert [item.value for item in snapshot.items] == [{"n": 3}]

    async def test_B5_subscribers_hear_of_another_programs_writes(self, world: World) -> None:
        docs = await world.stream()
        outsider = Outsider(world, docs.hub.adapter)
        await outsider.set("g", "x", {"n": 0})
        reader = Reader(docs.watch("g"))
        assert (await reader.count(1))[0].data == [{"n": 0}]
        for number in range(1, 6):
            await outsider.set("g", "x", {"n": number})
            await reader.count(number + 1)
        await outsider.delete("g", "x")
        seen = await reader.count(7)
        await reader.stop()
        assert [(entry.type, entry.data) for entry in seen[1:]] == [
            *(("update", {"n": number}) for number in range(1, 6)),
            ("delete", {"n": 5}),
        ]
        assert [entry.position for entry in seen] == sorted({entry.position for entry in seen})

    async def test_B5_an_item_that_moves_is_a_delete_there_and_a_create_here(self, world: World) -> None:
        docs = await world.stream()
        adapter = docs.hub.adapter
        outsider = Outsider(world, adapter)
        await docs.set("g", "x", {"n": 1})
        head = await adapter.head(SPEC)
        await outsider.move("g", "x", "h")
        await _logged(adapter, head, lambda log: len(log) == 2)
        assert told(await read_log(adapter, SPEC, head)) == [
            Told("delete", "g", "x", {"n": 1}),
            Told("create", "h", "x", {"n": 1}),
        ]
        assert await docs.get("g", "x") is None
        assert await docs.get("h", "x") == {"n": 1}
        assert list(await docs.list_groups()) == ["h"]

    async def test_B5_a_condition_sees_another_programs_write(self, world: World) -> None:
        docs = await world.stream()
        outsider = Outsider(world, docs.hub.adapter)
        if not docs.capabilities.conditional_writes:
            pytest.skip("conditional writes are declared unsupported")
        version = (await docs.set("g", "x", {"n": 1})).version
        await outsider.set("g", "x", {"n": 2})
        with pytest.raises(Conflict):
            await docs.set("g", "x", {"n": 3}, expect=version)
        with pytest.raises(Conflict):
            await docs.delete("g", "x", expect=version)
        theirs = await docs.version("g", "x")
        assert theirs != version
        if docs.capabilities.ordered_versions.level == "full":
            assert theirs is not None
            assert theirs > version
        result = await docs.set("g", "x", {"n": 4}, expect=theirs)
        assert result.old_value == {"n": 2}

    async def test_B5_updates_and_another_programs_writes_lose_nothing(self, world: World) -> None:
        """Both write one item and items of their own: the log leads to what is stored."""
        docs = await world.stream()
        adapter = docs.hub.adapter
        outsider = Outsider(world, adapter)
        head = await adapter.head(SPEC)
        reader = Reader(adapter.watch(SPEC, head))

        async def ours() -> None:
            for _ in range(25):
                await docs.update("g", "ours", [{"type": "increment", "path": "n", "by": 1}])
                await docs.update("g", "both", [{"type": "increment", "path": "n", "by": 1}])

        async def theirs() -> None:
            for number in range(25):
                await outsider.set("g", "theirs", {"n": number})
                await outsider.set("g", "both", {"n": 1_000 * (number + 1)})
                if number % 5 == 4:
                    await outsider.delete("g", "both")
                await asyncio.sleep(0)

        await asyncio.gather(ours(), theirs())
        last = await docs.set("g", "last", {"n": 0})
        await reader.until(lambda batches: bool(batches) and batches[-1].position >= last.position)
        await reader.stop()
        assert await docs.get("g", "ours") == {"n": 25}
        assert await docs.get("g", "theirs") == {"n": 24}
        stored = await adapter.snapshot(SPEC, "g", None, limit=None)
        final = {("g", item.id): item.value for item in stored.items}
        live = [change for batch in reader.seen for change in batch.changes]
        for log in (live, await read_log(adapter, SPEC, head)):
            verdict = check_history(log, final, coalesced=is_coalesced(docs))
            assert verdict, verdict

    async def test_B5_what_was_written_while_nobody_looked_is_told_later(self, world: World) -> None:
        docs = await world.stream()
        adapter = docs.hub.adapter
        outsider = Outsider(world, adapter)
        position = (await docs.set("g", "x", {"n": 1})).position
        known = (await docs.set("g", "y", {"n": 1})).position
        if is_coalesced(docs):  # what came and went while nobody looked leaves no trace, and nobody has it
            position = known
        await world.close(adapter)
        await outsider.set("g", "x", {"n": 2})
        await outsider.delete("g", "y")
        await outsider.set("g", "z", {"n": 3})
        again = await world.stream()
        assert await again.list("g") == [{"n": 2}, {"n": 3}]
        expected = [
            *([] if is_coalesced(again) else [Told("create", "g", "y", {"n": 1})]),
            Told("update", "g", "x", {"n": 2}),
            Told("delete", "g", "y", {"n": 1}),
            Told("create", "g", "z", {"n": 3}),
        ]
        await _logged(again.hub.adapter, position, lambda log: len(log) == len(expected))
        log = told(await read_log(again.hub.adapter, SPEC, position))
        if is_coalesced(again):  # nor does it leave the time at which an item went
            log, expected = sorted(log, key=_id), sorted(expected, key=_id)
        assert log == expected

    async def test_B9_a_watch_ends_at_what_is_stored_whatever_it_leaves_out(self, world: World) -> None:
        docs = await _stream_of_states(world)
        adapter = docs.hub.adapter
        head = await adapter.head(SPEC)
        reader = Reader(adapter.watch(SPEC, head))
        values: dict[str, list[Any]] = {}
        for turn in range(60):
            id = f"{turn % 3}"
            await docs.set("g", id, {"turn": turn})
            values.setdefault(id, []).append({"turn": turn})
            if turn % 20 == 19:
                await docs.delete("g", "0")
        last = await docs.set("g", "last", {})
        await reader.until(lambda batches: bool(batches) and batches[-1].position >= last.position)
        await reader.stop()
        stored = await adapter.snapshot(SPEC, "g", None, limit=None)
        final = {("g", item.id): item.value for item in stored.items}
        for log in (
            [change for batch in reader.seen for change in batch.changes],
            await read_log(adapter, SPEC, head),
        ):
            verdict = check_history(log, final, coalesced=True)
            assert verdict, verdict
            for id, written in values.items():  # each state that is told was one, and they come in order
                seen = [change.data for change in log if change.id == id and change.type != "delete"]
                places = [written.index(value) for value in seen]
                assert places == sorted(set(places))

    async def test_B9_what_is_told_fits_what_its_reader_has(self, world: World) -> None:
        docs = await _stream_of_states(world)
        adapter = docs.hub.adapter
        await docs.set("g", "again", {"n": 1})
        position = (await docs.set("g", "gone", {"n": 1})).position
        await docs.delete("g", "again")
        await docs.set("g", "again", {"n": 2})
        await docs.set("g", "gone", {"n": 2})
        await docs.set("g", "gone", {"n": 3})
        await docs.delete("g", "gone")
        await docs.set("g", "new", {"n": 1})
        await docs.set("g", "new", {"n": 2})
        expected = [
            Told("delete", "g", "again", {"n": 1}),
            Told("create", "g", "again", {"n": 2}),
            Told("update", "g", "gone", {"n": 3}),
            Told("delete", "g", "gone", {"n": 3}),
            Told("create", "g", "new", {"n": 1}),
            Told("update", "g", "new", {"n": 2}),
        ]
        log = await read_log(adapter, SPEC, position)
        assert check_history(
            [*_given(("again", 1), ("gone", 1)), *log], {("g", "again"): {"n": 2}, ("g", "new"): {"n": 2}}
        )
        assert story(docs.capabilities, told(log)) == story(docs.capabilities, expected)

    async def test_B9_what_a_snapshot_showed_and_is_gone_is_told(self, world: World) -> None:
        """A subscriber knows an item from its sync; whoever tells states must not forget its end."""
        docs = await _stream_of_states(world)
        reader = Reader(docs.watch("g"))
        await reader.count(1)
        for number in range(10):
            await docs.set("g", f"{number}", {"n": number})
            other = Reader(docs.watch("g"))
            sync = (await other.count(1))[0]
            assert {"n": number} in sync.data
            result = await docs.delete("g", f"{number}")
            assert result is not None
            await other.until(_ended(f"{number}"))
            await other.stop()
        last = await docs.set("g", "last", {"n": -1})
        await reader.until(lambda seen: seen[-1].position >= last.position)
        await reader.stop()
        assert [item.id for item in await _items(docs)] == ["last"]

    async def test_B9_what_another_process_told_and_is_gone_is_told(self, world: World) -> None:
        """Each process leaves out what came and went between its looks; who moves from one to another keeps nothing."""
        here, there = await _stream_of_states(world), await world.stream()
        if not here.capabilities.multi_process:
            pytest.skip("several processes are declared unsupported")
        witness = Reader(here.watch("g"))
        await witness.count(1)
        for number in range(20):
            id = f"{number}"
            other = Reader(there.watch("g"))
            await other.count(1)
            await there.set("g", id, {"n": number})
            seen = await other.until(lambda seen: len(seen) > 1)
            await other.stop()
            if number % 2:
                await there.delete("g", id)
            new = f"new{number}"
            await there.set("g", new, {"n": number})
            moved = Reader(here.watch("g", after=seen[-1].position))
            await moved.until(_reached(new))
            await there.delete("g", id)
            await there.delete("g", new)  # here the witness may hear of neither
            await moved.until(_ended(id))
            await moved.until(_ended(new))
            await moved.stop()
            assert [entry.type for entry in moved.seen if entry.id == id] == ["delete"]
            assert all(entry.type != "sync" for entry in moved.seen)
        await witness.stop()


async def _stream_of_states(world: World) -> Stream[dict[str, Any]]:
    docs = await world.stream()
    if not is_coalesced(docs):
        pytest.skip("every change is told: see B1 and B3")
    return docs


def _given(*items: tuple[str, int]) -> list[Change]:
    """What a reader knows already, as changes."""
    return [
        Change("create", SPEC.name, "g", id, encode_object({"n": n}), number / 10, None, f" {number}")
        for number, (id, n) in enumerate(items, 1)
    ]


def _id(entry: Told) -> str:
    return str(entry.id)


def _ended(id: str) -> Any:
    return lambda seen: any(entry.type == "delete" and entry.id == id for entry in seen)


def _reached(id: str) -> Any:
    return lambda seen: bool(seen) and seen[-1].id == id


async def _items(docs: Stream[Any]) -> Any:
    return (await docs.hub.adapter.snapshot(SPEC, "g", None, limit=None)).items


async def _logged(adapter: Adapter, head: str, done: Any) -> None:
    """Wait until another program's writes are in the order: the backend may need its declared bound."""

    async def arrived() -> bool:
        return bool(done(told(await read_log(adapter, SPEC, head))))

    await eventually(arrived, f"the writes in the log, within the declared {adapter.capabilities(SPEC).notice_bound} s")
