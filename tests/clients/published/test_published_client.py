"""The published Motia client for Node gets from this server what it expects (WIRE.md)."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from ..followers import Follower, Process, Record
from ..serving import Server

HERE = Path(__file__).parent
DOCS = "documents"


class Published(Process):
    """One Node process with the published client."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        super().__init__(process)
        self._names = itertools.count(1)

    async def item(self, group: str, id: str, custom: tuple[str, ...] = ()) -> Subscription:
        return await self._open("item", group=group, id=id, custom=custom)

    async def group(self, group: str, custom: tuple[str, ...] = ()) -> Subscription:
        return await self._open("group", group=group, custom=custom)

    async def _open(self, kind: str, **rest: Any) -> Subscription:
        subscription = Subscription(self, f"{kind}-{next(self._names)}")
        self.followers[subscription.name] = subscription
        await self.command({"do": kind, "as": subscription.name, "stream": DOCS, **rest})
        return subscription

    async def aclose(self) -> None:
        crashes = [record for record in self.console.records if record["name"] == "crashed"]
        await self.command({"do": "close"})
        code = await self.ended()
        assert (crashes, code) == ([], 0)


class Subscription(Follower):
    def __init__(self, client: Published, name: str) -> None:
        super().__init__()
        self.client = client
        self.name = name

    async def state(self, wanted: Any) -> None:
        """Wait until the client's state is this."""

        def fits(record: Record) -> bool:
            return bool(record["name"] == "state" and by_id(record["state"]) == by_id(wanted))

        await self.until(fits)

    async def leave(self) -> None:
        await self.client.command({"do": "leave", "as": self.name})

    def customs(self) -> list[tuple[str, Any]]:
        return [(record["type"], record["data"]) for record in self.records if record["name"] == "custom"]


def by_id(state: Any) -> Any:
    return sorted(state, key=lambda item: str(item["id"])) if isinstance(state, list) else state


async def answered(server: Server, client: Published) -> None:
    """Wait until the joins so far have been answered: of an item that is not there, the client says nothing."""
    await server.set(DOCS, "fence", "post", {})
    await (await client.item("fence", "post")).state({"id": "post"})


Connect = Callable[..., Awaitable[Published]]


@pytest.fixture
async def connect(node_command: list[str], published_modules: Path, server: Server) -> AsyncIterator[Connect]:
    """Start a client that is connected to the server."""
    module = published_modules / "@motiadev" / "stream-client-node" / "dist" / "index.mjs"
    async with AsyncExitStack() as stack:

        async def start(**options: Any) -> Published:
            process = await asyncio.create_subprocess_exec(
                *node_command,
                str(HERE / "driver.mjs"),
                str(module),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=2**24,
            )
            client = Published(process)
            stack.push_async_callback(client.aclose)
            await client.command({"do": "connect", "url": server.url, **options})
            return client

        yield start


async def test_an_item_is_followed(server: Server, connect: Connect) -> None:
    await server.set(DOCS, "w1", "a", {"n": 1})
    item = await (await connect()).item("w1", "a")
    await item.state({"id": "a", "n": 1})
    await server.set(DOCS, "w1", "b", {"n": 9})
    for n in (2, 3):
        await server.set(DOCS, "w1", "a", {"n": n})
        await item.state({"id": "a", "n": n})
    await server.delete(DOCS, "w1", "a")
    await item.state(None)
    await server.set(DOCS, "w1", "a", {"n": 4})
    await item.state({"id": "a", "n": 4})


async def test_an_item_that_is_not_there_yet_is_seen_when_it_comes(server: Server, connect: Connect) -> None:
    client = await connect()
    item = await client.item("w1", "a")
    await answered(server, client)
    await server.set(DOCS, "w1", "a", {"n": 1})
    await item.state({"id": "a", "n": 1})


async def test_a_group_is_followed(server: Server, connect: Connect) -> None:
    await server.set(DOCS, "w1", "a", {"n": 1})
    await server.set(DOCS, "w2", "x", {})
    group = await (await connect()).group("w1")
    await group.state([{"id": "a", "n": 1}])
    await server.set(DOCS, "w1", "b", {"n": 1})
    await group.state([{"id": "a", "n": 1}, {"id": "b", "n": 1}])
    await server.set(DOCS, "w1", "a", {"n": 2})
    await group.state([{"id": "a", "n": 2}, {"id": "b", "n": 1}])
    await server.delete(DOCS, "w1", "a")
    await group.state([{"id": "b", "n": 1}])


async def test_custom_events_reach_the_item_and_its_group_once(server: Server, connect: Connect) -> None:
    await server.set(DOCS, "w1", "a", {})
    client = await connect()
    group, item = await client.group("w1", custom=("wave",)), await client.item("w1", "a", custom=("wave",))
    await group.state([{"id": "a"}])
    await item.state({"id": "a"})
    await server.send(DOCS, "w1", "a", "wave", 1)
    await server.send(DOCS, "w1", None, "wave", 2)
    await server.send(DOCS, "w1", "a", "wave", 3)
    for subscription in (group, item):
        await subscription.until(lambda record: record.get("data") == 3)
    assert group.customs() == [("wave", 1), ("wave", 2), ("wave", 3)]
    assert item.customs() == [("wave", 1), ("wave", 3)]


async def test_who_left_hears_no_more(server: Server, connect: Connect) -> None:
    client = await connect()
    group, item = await client.group("w1"), await client.item("w1", "a")
    await answered(server, client)
    await item.leave()
    await server.set(DOCS, "w1", "a", {"n": 1})
    await group.state([{"id": "a", "n": 1}])
    assert {"id": "a", "n": 1} not in [record.get("state") for record in item.records]


async def test_after_a_restart_it_is_up_to_date_again(server: Server, connect: Connect) -> None:
    client = await connect()
    await server.set(DOCS, "w1", "a", {"n": 1})
    group, item = await client.group("w1"), await client.item("w1", "a")
    await group.state([{"id": "a", "n": 1}])
    await item.state({"id": "a", "n": 1})
    await server.stop()
    await server.set(DOCS, "w1", "a", {"n": 2})
    await server.set(DOCS, "w1", "b", {"n": 2})
    await server.start()
    await group.state([{"id": "a", "n": 2}, {"id": "b", "n": 2}])
    await item.state({"id": "a", "n": 2})
    await server.set(DOCS, "w1", "a", {"n": 3})
    await group.state([{"id": "a", "n": 3}, {"id": "b", "n": 2}])
    await item.state({"id": "a", "n": 3})


async def test_a_server_whose_clock_is_behind_is_followed_all_the_same(server: Server, connect: Connect) -> None:
    """The client drops what is not later than what it saw: times must come from the stream, not from a clock."""
    client = await connect()
    await server.set(DOCS, "w1", "a", {"n": 1})
    group, item = await client.group("w1"), await client.item("w1", "a")
    await server.set(DOCS, "w1", "a", {"n": 2})
    await group.state([{"id": "a", "n": 2}])
    await item.state({"id": "a", "n": 2})
    await server.stop()
    await server.start(clock_behind=3600.0)
    await server.set(DOCS, "w1", "a", {"n": 3})
    await group.state([{"id": "a", "n": 3}])
    await item.state({"id": "a", "n": 3})


async def test_its_token_arrives_and_a_refusal_does_not_crash_it(server: Server, connect: Connect) -> None:
    server.tokens = {"good"}
    good = await connect(token="good")
    item = await good.item("w1", "a")
    await answered(server, good)
    refused = await connect(token="bad")
    group = await refused.group("w1")
    server.refused.add("secret")
    barred = await good.group("secret")
    await answered(server, good)
    await server.set(DOCS, "w1", "a", {"n": 1})
    await item.state({"id": "a", "n": 1})
    for subscription in (group, barred):
        await subscription.client.command({"do": "look", "as": subscription.name})
        assert (await subscription.named("look"))["state"] in ([], None)
