"""Clauses A, B and F: whatever reads, by whatever way, tells the same, and all of it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from motia_core.errors import Conflict, MotiaError
from motia_core.model import ABSENT, StreamSpec
from motia_core.testing.harness import DEADLINE, Reader, World, eventually, read_log
from motia_core.testing.order import hidden_stream
from motia_core.testing.suite import Suite

SPEC = StreamSpec("documents")
MANY = 2_200
"""More than what a page of a backend is likely to hold."""


class Reads(Suite):
    """Large groups, long logs, all ways to read one item, other processes (SEMANTICS A6, A10, B3, F5)."""

    async def test_A1_the_log_and_snapshots_hold_what_was_stored(self, world: World) -> None:
        docs = await world.stream()
        if docs.capabilities.exact_values.level != "full":
            pytest.skip(f"values are declared limited: {docs.capabilities.exact_values.note}")
        adapter = docs.hub.adapter
        head = await adapter.head(SPEC)
        value = {"whole": 1.0, "int": 2**63 - 1, "zero": -0.0, "": [], "a.b": {}, "$c": "\U0001f600", "none": None}
        await docs.set("g", "x", value)
        snapshot = await adapter.snapshot(SPEC, "g", None, limit=None)
        alone = await adapter.snapshot(SPEC, "g", "x", limit=None)
        log = await read_log(adapter, SPEC, head)
        for found in (snapshot.items[0].value, alone.items[0].value, log[0].data):
            assert {key: repr(member) for key, member in found.items()} == {k: repr(v) for k, v in value.items()}

    async def test_A2_versions_are_the_same_by_whatever_way_they_are_read(self, world: World) -> None:
        docs = await world.stream()
        adapter = docs.hub.adapter
        written = {id: (await docs.set("g", id, {"id": id})).version for id in ("a", "b", "c")}
        written["b"] = (await docs.set("g", "b", {"id": "again"})).version
        listed = await adapter.list(SPEC, "g", after=None, limit=None)
        shown = await adapter.snapshot(SPEC, "g", None, limit=None)
        assert {item.id: item.version for item in listed} == written
        assert {item.id: item.version for item in shown.items} == written
        for id, version in written.items():
            (alone,) = (await adapter.snapshot(SPEC, "g", id, limit=None)).items
            assert (alone.version, await docs.version("g", id)) == (version, version)

    async def test_A6_a_cursor_need_not_be_there(self, world: World) -> None:
        docs = await world.stream()
        names = ["b", "d", "f"]
        for name in names:
            await docs.set("g", name, {"id": name})
            await docs.set(name, "x", {})
        for after in "abcdefz":
            rest = [name for name in names if name > after]
            assert [item["id"] for item in await docs.list("g", after=after)] == rest
            assert list(await docs.list_groups(after=after)) == sorted([*rest, *("g" if after < "g" else "")])
        await docs.delete("g", "d")
        assert [item["id"] for item in await docs.list("g", after="d")] == ["f"]

    async def test_A6_a_snapshot_has_a_limit_too(self, world: World) -> None:
        docs = await world.stream()
        for name in "dbac":
            await docs.set("g", name, {"id": name})
        for limit in (1, 3, 4, 9):
            snapshot = await docs.hub.adapter.snapshot(SPEC, "g", None, limit=limit)
            assert [item.id for item in snapshot.items] == list("abcd"[:limit])

    async def test_A6_what_is_large_is_whole(self, world: World) -> None:
        """A group, the groups and a snapshot, past where pages end."""
        docs = await world.stream()
        adapter = docs.hub.adapter
        ids = [f"{number:05}" for number in range(_many(docs))]
        await _write_all(docs, [("g", id) for id in ids])
        assert [item["id"] for item in await docs.list("g")] == ids
        snapshot = await adapter.snapshot(SPEC, "g", None, limit=None)
        assert [item.id for item in snapshot.items] == ids
        after, pages = ids[0], ids[:1]
        for _ in range(10):
            page = await adapter.list(SPEC, "g", after=after, limit=1_000)
            pages += [item.id for item in page]
            after = pages[-1]
            if len(page) < 1_000:
                break
        assert pages == ids
        await _write_all(docs, [(f"h{id}", "x") for id in ids])
        assert list(await docs.list_groups()) == ["g", *(f"h{id}" for id in ids)]

    async def test_B3_a_long_log_is_whole_from_anywhere(self, world: World) -> None:
        docs = await world.stream()
        adapter = docs.hub.adapter
        start = await adapter.head(SPEC)
        ids = [f"{number:05}" for number in range(_many(docs))]
        results = await _write_all(docs, [("g", id) for id in ids])
        for at in (0, 1, len(ids) // 2):
            position = results[at - 1].position if at else start
            told: list[str | None] = []
            while position < results[-1].position:
                # From batch to batch as somebody does who is cut off after each.
                async with asyncio.timeout(DEADLINE), aclosing(adapter.watch(SPEC, position)) as batches:
                    async for batch in batches:
                        told += [change.id for change in batch.changes]
                        if batch.changes:
                            assert batch.position >= batch.changes[-1].position
                            position = batch.position
                            break
            assert told == ids[at:]

    async def test_A9_groups_and_namespaces_do_not_leak_into_snapshots_and_logs(self, world: World) -> None:
        docs = await world.stream()
        adapter = docs.hub.adapter
        start = await adapter.head(SPEC)
        names = ["a", "A", "ab", "a:b", "*", "%"]
        if docs.capabilities.any_ids.level == "full":
            names.append("a/b")
        for name in names:
            await docs.set(name, name, {"name": name})
        for name in names:
            snapshot = await adapter.snapshot(SPEC, name, None, limit=None)
            assert [(item.group, item.id, item.value) for item in snapshot.items] == [(name, name, {"name": name})]
        log = await read_log(adapter, SPEC, start)
        assert [(change.group_id, change.id) for change in log] == [(name, name) for name in names]
        if docs.capabilities.isolation.level == "full":
            theirs = await world.stream(adapter=await world.adapter(namespace=world.namespace + "x"))
            head = await theirs.hub.adapter.head(SPEC)
            await theirs.set("a", "theirs", {})
            assert [change.id for change in await read_log(theirs.hub.adapter, SPEC, head)] == ["theirs"]
            assert len(await read_log(adapter, SPEC, start)) == len(names)

    async def test_A10_an_expired_item_is_gone_for_whoever_asks(self, world: World) -> None:
        docs = await world.stream()
        if not docs.capabilities.ttl:
            pytest.skip("ttl is declared unsupported")
        adapter = docs.hub.adapter
        for turn in range(10):  # whenever a sweeper may come by
            id = f"{turn}"
            version = (await docs.set("g", id, {"n": 1}, ttl=0.05)).version
            await asyncio.sleep(0.06)
            assert (await adapter.snapshot(SPEC, "g", id, limit=None)).items == ()
            assert (await adapter.snapshot(SPEC, "g", None, limit=None)).items == ()
            assert await docs.version("g", id) is None
            if docs.capabilities.conditional_writes:
                with pytest.raises(Conflict):
                    await docs.set("g", id, {"n": 2}, expect=version)
                assert (await docs.set("g", id, {"n": 3}, expect=ABSENT)).type == "create"
                await docs.delete("g", id)
            else:
                assert await docs.delete("g", id) is None

    async def test_A10_a_later_ttl_takes_the_place_of_an_earlier_one(self, world: World) -> None:
        docs = await world.stream()
        if not docs.capabilities.ttl:
            pytest.skip("ttl is declared unsupported")
        for id in ("set", "made again", "probe"):
            await docs.set("g", id, {"n": 1}, ttl=0.3)
        expire = {"probe"}
        await docs.set("g", "set", {"n": 2}, ttl=3_600)
        await docs.delete("g", "made again")
        await docs.set("g", "made again", {"n": 2})
        head = await docs.hub.adapter.head(SPEC)
        if docs.capabilities.batch:
            async with docs.batch() as batch:
                batch.set("g", "in a batch", {"n": 1}, ttl=0.3)
                batch.set("h", "beside it", {"n": 1})
            expire.add("in a batch")

        async def deletes() -> set[str | None]:
            log = await read_log(docs.hub.adapter, SPEC, head)
            return {change.id for change in log if change.type == "delete"}

        async def swept() -> bool:
            return await deletes() >= expire

        await eventually(swept, "the deletes of what expired in the log")
        assert await docs.list("g") == [{"n": 2}] * 2
        assert await deletes() == expire

    async def test_B3_two_watches_take_nothing_from_each_other(self, world: World) -> None:
        docs = await world.stream()
        adapter = docs.hub.adapter
        head = await adapter.head(SPEC)
        readers = [Reader(adapter.watch(SPEC, head))]
        await readers[0].count(1)
        middle = await docs.set("g", "0", {"n": 0})
        readers += [Reader(adapter.watch(SPEC, position)) for position in (head, middle.position)]
        for reader in readers:
            await reader.count(1)
        for number in range(1, 20):
            await docs.set("g", f"{number}", {"n": number})
        last = await docs.set("g", "last", {"n": 20})
        seen = []
        for reader in readers:
            await reader.until(lambda batches: batches[-1].position >= last.position)
            seen.append([change.data["n"] for batch in reader.seen for change in batch.changes])
            await reader.stop()
        assert seen == [list(range(21)), list(range(21)), list(range(1, 21))]

    async def test_B6_an_event_leaves_its_item_alone(self, world: World) -> None:
        docs = await world.stream()
        if not docs.capabilities.custom_events:
            pytest.skip("custom events are declared unsupported")
        version = (await docs.set("g", "x", {"n": 1})).version
        head = await docs.hub.adapter.head(SPEC)
        for number in range(3):
            await docs.send({"groupId": "g", "id": "x"}, {"type": "t", "data": number})
        assert await docs.version("g", "x") == version
        log = await read_log(docs.hub.adapter, SPEC, head)
        assert [(change.type, change.data) for change in log] == [("event", number) for number in range(3)]

    async def test_F2_everything_of_a_closed_adapter_says_so(self, world: World) -> None:
        docs = await world.stream()
        await docs.set("g", "x", {})
        adapter = docs.hub.adapter
        head = await adapter.head(SPEC)
        await adapter.close()

        async def watch() -> None:
            async with aclosing(adapter.watch(SPEC, head)) as batches:
                async for _ in batches:
                    pass

        attempts: list[Any] = [
            lambda: docs.delete("g", "x"),
            lambda: docs.list_groups(),
            lambda: adapter.snapshot(SPEC, "g", None, limit=None),
            lambda: adapter.head(SPEC),
            lambda: adapter.floor(SPEC),
        ]
        for attempt in attempts:
            with pytest.raises(MotiaError):
                async with asyncio.timeout(DEADLINE):
                    await attempt()
        try:  # a watch may also just end
            async with asyncio.timeout(DEADLINE):
                await watch()
        except MotiaError:
            pass

    async def test_F5_another_process_reads_every_acknowledged_write(self, world: World) -> None:
        mine = await world.adapter()
        if not mine.capabilities(SPEC).multi_process:
            pytest.skip("several processes are declared unsupported")
        theirs = await world.adapter()
        spec = StreamSpec("$control", hidden=True)
        writer, reader = await hidden_stream(mine, spec), await hidden_stream(theirs, spec)
        for number in range(20):
            result = await writer.set("g", "x", {"n": number})
            assert await theirs.head(spec) >= result.position
            assert await reader.get("g", "x") == {"n": number}
            assert await reader.list("g") == [{"n": number}]
            assert list(await reader.list_groups()) == ["g"]


def _many(docs: Any) -> int:
    return MANY if docs.capabilities.batch and docs.capabilities.tested_items > 100_000 else 300


async def _write_all(docs: Any, names: list[tuple[str, str]]) -> list[Any]:
    """Items whose value is their id, in batches if there are any; the results."""
    if not docs.capabilities.batch:
        return [await docs.set(group, id, {"id": id}) for group, id in names]
    size = min(docs.capabilities.max_batch_writes, 500)
    handles: list[Any] = []
    for start in range(0, len(names), size):
        async with docs.batch() as batch:
            handles += [batch.set(group, id, {"id": id}) for group, id in names[start : start + size]]
    return [handle.result for handle in handles]
