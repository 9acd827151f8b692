"""Clause E2: ``on_leave`` once for each join that was allowed, however it ends; and E3."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from motia_core import Auth, Motia, StreamConfig, Subscription
from motia_core.hookspecs import hookimpl
from motia_core.testing.harness import eventually

from .serving import Served, Spy, project, serve
from .sockets import RawSocket, Socket, kind, place


class Doorman:
    """Allows joins as told, and counts who came and went."""

    def __init__(self) -> None:
        self.joins: Counter[tuple[str, str | None, str | None]] = Counter()
        self.leaves: Counter[tuple[str, str | None, str | None]] = Counter()
        self.contexts: list[Any] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.asked = asyncio.Event()
        self.told: list[Subscription] = []

    def hold(self, group: str) -> asyncio.Event:
        """Joins to this group are answered when the gate is set."""
        return self.gates.setdefault(group, asyncio.Event())

    @property
    def stream(self) -> StreamConfig:
        return StreamConfig(name="documents", on_join=self.on_join, on_leave=self.on_leave)

    async def on_join(self, subscription: Subscription, ctx: Any, auth_context: Any) -> Any:
        self.asked.set()
        if subscription.group_id in self.gates:
            await self.gates[subscription.group_id].wait()
        if subscription.group_id == "denied":
            return {"authorized": False}
        self.joins[key(subscription)] += 1
        return {"authorized": True, "context": {"ticket": f"{subscription.group_id}/{subscription.subscription_id}"}}

    async def on_leave(self, subscription: Subscription, ctx: Any, auth_context: Any) -> None:
        self.contexts.append((subscription.context, auth_context))
        # The project's rooms are still open, whatever ends the connection.
        await ctx.state.set("left", subscription.subscription_id or "none", {"n": 1})
        self.leaves[key(subscription)] += 1

    @hookimpl
    async def motia_on_leave(self, subscription: Subscription, ctx: Any, auth_context: Any) -> None:
        self.told.append(subscription)

    async def empty(self, came: int) -> None:
        """Wait until so many have come and all have left, each as often as it came."""

        async def even() -> bool:
            return self.joins.total() == came == len(self.told) and self.joins == self.leaves

        await eventually(even, f"{came} to come and leave")


def key(subscription: Subscription) -> tuple[str, str | None, str | None]:
    return subscription.group_id, subscription.id, subscription.subscription_id


def served(folder: Path, door: Doorman, **options: Any) -> Motia:
    return project(folder, door.stream, plugins=[door], **options)


async def frame(server: Served, client: Socket) -> None:
    for group in ("a", "b", "c"):
        await client.leave(group, subscriptionId="s-" + group)


async def close(server: Served, client: Socket) -> None:
    await client.aclose()


async def abort(server: Served, client: Socket) -> None:
    client.abort()


async def revoke(server: Served, client: Socket) -> None:
    assert await server.motia.revoke(lambda auth: auth == {"user": "ada"}) == 1


async def expire(server: Served, client: Socket) -> None:
    assert await client.gone() == 4401


async def bad_frames(server: Served, client: Socket) -> None:
    await client.send(*["nonsense"] * 3)
    assert await client.gone() == 4400


@pytest.mark.parametrize("end", [frame, close, abort, revoke, expire, bad_frames])
async def test_E2_on_leave_once_however_it_ends(
    tmp_path: Path, end: Callable[[Served, Socket], Awaitable[None]]
) -> None:
    door = Doorman()

    async def authenticate(request: Any) -> Any:
        return Auth({"user": "ada"}, expires_at=time.time() + 0.5 if end is expire else None)

    async with serve(served(tmp_path, door, authenticate=authenticate, server={"max_bad_frames": 3})) as server:
        client = await server.connect()
        await client.joined("a", subscriptionId="s-a")
        await client.joined("b", "x", subscriptionId="s-b")
        await client.joined("c", subscriptionId="s-c", after=None)
        await client.joined("denied")
        await end(server, client)
        await door.empty(3)
    assert door.leaves == {("a", None, "s-a"): 1, ("b", "x", "s-b"): 1, ("c", None, "s-c"): 1}
    tickets = [{"ticket": f"{group}/s-{group}"} for group in ("a", "b", "c")]
    assert sorted(door.contexts, key=str) == [(ticket, {"user": "ada", **ticket}) for ticket in tickets]
    assert sorted(subscription.group_id for subscription in door.told) == ["a", "b", "c"]


async def test_E2_on_leave_once_at_shutdown_with_the_storages_still_open(tmp_path: Path) -> None:
    door = Doorman()
    async with serve(served(tmp_path, door)) as server:
        client = await server.connect()
        for number in range(20):
            await client.joined(f"g{number}", subscriptionId=str(number))
        server.server.should_exit = True
        assert await client.gone() == 1012
    assert door.joins.total() == 20
    assert door.joins == door.leaves
    async with project(tmp_path, door.stream) as after:
        assert len(await after.state.list("left")) == 20


async def test_E2_a_hook_that_runs_at_shutdown_is_waited_for(tmp_path: Path) -> None:
    door = Doorman()
    gate = door.hold("slow")
    async with serve(served(tmp_path, door)) as server:
        client = await server.connect()
        await client.join("slow")
        await door.asked.wait()
        server.server.should_exit = True
        assert await client.gone() == 1012
        gate.set()
    assert door.joins == door.leaves == {("slow", None, '["documents","slow",null]'): 1}


@pytest.mark.parametrize("how", ["leave", "close", "abort"])
async def test_E2_gone_while_the_hook_still_runs(tmp_path: Path, how: str) -> None:
    """A yes that comes too late is taken back: nothing is sent, and ``on_leave`` follows."""
    door = Doorman()
    gate = door.hold("slow")
    async with serve(served(tmp_path, door)) as server:
        await server.docs.set("slow", "x", {"n": 1})
        client = await server.connect()
        await client.join("slow", subscriptionId="s")
        await door.asked.wait()
        if how == "leave":
            await client.leave("slow", subscriptionId="s")
            await client.settled()
        else:
            await (client.aclose() if how == "close" else eventually_gone(server, client))
        gate.set()
        await door.empty(1)
        assert client.frames == []
        if how == "leave":
            assert kind(await client.joined("other")) == "sync"
            assert client.kinds() == ["sync"]
    assert door.joins[("slow", None, "s")] == 1


async def eventually_gone(server: Served, client: Socket) -> None:
    client.abort()

    async def noticed() -> bool:
        return not server.motia.connections

    await eventually(noticed, "the server to notice")


@pytest.mark.parametrize("how", ["leave", "close"])
async def test_E2_gone_while_the_snapshot_is_read(tmp_path: Path, how: str) -> None:
    door, spy = Doorman(), Spy()
    async with serve(served(tmp_path, door, spy=spy)) as server:
        await server.docs.set("g", "x", {"n": 1})
        client = await server.connect()
        spy.adapter.gate.clear()
        await client.join("g", subscriptionId="s")

        async def reading() -> bool:
            return spy.adapter.snapshots == ["g"]

        await eventually(reading, "the snapshot to be read")
        if how == "leave":
            await client.leave("g", subscriptionId="s")
            await client.settled()
        else:
            await client.aclose()
        spy.adapter.gate.set()
        await door.empty(1)
        await server.docs.set("g", "x", {"n": 2})
        if how == "leave":
            assert kind(await client.joined("other")) == "sync"
            assert client.kinds() == ["sync"]
        assert server.motia.hubs["documents"].members == (1 if how == "leave" else 0)


async def test_E2_joining_twice_by_one_name_leaves_the_first(tmp_path: Path) -> None:
    door = Doorman()
    async with serve(served(tmp_path, door)) as server:
        client = await server.connect()
        await client.joined("a", subscriptionId="s")
        await client.joined("b", subscriptionId="s")
        await server.docs.set("a", "x", {"n": 1})
        last = await server.docs.set("b", "x", {"n": 2})
        await client.at(last.position)
        assert client.kinds() == ["sync", "sync", "create"]
        await client.joined("b", subscriptionId="s")
        for _ in range(5):
            await client.join("b", subscriptionId="s")
        await client.settled()
        await client.aclose()
        await door.empty(8)
    assert door.leaves == {("a", None, "s"): 1, ("b", None, "s"): 7}


async def test_E2_one_snapshot_too_large_ends_the_join_and_is_left(tmp_path: Path) -> None:
    door = Doorman()
    async with serve(served(tmp_path, door, server={"max_sync_items": 2})) as server:
        for item in ("x", "y", "z"):
            await server.docs.set("g", item, {})
        client = await server.connect()
        assert kind(await client.joined("g")) == "GROUP_TOO_LARGE"
        await door.empty(1)
        assert kind(await client.joined("g", "x")) == "sync"


async def test_E2_on_leave_that_fails_or_hangs_harms_nobody(tmp_path: Path) -> None:
    left: list[str] = []

    async def on_leave(subscription: Subscription, ctx: Any, auth_context: Any) -> None:
        left.append(subscription.group_id)
        if subscription.group_id == "raises":
            raise SystemExit(1)
        if subscription.group_id == "hangs":
            await asyncio.Event().wait()

    class Hangs:
        @hookimpl
        async def motia_on_leave(self, subscription: Subscription, ctx: Any, auth_context: Any) -> None:
            if subscription.group_id == "hangs":
                await asyncio.Event().wait()

    told: list[str] = []

    class Told:
        @hookimpl
        def motia_on_leave(self, subscription: Subscription, ctx: Any, auth_context: Any) -> None:
            told.append(subscription.group_id)

    stream = StreamConfig(name="documents", on_leave=on_leave)
    async with serve(project(tmp_path, stream, plugins=[Hangs(), Told()], server={"join_timeout": 0.2})) as server:
        client, other = await server.connect(), await server.connect()
        for group in ("raises", "hangs", "fine"):
            await client.joined(group)
        await client.aclose()
        assert kind(await other.joined("fine")) == "sync"

        async def all_told() -> bool:
            return sorted(told) == ["fine", "hangs", "raises"]

        await eventually(all_told, "the last plugin to be told of all three")
    assert sorted(left) == ["fine", "fine", "hangs", "raises"]


async def test_E2_a_client_cannot_pile_up_hooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Joining and leaving at full speed, while the hooks hang."""
    monkeypatch.setattr("motia_core.server.connection.MAX_LEFT", 10)
    door = Doorman()
    gate = door.hold("g")
    async with serve(served(tmp_path, door, server={"max_subscriptions": 5})) as server:
        client = await server.connect()
        for _ in range(100):
            await client.join("g", subscriptionId="s")
        refused = await client.told("TOO_MANY_SUBSCRIPTIONS")
        assert refused["groupId"] == "g"
        await client.settled()
        assert len(client.frames) == 100 - 15
        gate.set()
        await door.empty(15)
        assert door.joins.total() == 15
        assert kind(await client.joined("g", subscriptionId="s")) == "sync"


async def test_E3_admission_is_for_what_was_asked_and_no_more(tmp_path: Path) -> None:
    async def on_join(subscription: Subscription, ctx: Any, auth_context: Any) -> Any:
        return {"authorized": (subscription.group_id, subscription.id) == ("A", "x")}

    streams = (StreamConfig(name="documents", on_join=on_join), StreamConfig(name="other", on_join=on_join))
    async with serve(project(tmp_path, *streams)) as server:
        witness = await server.connect()
        client = await server.connect()
        assert kind(await client.joined("A", "x")) == "sync"
        for group, item in (("A", None), ("A", "y"), ("B", "x"), ("B", None)):
            assert kind(await client.joined(group, item)) == "STREAM_ACCESS_DENIED"
        assert kind(await client.joined("A", "x", "other")) == "sync"
        await client.leave("A", "x", "other")
        for stream in ("documents", "other"):
            for group, item in (("A", "y"), ("B", "x"), ("A", "x:y"), ("B", "A")):
                await server.motia.streams[stream].set(group, item, {"n": 1})
            await server.motia.streams[stream].send({"groupId": "A"}, {"type": "to the group", "data": 1})
        assert kind(await witness.joined("A", "x")) == "sync"
        last = await server.docs.set("A", "x", {"n": 2})
        await client.at(last.position)
        await witness.at(last.position)
        assert [(f["groupId"], f["id"]) for f in client.changes()] == [("A", "x")]


async def test_E2_a_leave_needs_only_its_name(tmp_path: Path) -> None:
    """And leaving what was never joined, or twice, is nothing."""
    door = Doorman()
    async with serve(served(tmp_path, door)) as server:
        client = await server.connect()
        await client.joined("a")
        await client.joined("a", "x")
        await client.leave("never")
        await client.leave("a")
        await client.leave("a")
        await client.settled()
        last = await server.docs.set("a", "y", {})
        last = await server.docs.set("a", "x", {})
        await client.at(last.position)
        assert client.kinds() == ["sync", "sync", "create"]
        await client.aclose()
        await door.empty(2)


async def test_E2_a_tcp_reset_is_an_end_too(tmp_path: Path) -> None:
    door = Doorman()
    async with serve(served(tmp_path, door)) as server:
        raw = await RawSocket.open(server.port)
        await raw.send({"type": "join", "data": place("g")})
        assert (await raw.next())[0] == 1
        raw.reset()
        await door.empty(1)
        assert not server.motia.connections
