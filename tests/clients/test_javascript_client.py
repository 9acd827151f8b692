"""What only client.js does: one socket for many streams, kept state, handlers, bad arguments."""

from __future__ import annotations

import json
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from .followers import Node, NodeFollower
from .scripted import Peer, Scripted, custom, error, joined, sync, write


async def begin(scripted: Scripted, node: Node, **options: Any) -> tuple[NodeFollower, Peer]:
    """A follower of group "w1", live at position p100, with items a and b."""
    follower = await node.open("documents", group_id="w1", url=scripted.url, **options)
    peer = await scripted.accept()
    await peer.begin("p100", [{"id": "a", "n": 1}, {"id": "b", "n": 1}])
    await follower.status("live")
    return follower, peer


async def test_streams_share_a_socket(scripted: Scripted, node: Node) -> None:
    group, peer = await begin(scripted, node)
    item = await node.open("documents", group_id="w1", id="a", url=scripted.url + "/")
    join = await peer.receive()
    await peer.send(sync("p100", {"id": "a", "n": 1}, id="a"), joined(join, "p100"))
    await item.status("live")
    other = await node.open("documents", group_id="w1", url=scripted.url, token="another")
    await (await scripted.accept()).begin()
    await other.status("live")
    assert scripted.accepted == 2

    await group.close()
    left = await peer.receive("leave")
    assert (left["groupId"], left.get("id")) == ("w1", None)
    await peer.send(write("p101", "update", "a", n=2))
    await item.at("p101")
    assert [name for name, _ in group.deliveries()] == ["sync"]
    await item.close()
    assert (await peer.receive("leave"))["id"] == "a"
    await peer.gone()


async def test_a_second_stream_of_the_same_group_is_served_from_kept_state(scripted: Scripted, node: Node) -> None:
    first, peer = await begin(scripted, node)
    await peer.send(write("p101", "update", "a", n=2), write("p102", "delete", "b"))
    await first.at("p102")
    second = await node.open("documents", group_id="w1", url=scripted.url)
    snapshot = await second.named("sync")
    assert snapshot["data"] == [{"id": "a", "n": 2}]
    assert snapshot["change"]["position"] == "p102"
    await second.status("live")
    await peer.send(write("p103", "create", "c"))
    await first.at("p103")
    await second.at("p103")
    assert [name for name, _ in second.deliveries()] == ["sync", "create"]
    await first.close()
    await peer.send(write("p104", "delete", "c"))
    await second.at("p104")
    await second.close()
    await peer.receive("leave")
    await peer.gone()


async def test_a_stream_with_a_place_of_its_own_joins_for_itself(scripted: Scripted, node: Node) -> None:
    shared, peer = await begin(scripted, node)
    own = await node.open("documents", group_id="w1", url=scripted.url, after="p050")
    join = await peer.receive()
    assert join["after"] == "p050"
    tag = {"subscriptionId": join["subscriptionId"]}
    await peer.send(write("p060", "update", "a", **tag), joined(join, "p100"), write("p101", "update", "b"))
    await own.at("p101")
    await shared.at("p101")
    assert [record["change"]["position"] for record in own.records if "change" in record] == ["p060", "p101"]
    assert [record["change"]["position"] for record in shared.records if "change" in record] == ["p100", "p101"]
    assert not (await own.look())["known"]


@pytest.mark.parametrize("tagged", [True, False])
async def test_answers_to_two_joins_may_mingle(scripted: Scripted, node: Node, tagged: bool) -> None:
    """A group and an item of it resume on one socket: neither may lose what the other was told."""
    group, peer = await begin(scripted, node)
    item = await node.open("documents", group_id="w1", id="a", url=scripted.url)
    join = await peer.receive()
    await peer.send(sync("p100", {"id": "a", "n": 1}, id="a"), joined(join, "p100"))
    await item.status("live")
    await peer.close(1011)
    peer = await scripted.accept()
    joins = [await peer.receive(), await peer.receive()]
    changes = [(f"p{101 + n}", "a" if n % 3 else "b") for n in range(60)]
    answers = []
    for join in joins:
        tag = {"subscriptionId": join["subscriptionId"]} if tagged else {}
        mine = [write(place, "update", id, **tag) for place, id in changes if join.get("id") in (None, id)]
        answers.append([*mine, joined(join, "p160")])
    chance = random.Random(7)
    while any(answers):
        await peer.send(chance.choice([answer for answer in answers if answer]).pop(0))
    # A live change, sent once for both.
    await peer.send(write("p161", "update", "a"))
    await group.at("p161")
    await item.at("p161")
    for follower, ids in ((group, {"a", "b"}), (item, {"a"})):
        seen = [record["change"]["position"] for record in follower.records if "change" in record]
        assert seen == ["p100", *(place for place, id in changes if id in ids), "p161"]


async def test_a_live_change_ahead_of_the_answer_is_not_taken_for_it(scripted: Scripted, node: Node) -> None:
    group, peer = await begin(scripted, node)
    item = await node.open("documents", group_id="w1", id="a", url=scripted.url)
    join = await peer.receive()
    await peer.send(write("p101", "update", "a", n=2), sync("p100", {"id": "a", "n": 1}, id="a"), joined(join, "p100"))
    await item.at("p101")
    assert item.deliveries() == [("sync", {"id": "a", "n": 1}), ("update", {"id": "a", "n": 2})]
    await group.at("p101")


async def test_what_came_before_a_join_was_made_again_still_counts(scripted: Scripted, node: Node) -> None:
    """A socket gets each change once: what it got for the group is not sent again for the item."""
    group, peer = await begin(scripted, node)
    item = await node.open("documents", group_id="w1", id="a", url=scripted.url)
    await peer.receive()
    await peer.send(error("BACKEND_UNAVAILABLE", id="a"), write("p101", "update", "a", n=2))
    again = await peer.receive()
    await peer.send(joined(again, "p101"))
    await item.at("p101")
    await group.at("p101")


async def test_an_error_ends_only_its_own_stream(scripted: Scripted, node: Node) -> None:
    group, peer = await begin(scripted, node)
    item = await node.open("documents", group_id="w1", id="a", url=scripted.url)
    await peer.receive()
    await peer.send(error("STREAM_ACCESS_DENIED", id="a"), write("p101", "create", "c"))
    await item.status("closed")
    assert (await peer.receive("leave"))["id"] == "a"
    await group.at("p101")
    await peer.close(1011)
    peer = await scripted.accept()
    assert "id" not in await peer.receive()
    await peer.send(sync("p100", []))
    await group.status("live", len(group.records))


async def test_the_state_is_kept(scripted: Scripted, node: Node) -> None:
    group = await node.open("documents", group_id="w1", url=scripted.url)
    item = await node.open("documents", group_id="w1", id="a", url=scripted.url)
    before = await group.look()
    assert (before["known"], before["position"]) == (False, None)
    peer = await scripted.accept()
    for join in [await peer.receive(), await peer.receive()]:
        data: Any = {"id": "a", "n": 1}
        await peer.send(sync("p1", data, id="a") if "id" in join else sync("p1", [data]), joined(join, "p1"))
    await peer.send(write("p2", "update", "a", n=2), write("p3", "create", "b"), custom("p4", "wave", None))
    await group.at("p4")
    assert (await group.look())["state"] == {"a": {"id": "a", "n": 2}, "b": {"id": "b"}}
    assert (await item.look())["state"] == {"id": "a", "n": 2}
    await peer.send(write("p5", "delete", "a"))
    await item.at("p5")
    looked = await item.look()
    assert (looked["known"], looked["state"], looked["position"]) == (True, None, "p5")
    assert (await group.look())["state"] == {"b": {"id": "b"}}
    await peer.send(sync("p6", [{"id": "z"}]))
    await group.at("p6")
    assert (await group.look())["state"] == {"z": {"id": "z"}}


async def test_handlers_that_fail_are_reported_and_disturb_nobody(scripted: Scripted, node: Node) -> None:
    follower, peer = await begin(scripted, node)
    await follower.command("breakHandlers", on="create")
    await peer.send(write("p101", "create", "c"), write("p102", "create", "d"))
    await follower.at("p102")
    await node.console.until(lambda record: "Error: thrown on purpose" in record["words"])
    await node.console.until(lambda record: "Error: rejected on purpose" in record["words"])


async def test_a_handler_is_taken_off(scripted: Scripted, node: Node) -> None:
    follower, peer = await begin(scripted, node)
    await follower.command("count", on="update", times=2)
    await peer.send(*(write(f"p{101 + n}", "update", "a") for n in range(5)))
    await follower.at("p105")
    assert [record["name"] for record in follower.records].count("counted") == 2


async def test_when_the_network_is_back_nothing_is_waited_for(scripted: Scripted, node: Node) -> None:
    follower, peer = await begin(scripted, node)
    await node.command({"do": "online"})
    assert (await follower.status("reconnecting"))["detail"]["delay"] == 0
    assert (await (await scripted.accept()).receive())["after"] == "p100"
    await peer.gone()


async def test_a_closed_stream_can_be_opened_again(scripted: Scripted, node: Node) -> None:
    follower, peer = await begin(scripted, node)
    await follower.close()
    await peer.gone()
    again, _ = await begin(scripted, node)
    assert (await again.look())["status"] == "live"
    assert (await follower.look())["status"] == "closed"


async def test_a_stream_closed_before_its_socket_opens_leaves_nothing(scripted: Scripted, node: Node) -> None:
    follower = await node.open("documents", group_id="w1", url=scripted.url)
    await follower.close()
    assert (await follower.look())["status"] == "closed"


async def test_a_token_function_that_fails_is_asked_again(scripted: Scripted, node: Node) -> None:
    follower = await node.open("documents", group_id="w1", url=scripted.url, tokens=["!throw", "good"])
    failed = await follower.named("error")
    assert failed["code"] == "TOKEN_FAILED"
    peer = await scripted.accept()
    assert peer.token() == "good"


@pytest.mark.parametrize(
    ("stream", "options", "kind", "words"),
    [
        ("", {"groupId": "g"}, "TypeError", "stream name"),
        ("documents", {}, "TypeError", "groupId"),
        ("documents", {"groupId": "g", "id": ""}, "TypeError", "id must be text"),
        ("documents", {"groupId": "g", "after": 7}, "TypeError", "after must be text"),
        ("documents", {"groupId": "g", "auth": {"token": 7}}, "TypeError", "auth.token"),
        ("documents", {"groupId": "g", "url": "ftp://example"}, "TypeError", "ws:, wss:, http: or https:"),
        ("documents", {"groupId": "g", "url": "nonsense"}, "TypeError", "ws:, wss:, http: or https:"),
        ("documents", {"groupId": "g", "WebSocket": "none"}, "TypeError", "WebSocket"),
    ],
)
async def test_arguments_that_make_no_sense_throw(
    node: Node, stream: str, options: dict[str, Any], kind: str, words: str
) -> None:
    follower = await node.open(stream, **options)
    thrown = await follower.named("threw")
    assert thrown["kind"] == kind
    assert words in thrown["message"]


async def test_a_websocket_class_can_be_given(
    scripted: Scripted, start_node: Callable[..., Awaitable[Node]], node_modules: Path
) -> None:
    node = await start_node(str(node_modules / "ws" / "wrapper.mjs"))
    follower, peer = await begin(scripted, node, token="a.token")
    assert peer.token() == "a.token"
    await peer.send(write("p101", "update", "a"))
    await follower.at("p101")


def test_the_types_fit_the_module(node_modules: Path, node_command: list[str]) -> None:
    """Every name that client.d.ts declares as a value is exported, and no other."""
    import re
    import subprocess

    from motia_core.client import javascript

    script = "console.log(JSON.stringify(Object.keys(await import(process.argv[1]))))"
    path = Path(__file__).parents[2] / "motia_core" / "client" / "client.js"
    command = [*node_command, "--input-type=module", "-e", script, path.as_uri()]
    exported = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    declared = re.findall(r"export declare (?:function|class) (\w+)", javascript("client.d.ts").decode())
    assert set(exported) == set(declared) == {"StreamError", "connectStream"}
