"""What the clients make of each frame and close code: asked of both, of a scripted peer."""

from __future__ import annotations

from typing import Any

import pytest

from .followers import Clients, Follower, NodeFollower
from .scripted import Peer, Scripted, custom, error, joined, sync, write


async def begin(scripted: Scripted, clients: Clients, **options: Any) -> tuple[Follower, Peer, dict[str, Any]]:
    """A follower of group "w1", live at position p100."""
    follower = await clients.open("documents", group_id="w1", url=scripted.url, **options)
    peer = await scripted.accept()
    join = await peer.begin()
    await follower.status("live")
    return follower, peer, join


async def test_the_join_says_what_is_wanted_and_from_where(scripted: Scripted, clients: Clients) -> None:
    follower, peer, join = await begin(scripted, clients)
    assert set(join) == {"streamName", "groupId", "subscriptionId", "after"}
    assert (join["streamName"], join["groupId"], join["after"]) == ("documents", "w1", None)
    await peer.send(write("p101", "create", "a"))
    await follower.at("p101")
    await peer.close(1011)
    again = await (await scripted.accept()).receive()
    assert again == {**join, "after": "p101"}


async def test_the_join_of_an_item_names_it(scripted: Scripted, clients: Clients) -> None:
    follower = await clients.open("documents", group_id="w1", id="a", url=scripted.url)
    peer = await scripted.accept()
    join = await peer.receive()
    assert join["id"] == "a"
    await peer.send(sync("p1", {"id": "a"}, id="a"), joined(join, "p1"))
    await follower.status("live")


async def test_a_server_that_comes_later_is_found(clients: Clients) -> None:
    later = Scripted()
    follower = await clients.open("documents", group_id="w1", url=later.url)
    for attempt in (1, 2):
        record = await follower.until(lambda record, n=attempt: record.get("detail", {}).get("attempt") == n)  # type: ignore[misc]
        assert record["status"] == "connecting"
    await later.start()
    peer = await later.accept()
    await peer.begin()
    await follower.status("live")
    await later.aclose()


async def test_nothing_is_delivered_twice(scripted: Scripted, clients: Clients) -> None:
    follower, peer, _ = await begin(scripted, clients)
    await peer.send(write("p101", "create", "a"), write("p101", "create", "a"), write("p099", "update", "a"))
    await peer.send(custom("p102", "wave", 1), custom("p102", "wave", 1), write("p103", "delete", "a"))
    await follower.at("p103")
    assert [name for name, _ in follower.deliveries()] == ["sync", "create", "event", "delete"]


async def test_a_slow_consumer_is_told_and_gets_a_snapshot(scripted: Scripted, clients: Clients) -> None:
    follower, peer, _ = await begin(scripted, clients)
    await peer.send(error("SLOW_CONSUMER"), sync("p200", [{"id": "z"}]), write("p150", "create", "old"))
    await peer.send(write("p201", "create", "new"))
    await follower.at("p201")
    assert follower.deliveries()[1:] == [("sync", [{"id": "z"}]), ("create", {"id": "new"})]
    assert (await follower.named("error"))["code"] == "SLOW_CONSUMER"
    assert not any(record.get("status") == "closed" for record in follower.records)


async def test_a_cut_between_the_warning_and_the_snapshot_leaves_no_gap(scripted: Scripted, clients: Clients) -> None:
    follower, peer, _ = await begin(scripted, clients)
    await peer.send(write("p101", "create", "a"), error("SLOW_CONSUMER"), write("p150", "create", "b"))
    await follower.named("error")
    await peer.close(1011)
    again = await scripted.accept()
    join = await again.receive()
    assert join["after"] == "p101"
    await again.send(write("p120", "create", "c"), write("p150", "create", "b"), joined(join, "p150"))
    await follower.at("p150")
    assert [change for change in follower.deliveries() if change[0] == "create"] == [
        ("create", {"id": "a"}),
        ("create", {"id": "c"}),
        ("create", {"id": "b"}),
    ]


async def test_a_snapshot_counts_even_from_an_earlier_place(scripted: Scripted, clients: Clients) -> None:
    follower, peer, _ = await begin(scripted, clients)
    await peer.send(sync("p001", []), write("p002", "create", "a"))
    await follower.at("p002")
    await peer.close(1011)
    assert (await (await scripted.accept()).receive())["after"] == "p002"


async def test_a_quiet_stream_moves_on(scripted: Scripted, clients: Clients) -> None:
    follower, peer, join = await begin(scripted, clients)
    await peer.send(joined(join, "p500"), joined(join, "p400"), write("p501", "create", "a"))
    await follower.at("p501")
    await peer.send(joined(join, "p600"))
    await peer.close(1011)
    assert (await (await scripted.accept()).receive())["after"] == "p600"


@pytest.mark.parametrize("code", ["BACKEND_UNAVAILABLE", "INTERNAL_ERROR"])
async def test_a_join_that_failed_for_now_is_made_again(scripted: Scripted, clients: Clients, code: str) -> None:
    follower, peer, first = await begin(scripted, clients)
    await peer.send(write("p101", "create", "a"))
    await follower.at("p101")
    await peer.close(1012)
    peer = await scripted.accept()
    await peer.receive()
    await peer.send(error(code))
    again = await peer.receive()
    assert again == {**first, "after": "p101"}
    await peer.send(write("p102", "update", "a"), joined(again, "p102"))
    await follower.at("p102")
    assert scripted.accepted == 2


async def test_an_outage_behind_a_live_subscription_is_only_told(scripted: Scripted, clients: Clients) -> None:
    follower, peer, _ = await begin(scripted, clients)
    seen = len(follower.records)
    if isinstance(follower, NodeFollower):
        await follower.command("hurry")
    await peer.send(error("BACKEND_UNAVAILABLE"), write("p101", "create", "a"))
    await follower.at("p101")
    assert await peer.silent()
    assert (await follower.named("error"))["code"] == "BACKEND_UNAVAILABLE"
    assert not any("status" in record for record in follower.records[seen:])
    await peer.close(1011)
    assert (await (await scripted.accept()).receive())["after"] == "p101"


async def test_a_restart_that_is_announced_is_no_error(scripted: Scripted, clients: Clients) -> None:
    follower, peer, _ = await begin(scripted, clients)
    await peer.send({"type": "error", "data": {"code": "SERVER_SHUTDOWN", "message": "going down"}})
    await peer.close(1012)
    await (await scripted.accept()).receive()
    assert not any(record["name"] == "error" for record in follower.records)


async def test_an_ended_admission_ends_the_stream(scripted: Scripted, clients: Clients) -> None:
    follower, peer, _ = await begin(scripted, clients)
    await peer.send(error("STREAM_ACCESS_DENIED"))
    await follower.status("closed")
    assert (await follower.named("error"))["code"] == "STREAM_ACCESS_DENIED"
    await peer.gone()


async def test_what_is_unknown_is_ignored(scripted: Scripted, clients: Clients) -> None:
    follower, peer, _ = await begin(scripted, clients)
    await peer.socket.send("this is not JSON")
    await peer.socket.send('[{"type": "stream"}]')
    await peer.socket.send("null")
    await peer.send({"type": "hello", "more": 1}, {"type": "stream"})
    await peer.send({**write("p101", "create", "a"), "event": {"type": "renamed", "data": {}}})
    await peer.send({**write("p102", "create", "a"), "extra": True})
    await follower.at("p102")
    assert [name for name, _ in follower.deliveries()] == ["sync", "create"]


async def test_an_error_of_the_connection_reaches_its_streams(scripted: Scripted, clients: Clients) -> None:
    follower, peer, _ = await begin(scripted, clients)
    await peer.send({"type": "error", "data": {"code": "BAD_FRAME", "message": "what was that?"}})
    await peer.send(write("p101", "create", "a"))
    await follower.at("p101")
    assert (await follower.named("error"))["code"] == "BAD_FRAME"


@pytest.mark.parametrize("code", [1001, 1011, 1012, 4000, 4408])
async def test_other_close_codes_are_followed_by_a_new_connection(
    scripted: Scripted, clients: Clients, code: int
) -> None:
    follower, peer, _ = await begin(scripted, clients)
    await peer.close(code)
    detail = (await follower.status("reconnecting"))["detail"]
    assert detail["code"] == code
    assert detail["delay"] >= 0
    assert (await (await scripted.accept()).receive())["after"] == "p100"


@pytest.mark.parametrize(("code", "said"), [(4401, "UNAUTHENTICATED"), (4403, "FORBIDDEN")])
async def test_some_close_codes_are_the_end(scripted: Scripted, clients: Clients, code: int, said: str) -> None:
    follower, peer, _ = await begin(scripted, clients, token="only-one")
    await peer.close(code)
    await follower.status("closed")
    assert (await follower.named("error"))["code"] == said
    assert scripted.accepted == 1


@pytest.mark.parametrize("token", ["two words", "a/b=c?&", "naïve", '"quoted"', "Authorization", "two\r\nlines: 1"])
async def test_any_token_arrives(scripted: Scripted, clients: Clients, token: str) -> None:
    _, peer, _ = await begin(scripted, clients, token=token)
    assert peer.token() == token


async def test_closing_closes_the_connection(scripted: Scripted, clients: Clients) -> None:
    follower, peer, _ = await begin(scripted, clients)
    await follower.close()
    assert await peer.gone() in (1000, 1005)
    assert follower.records[-1]["status"] == "closed"
