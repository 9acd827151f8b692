"""What a stream shows, through cuts and restarts: asked of both clients."""

from __future__ import annotations

from typing import Any

import pytest

from .followers import Clients, Follower, Node
from .serving import Server

DOCS = "documents"


async def live(follower: Follower, since: int = 0) -> Any:
    return (await follower.status("live", since))["detail"]


async def test_a_group_gives_a_snapshot_then_every_change(server: Server, clients: Clients) -> None:
    await server.set(DOCS, "w1", "a", {"title": "A"})
    follower = await clients.open(DOCS, group_id="w1", url=server.url)
    assert await live(follower) == {"resumed": False, "missed": 0}
    await server.set(DOCS, "w2", "elsewhere", {})
    await server.set(DOCS, "w1", "a", {"title": "A2"})
    await server.set(DOCS, "w1", "b", {"title": "B"})
    last = await server.delete(DOCS, "w1", "b")
    record = await follower.at(last)
    assert follower.deliveries() == [
        ("sync", [{"id": "a", "title": "A"}]),
        ("update", {"id": "a", "title": "A2"}),
        ("create", {"id": "b", "title": "B"}),
        ("delete", {"id": "b", "title": "B"}),
    ]
    change = record["change"]
    assert (change["type"], change["stream_name"], change["group_id"], change["id"]) == ("delete", DOCS, "w1", "b")
    assert change["version"]
    assert change["timestamp"] > 0


async def test_an_item_gives_itself_alone(server: Server, clients: Clients) -> None:
    follower = await clients.open(DOCS, group_id="w1", id="a", url=server.url)
    await live(follower)
    await server.set(DOCS, "w1", "b", {})
    await follower.at(await server.set(DOCS, "w1", "a", {"title": "A"}))
    assert follower.deliveries() == [("sync", None), ("create", {"id": "a", "title": "A"})]


async def test_a_custom_event_has_its_own_name(server: Server, clients: Clients) -> None:
    follower = await clients.open(DOCS, group_id="w1", url=server.url, custom=("wave", "update"))
    await live(follower)
    await server.send(DOCS, "w1", None, "wave", {"from": "Ada"})
    await server.send(DOCS, "w1", "a", "update", {"not": "a write"})
    await follower.at(await server.set(DOCS, "w1", "a", {}))
    assert follower.deliveries()[1:] == [
        ("event", {"type": "wave", "data": {"from": "Ada"}}),
        ("wave", {"from": "Ada"}),
        ("event", {"type": "update", "data": {"not": "a write"}}),
        ("create", {"id": "a"}),
    ]
    waved = await follower.named("wave")
    assert waved["change"]["event_type"] == "wave"
    assert waved["change"]["id"] is None


@pytest.mark.parametrize("how", ["cut", "restart"])
async def test_what_was_missed_comes_once_and_in_order(server: Server, clients: Clients, how: str) -> None:
    follower = await clients.open(DOCS, group_id="w1", url=server.url)
    await live(follower)
    await follower.at(await server.set(DOCS, "w1", "a", {"n": 0}))
    for round in range(1, 4):
        seen = len(follower.records)
        async with server.cut_off() if how == "cut" else server.stopped():
            await server.set(DOCS, "w1", "a", {"n": round})
            await server.send(DOCS, "w1", "a", "round", round)
        assert await live(follower, seen) == {"resumed": True, "missed": 2}
        await follower.status("reconnecting", seen)
    await follower.at(await server.set(DOCS, "w1", "a", {"n": 9}))
    kinds = [name for name, _ in follower.deliveries()]
    assert kinds == ["sync", "create", *["update", "event"] * 3, "update"]
    assert [data["n"] for name, data in follower.deliveries() if name == "update"] == [1, 2, 3, 9]


async def test_a_lost_history_gives_a_new_snapshot(server: Server, clients: Clients) -> None:
    follower = await clients.open(DOCS, group_id="w1", url=server.url)
    await live(follower)
    await follower.at(await server.set(DOCS, "w1", "a", {"n": 1}))
    seen = len(follower.records)
    await server.stop()
    await server.set(DOCS, "w1", "a", {"n": 2})
    await server.trim()
    await server.start()
    assert await live(follower, seen) == {"resumed": False, "missed": 0}
    assert follower.deliveries()[2:] == [("sync", [{"id": "a", "n": 2}])]


async def test_a_store_that_lost_everything_is_followed_in_its_new_history(server: Server, clients: Clients) -> None:
    follower = await clients.open(DOCS, group_id="w1", url=server.url)
    await live(follower)
    await follower.at(await server.set(DOCS, "w1", "a", {"n": 1}))
    seen = len(follower.records)
    await server.stop()
    await server.wipe()
    await server.start()
    await live(follower, seen)
    await follower.at(await server.set(DOCS, "w1", "b", {"n": 2}))
    assert follower.deliveries()[2:] == [("sync", []), ("create", {"id": "b", "n": 2})]


async def test_a_position_of_an_earlier_run_is_gone_on_from(server: Server, clients: Clients) -> None:
    await server.set(DOCS, "w1", "a", {"n": 1})
    position = await server.set(DOCS, "w1", "a", {"n": 2})
    await server.set(DOCS, "w1", "a", {"n": 3})
    follower = await clients.open(DOCS, group_id="w1", url=server.url, after=position)
    assert await live(follower) == {"resumed": True, "missed": 1}
    assert follower.deliveries() == [("update", {"id": "a", "n": 3})]


async def test_a_refused_subscription_ends_with_the_reason(server: Server, clients: Clients) -> None:
    server.refused.add("secret")
    follower = await clients.open(DOCS, group_id="secret", url=server.url)
    error = await follower.named("error")
    assert error["code"] == "STREAM_ACCESS_DENIED"
    assert "no access" in error["message"]
    await follower.status("closed")
    assert follower.deliveries() == []


async def test_a_good_token_opens(server: Server, clients: Clients) -> None:
    server.tokens = {"good.token_1"}
    follower = await clients.open(DOCS, group_id="w1", url=server.url, token="good.token_1")
    await live(follower)


async def test_a_refused_token_ends_it(server: Server, clients: Clients) -> None:
    server.tokens = {"good"}
    follower = await clients.open(DOCS, group_id="w1", url=server.url, token="bad")
    await follower.status("closed")
    errors = [record["code"] for record in follower.records if record["name"] == "error"]
    assert errors == ["UNAUTHENTICATED"]
    assert not any("bad" in str(record) for record in follower.records)


async def test_a_token_function_is_asked_again_once(server: Server, clients: Clients) -> None:
    server.tokens = {"fresh"}
    renewed = await clients.open(DOCS, group_id="w1", url=server.url, tokens=["stale", "fresh"])
    await live(renewed)
    assert not any(record["name"] == "error" for record in renewed.records)
    refused = await clients.open(DOCS, group_id="w2", url=server.url, tokens=["stale", "stale", "fresh"])
    await refused.status("closed")


async def test_a_token_that_ran_out_is_replaced(server: Server, clients: Clients) -> None:
    server.tokens = {"one"}
    follower = await clients.open(DOCS, group_id="w1", url=server.url, tokens=["one", "one", "two"])
    await live(follower)
    seen = len(follower.records)
    server.tokens = {"two"}
    async with server.cut_off():
        await server.set(DOCS, "w1", "a", {})
    assert await live(follower, seen) == {"resumed": True, "missed": 1}


async def test_a_second_stream_of_a_socket_misses_nothing_that_the_first_got(server: Server, node: Node) -> None:
    """A socket gets each live change once; who resumes on it later must get it again."""
    start = await server.set(DOCS, "w1", "a", {"n": 1})
    group = await node.open(DOCS, group_id="w1", url=server.url)
    await live(group)
    last = await server.set(DOCS, "w1", "a", {"n": 2})
    await group.at(last)
    item = await node.open(DOCS, group_id="w1", id="a", url=server.url, after=start)
    assert await live(item) == {"resumed": True, "missed": 1}
    assert item.deliveries() == [("update", {"id": "a", "n": 2})]
    await item.at(await server.set(DOCS, "w1", "a", {"n": 3}))
    assert [data["n"] for name, data in group.deliveries() if name == "update"] == [2, 3]
