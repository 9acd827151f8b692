"""Clause C over sockets: what each subscription of a client gets."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from motia_core.errors import BackendUnavailable
from motia_core.testing.harness import eventually

from .serving import Spy, project, serve
from .sockets import kind


async def test_C1_two_items_of_one_socket_get_every_change_of_a_run(tmp_path: Path) -> None:
    """Changes that the store hands over together, of two items in turn."""
    async with serve(project(tmp_path)) as server:
        client = await server.connect()
        await client.joined("g", "x")
        await client.joined("g", "y")
        async with server.docs.batch() as batch:
            for number in range(6):
                batch.send({"groupId": "g", "id": "xy"[number % 2]}, {"type": "n", "data": number})
        last = await server.docs.set("g", "y", {})
        await client.at(last.position)
        events = [frame["event"]["event"]["data"] for frame in client.changes() if kind(frame) == "event"]
        assert events == [0, 1, 2, 3, 4, 5]


async def test_C1_an_item_loses_nothing_to_a_group_that_is_ahead(tmp_path: Path) -> None:
    """The group's snapshot may hold changes that the watch has not brought yet: the item still waits for them."""
    spy = Spy()
    async with serve(project(tmp_path, spy=spy)) as server:
        client = await server.connect()
        await client.joined("g", "x")
        spy.adapter.flowing.clear()
        results = [await server.docs.send({"groupId": "g", "id": "x"}, {"type": "n"})]
        results.append(await server.docs.send({"groupId": "g", "id": "x"}, {"type": "n"}))
        await server.docs.set("g", "y", {})
        sync = await client.joined("g")
        assert sync["position"] > results[-1].position
        results.append(await server.docs.send({"groupId": "g", "id": "x"}, {"type": "n"}))
        results.append(await server.docs.set("g", "z", {}))
        spy.adapter.flowing.set()
        await client.at(results[-1].position)
        assert [frame["position"] for frame in client.changes()] == [result.position for result in results]


async def test_C1_a_join_in_a_new_history_gets_its_changes_before_the_others_are_synced(tmp_path: Path) -> None:
    """A socket's memory of what it got does not outlive the history that it got it from."""
    spy = Spy()
    async with serve(project(tmp_path, spy=spy)) as server:
        client, witness = await server.connect(), await server.connect()
        await client.joined("g")
        await witness.joined("w")
        for number in range(30):
            last = await server.docs.set("g", "x", {"n": number})
        await client.at(last.position)
        spy.adapter.gate.clear()
        spy.adapter.held = {"g"}
        _empty(tmp_path)

        async def replaced() -> bool:
            try:
                await server.docs.set("w", "x", {})
            except Exception:
                return False
            return any(frame.get("reason") == "reset" for frame in witness.frames)

        await eventually(replaced, "the new history to be noticed")
        late = await client.joined("late")
        assert late["position"] < last.position
        change = await server.docs.set("late", "x", {"n": "new"})
        await client.until(lambda frame: frame.get("position") == change.position)
        spy.adapter.gate.set()
        await client.until(lambda frame: frame.get("reason") == "reset")


def _empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


async def test_C3_each_gets_its_own_and_nothing_else(tmp_path: Path) -> None:
    """Groups and ids that look alike, and what a subscription to one must not show of another."""
    groups = ["g", "G", "g ", " g", "g:x", "g/x", "*", "g*", "{}", "é", "é"]
    async with serve(project(tmp_path)) as server:
        by_group = {group: await server.connect() for group in groups}
        by_item = {group: await server.connect() for group in groups}
        for group in groups:
            await by_group[group].joined(group)
            await by_item[group].joined(group, "x")
        wanted: dict[str, list[str]] = {group: [] for group in groups}
        wanted_items: dict[str, list[str]] = {group: [] for group in groups}
        for group in groups:
            for item in ("x", "y", "x:x", "X"):
                result = await server.docs.set(group, item, {})
                wanted[group].append(result.position)
                if item == "x":
                    wanted_items[group].append(result.position)
            wanted[group].append((await server.docs.send({"groupId": group}, {"type": "wave"})).position)
        for group in groups:
            await by_group[group].at(wanted[group][-1])
            await by_item[group].at(wanted_items[group][-1])
            await by_item[group].settled()
        for group in groups:
            assert [frame["position"] for frame in by_group[group].changes()] == wanted[group]
            assert [frame["position"] for frame in by_item[group].changes()] == wanted_items[group]


async def test_C4_one_watch_serves_all_and_none_is_left(tmp_path: Path) -> None:
    spy = Spy()
    async with serve(project(tmp_path, spy=spy)) as server:
        clients = [await server.connect() for _ in range(20)]
        for client in clients:
            for group in ("a", "b", "c"):
                await client.joined(group)
        assert spy.adapter.watches == 1
        last = await server.docs.set("c", "x", {})
        for client in clients:
            await client.at(last.position)
            await client.aclose()

        async def gone() -> bool:
            return server.motia.hubs["documents"].members == 0

        await eventually(gone, "all to be gone from the hub")


@pytest.mark.parametrize("error", [BackendUnavailable("away"), RuntimeError("a bug of the adapter")])
async def test_C6_a_watch_that_dies_is_made_again_without_a_gap(tmp_path: Path, error: Exception) -> None:
    spy = Spy()
    async with serve(project(tmp_path, spy=spy)) as server:
        client = await server.connect()
        await client.joined("g")
        results = []
        for number in range(5):
            results.append(await server.docs.set("g", "x", {"n": number}))
            spy.adapter.raises = error
            spy.adapter.broken.set()
            results.append(await server.docs.set("g", "x", {"n": -number}))
            spy.adapter.broken.clear()
            spy.adapter.raises = None
        await client.at(results[-1].position)
        assert [frame["position"] for frame in client.changes()] == [result.position for result in results]
        assert spy.adapter.watches > 1


async def test_C6_a_watch_that_is_cancelled_from_below_is_made_again(tmp_path: Path) -> None:
    spy = Spy()
    async with serve(project(tmp_path, spy=spy)) as server:
        client = await server.connect()
        await client.joined("g")
        spy.adapter.raises = asyncio.CancelledError()  # type: ignore[assignment]
        spy.adapter.broken.set()

        async def again() -> bool:
            return spy.adapter.watches > 1

        await eventually(again, "the watch to be tried again")
        spy.adapter.broken.clear()
        spy.adapter.raises = None
        last = await server.docs.set("g", "x", {})
        await client.at(last.position)


async def test_C1_a_sync_that_cannot_be_read_is_tried_until_it_can(tmp_path: Path) -> None:
    """After an overflow, with the storage away at that very moment."""
    spy = Spy()
    async with serve(project(tmp_path, spy=spy, server={"send_queue_changes": 10})) as server:
        client = await server.connect()
        await client.joined("g")
        real: Any = spy.adapter.snapshot
        fails = [BackendUnavailable("away"), RuntimeError("a bug"), BackendUnavailable("away")]

        async def snapshot(*args: Any, **options: Any) -> Any:
            if fails:
                raise fails.pop()
            return await real(*args, **options)

        spy.adapter.snapshot = snapshot  # type: ignore[method-assign]
        async with server.docs.batch() as batch:
            for number in range(20):
                batch.set("g", f"i{number:02}", {"n": number})
        again = await client.until(lambda frame: kind(frame) == "sync", since=1)
        assert len(again["event"]["data"]) == 20
        assert not fails
