"""The protocol, point by point, as published clients and ours need it (docs/reference/protocol.md)."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from motia_core.testing.harness import eventually

from .serving import Spy, project, serve
from .sockets import RawSocket, Socket, kind, place, text_frame


def names(frame: dict[str, Any]) -> dict[str, Any]:
    return {key: frame[key] for key in ("type", "streamName", "groupId", "id") if key in frame}


async def test_wire_1_timestamps_are_the_changes_own_everywhere(tmp_path: Path) -> None:
    """Rising along the stream, equal for every client and after a restart; a sync's lies where its snapshot does."""
    seen: dict[str, float] = {}
    last = 0.0
    for _ in range(2):
        async with serve(project(tmp_path)) as server:
            clients = [await server.connect() for _ in range(3)]
            joins = [await clients[0].joined("g"), await clients[1].joined("g", "x"), await clients[2].joined("h")]
            assert all(join["timestamp"] >= last for join in joins)
            results = []
            for number in range(5):
                results.append(await server.docs.set("g", "x", {"n": number}))
                results.append(await server.docs.set("h", "x", {"n": number}))
            await clients[2].at(results[-1].position)
            await clients[0].at(results[-2].position)
            late = await (await server.connect()).joined("g")
            for client in clients:
                for frame in client.changes():
                    assert seen.setdefault(frame["position"], frame["timestamp"]) == frame["timestamp"]
            times = [seen[result.position] for result in results]
            assert times == sorted(set(times)) == [result.timestamp for result in results]
            assert all(join["timestamp"] < times[0] for join in joins)
            assert late["timestamp"] >= seen[results[-2].position]
            last = times[-1]


async def test_wire_1_a_sync_on_a_busy_socket_is_not_older_than_what_it_got(tmp_path: Path) -> None:
    """One snapshot is shared for a while: a later join must not get it as it was."""
    spy = Spy()
    async with serve(project(tmp_path, spy=spy)) as server:
        first = await server.connect()
        await first.joined("g")
        other = project(tmp_path)  # another process: its writes do not make the snapshot unfit for sharing
        async with other:
            for number in range(20):
                result = await other.streams["documents"].set("g", "x", {"n": number})
                change = await first.at(result.position)
                sync = await first.joined("g", subscriptionId=f"again {number}")
                assert sync["timestamp"] >= change["timestamp"]
                assert sync["position"] >= change["position"]
                assert sync["event"]["data"] == [{"id": "x", "n": number}]
        assert len(spy.adapter.snapshots) < 20


async def test_wire_2_group_data_carries_ids_and_a_delete_the_old_value(tmp_path: Path) -> None:
    async with serve(project(tmp_path)) as server:
        await server.docs.set("g", "a", {})
        await server.docs.set("g", "b", {"id": "its own"})
        await server.docs.set("g", "c", {"deep": {"id": "not this one"}, "text": '"id"'})
        await server.docs.set("g", "d", {"id": None})
        client = await server.connect()
        sync = await client.joined("g")
        assert sync["event"]["data"] == [
            {"id": "a"},
            {"id": "its own"},
            {"id": "c", "deep": {"id": "not this one"}, "text": '"id"'},
            {"id": None},
        ]
        item = await client.joined("g", "c")
        assert item["event"]["data"] == sync["event"]["data"][2]
        await server.docs.set("g", "e", {"n": 1})
        await server.docs.update("g", "e", [{"type": "increment", "path": "n", "by": 1}])
        last = await server.docs.delete("g", "e")
        assert last is not None
        await client.at(last.position)
        events = [frame["event"] for frame in client.changes()]
        assert events == [
            {"type": "create", "data": {"id": "e", "n": 1}},
            {"type": "update", "data": {"id": "e", "n": 2}},
            {"type": "delete", "data": {"id": "e", "n": 2}},
        ]


async def test_wire_3_nothing_known_is_created_and_nothing_unknown_updated(tmp_path: Path) -> None:
    """Joins while somebody creates and deletes: published clients ignore what does not fit what they know."""
    async with serve(project(tmp_path)) as server:
        clients = []
        for number in range(60):
            await server.docs.set("g", f"i{number % 7}", {"n": number})
            if number % 3 == 0:
                await server.docs.delete("g", f"i{(number + 3) % 7}")
            if number % 5 == 0:
                client = await server.connect()
                await client.join("g")
                clients.append(client)
        last = await server.docs.set("g", "last", {})
        for client in clients:
            await client.at(last.position)
            known: set[str] = set()
            for frame in client.frames:
                match kind(frame):
                    case "sync":
                        known = {item["id"] for item in frame["event"]["data"]}
                    case "create":
                        assert frame["id"] not in known
                        known.add(frame["id"])
                    case "update":
                        assert frame["id"] in known
                    case "delete":
                        known.remove(frame["id"])


async def test_wire_4_every_frame_has_its_names_and_an_event_or_neither(tmp_path: Path) -> None:
    async with serve(project(tmp_path)) as server:
        await server.docs.set("g", "x", {"n": 1})
        client = await server.connect()
        await client.joined("g", after=None)
        await client.joined("g", "x", after=None)
        await client.joined("g", "nothing")
        await client.told("joined")
        await server.docs.send({"groupId": "g"}, {"type": "wave", "data": [1, None]})
        await server.docs.send({"groupId": "g", "id": "x"}, {"type": "wink"})
        last = await server.docs.set("g", "x", {"n": 2})
        await client.at(last.position)
        await client.send("bad")
        await client.told("INVALID_FRAME")
    group, item, empty = [frame for frame in client.frames if kind(frame) == "sync"]
    assert names(group) == {"type": "stream", "streamName": "documents", "groupId": "g"}
    assert names(item) == {"type": "stream", "streamName": "documents", "groupId": "g", "id": "x"}
    assert item["event"] == {"type": "sync", "data": {"id": "x", "n": 1}}
    assert empty["event"] == {"type": "sync", "data": None}
    wave, wink, update = client.changes()
    assert names(wave) == names(group)
    assert wave["event"] == {"type": "event", "event": {"type": "wave", "data": [1, None]}}
    assert names(wink) == names(update) == names(item)
    assert wink["event"] == {"type": "event", "event": {"type": "wink", "data": None}}
    assert item["version"] and update["version"] > item["version"] and "version" not in wave  # noqa: PT018
    for frame in client.frames:
        assert ("event" in frame) == ("streamName" in frame) == ("groupId" in frame) == (frame["type"] == "stream")
        assert ("position" in frame) == (kind(frame) != "INVALID_FRAME")
    assert [set(frame) for frame in client.frames if frame["type"] == "joined"] == [
        {"type", "subscriptionId", "position"}
    ] * 2


async def test_wire_5_only_json_text_and_protocol_pings(tmp_path: Path) -> None:
    async with serve(project(tmp_path, server={"ping_interval": 0.2})) as server:
        raw = await RawSocket.open(server.port)
        await raw.send({"type": "join", "data": place("g", after=None)}, "bad")
        opcodes: dict[int, bytes] = {}
        while 9 not in opcodes or len(opcodes) < 2:
            while (frame := raw._split()) is None:
                assert await raw.more()
            opcodes.setdefault(frame[0], frame[1])
        assert set(opcodes) == {1, 9}
        client = await server.connect()
        await client.joined("g")
        for text in client.texts:
            assert isinstance(text, str)
        # Unanswered pings end a connection that is gone without a word.
        while await raw.more():
            pass
        await eventually(lambda: _alone(server), "the silent one to be dropped")
        raw.close()


async def _alone(server: Any) -> bool:
    return len(server.motia.connections) == 1


async def test_wire_6_one_frame_per_change_however_often_it_is_joined(tmp_path: Path) -> None:
    async with serve(project(tmp_path)) as server:
        client = await server.connect()
        for sub in ("one", "two"):
            await client.joined("g", subscriptionId=f"group {sub}")
            await client.joined("g", "x", subscriptionId=f"item {sub}")
        await client.joined("g", "y")
        results = []
        for number in range(10):
            results.append(await server.docs.set("g", "x", {"n": number}))
            results.append(await server.docs.send({"groupId": "g", "id": "y"}, {"type": "wave"}))
            results.append(await server.docs.send({"groupId": "g"}, {"type": "wave"}))
        await client.at(results[-1].position)
        assert [frame["position"] for frame in client.changes()] == [result.position for result in results]
        # Without the group the items go on.
        for sub in ("one", "two"):
            await client.leave("g", subscriptionId=f"group {sub}")
        await client.settled()
        before = len(client.frames)
        await server.docs.set("g", "z", {})
        x = await server.docs.set("g", "x", {"n": "x"})
        y = await server.docs.set("g", "y", {"n": "y"})
        await client.at(y.position)
        assert [frame["position"] for frame in client.frames[before:]] == [x.position, y.position]


async def test_wire_7_refused_after_the_upgrade_not_by_http(tmp_path: Path) -> None:
    async def nobody(request: Any) -> None:
        raise PermissionError

    async with serve(project(tmp_path, authenticate=nobody)) as server:
        raw = await RawSocket.open(server.port)
        assert raw.status == 101
        assert (await raw.frame())["data"]["code"] == "UNAUTHENTICATED"
        opcode, payload = await raw.next()
        assert (opcode, int.from_bytes(payload[:2], "big")) == (8, 4401)
        raw.close()


async def test_wire_8_a_rejoin_without_a_cursor_gets_a_fresh_sync(tmp_path: Path) -> None:
    async with serve(project(tmp_path)) as server:
        for number in range(3):
            await server.docs.set("g", "x", {"n": number})
            client = await server.connect()
            sync = await client.joined("g", subscriptionId="always the same")
            assert sync["event"]["data"] == [{"id": "x", "n": number}]
            again = await client.joined("g", subscriptionId="always the same")
            assert again["event"] == sync["event"]
            assert "joined" not in client.kinds()
            await client.aclose()


async def test_wire_joins_in_the_first_packet_after_the_upgrade(tmp_path: Path) -> None:
    """All in one packet, before the server has asked anybody."""
    async with serve(project(tmp_path)) as server:
        raw = await RawSocket.open(server.port)
        joins = [{"type": "join", "data": place(group)} for group in "abc"]
        await raw.send(*joins, {"type": "leave", "data": place("b")}, {"type": "join", "data": place("d")})
        got = [await raw.frame() for _ in range(3)]
        assert sorted(frame["groupId"] for frame in got) == ["a", "c", "d"]
        raw.close()


async def test_wire_a_join_split_over_many_packets_and_frames(tmp_path: Path) -> None:
    async with serve(project(tmp_path)) as server:
        raw = await RawSocket.open(server.port)
        text = json.dumps({"type": "join", "data": place("g 😀")}, ensure_ascii=False)
        for byte in text_frame(text):
            await raw.send_bytes(bytes([byte]))
        assert (await raw.frame())["groupId"] == "g 😀"
        # Fragments: a beginning, a ping in between, a continuation.
        data = text.encode()
        first = bytearray(text_frame(text[:10]))
        first[0] &= 0x7F
        await raw.send_bytes(bytes(first) + text_frame("", opcode=9) + text_frame(data[10:].decode(), opcode=0))
        assert (await raw.next())[0] == 10
        assert (await raw.frame())["groupId"] == "g 😀"
        raw.close()


@pytest.mark.parametrize(
    ("path", "headers", "token"),
    [
        ("/?authToken=from.query", {}, "from.query"),
        ("/?authToken=a%20b%26c&x=1", {}, "a b&c"),
        ("/", {"Authorization": "Bearer from.header"}, "from.header"),
        ("/", {"Authorization": "bearer from.header"}, "from.header"),
        ("/", {"Authorization": "Basic YTpi"}, None),
        ("/?authToken=query", {"Authorization": "Bearer header"}, "header"),
        ("/", {"Sec-WebSocket-Protocol": "Authorization,from.protocol"}, "from.protocol"),
        ("/", {"Sec-WebSocket-Protocol": "Authorization, from.protocol"}, "from.protocol"),
        ("/?authToken=query", {"Sec-WebSocket-Protocol": "Authorization,protocol"}, "protocol"),
        ("/", {"Sec-WebSocket-Protocol": "chat,other"}, None),
        ("/?authToken=", {}, None),
        ("/", {}, None),
    ],
)
async def test_wire_the_token_and_the_path(
    tmp_path: Path, path: str, headers: dict[str, str], token: str | None
) -> None:
    """The token in three ways; a subprotocol that was offered is echoed; what authenticate is told."""
    requests = []

    async def authenticate(request: Any) -> None:
        requests.append(request)

    async with serve(project(tmp_path, authenticate=authenticate)) as server:
        raw = await RawSocket.open(server.port, path=path, headers=[*headers.items(), ("X-Extra", "1")])
        assert raw.status == 101
        offered = headers.get("Sec-WebSocket-Protocol", "").split(",")[0]
        lines = dict(line.lower().split(": ", 1) for line in raw.head.decode().split("\r\n")[1:])
        assert lines.get("sec-websocket-protocol", "") == offered.lower()
        await raw.send({"type": "join", "data": place("g")})
        assert kind(await raw.frame()) == "sync"
        peer = raw.socket.getsockname()
        raw.close()
    (request,) = requests
    assert request.token == token
    assert request.path == "/"
    assert request.headers["x-extra"] == "1"
    assert request.addr == peer
    assert "from." not in repr(request)


@pytest.mark.parametrize("path", ["/", "/any/path", "/healthz", "/client.js", "/docs/x", "/a%2Fb/", "//", "/é"])
async def test_wire_any_path_works(tmp_path: Path, path: str) -> None:
    async with serve(project(tmp_path)) as server:
        client = await server.connect(path)
        assert kind(await client.joined("g")) == "sync"


async def test_wire_tokens_stay_out_of_the_log(tmp_path: Path) -> None:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    async with serve(project(tmp_path)) as server:
        logging.getLogger("uvicorn.error").addHandler(handler)
        try:
            await (await server.connect("/?authToken=hunter2&x=1")).joined("g")
            await (await server.connect("/?x=1&authToken=hunter2")).joined("g")
        finally:
            logging.getLogger("uvicorn.error").removeHandler(handler)
    assert any("accepted" in line for line in lines)
    assert "hunter2" not in " ".join(lines)


# -- what this project adds ----------------------------------------------------------------------


async def resume(server: Any, after: Any, group: str = "g", id: str | None = None) -> Socket:
    client: Socket = await server.connect()
    await client.join(group, id, after=after, subscriptionId="s")
    await client.told("joined")
    return client


async def test_C2_a_resume_gets_what_was_missed_and_an_acknowledgement(tmp_path: Path) -> None:
    async with serve(project(tmp_path)) as server:
        results = [await server.docs.set("g", f"i{n % 2}", {"n": n}) for n in range(10)]
        await server.docs.set("elsewhere", "x", {})
        client = await resume(server, results[3].position)
        assert client.kinds() == ["update"] * 6 + ["joined"]
        assert [frame["position"] for frame in client.changes()] == [result.position for result in results[4:]]
        assert client.frames[-1]["subscriptionId"] == "s"
        assert client.frames[-1]["position"] >= results[-1].position
        item = await resume(server, results[3].position, id="i0")
        assert [frame["event"]["data"]["n"] for frame in item.changes()] == [4, 6, 8]
        # The acknowledgement's position is one to go on from.
        quiet = await resume(server, client.frames[-1]["position"])
        assert quiet.kinds() == ["joined"]
        live = await server.docs.set("g", "i0", {"n": 10})
        for one in (client, item, quiet):
            await one.at(live.position)


async def test_C2_a_null_cursor_asks_for_a_sync_and_an_acknowledgement(tmp_path: Path) -> None:
    async with serve(project(tmp_path)) as server:
        client = await resume(server, None)
        assert client.kinds() == ["sync", "joined"]
        assert client.frames[1]["position"] >= client.frames[0]["position"]


@pytest.mark.parametrize("after", ["nonsense", "0", "\U0010ffff", "zzz", "0000000000000001-000000000000", "é" * 500])
async def test_C2_a_cursor_of_no_history_gets_a_sync(tmp_path: Path, after: str) -> None:
    async with serve(project(tmp_path)) as server:
        await server.docs.set("g", "x", {"n": 1})
        client = await resume(server, after)
        assert client.kinds() == ["sync", "joined"]
        assert client.frames[0]["reason"] == "expired"
        live = await server.docs.set("g", "x", {"n": 2})
        await client.at(live.position)
        assert client.kinds() == ["sync", "joined", "update"]


async def test_C2_a_cursor_older_than_the_history_gets_a_sync(tmp_path: Path) -> None:
    first = None
    async with serve(project(tmp_path, retention={"count": 5})) as server:
        for number in range(40):
            result = await server.docs.set("g", "x", {"n": number})
            first = first or result
    assert first is not None
    async with serve(project(tmp_path, retention={"count": 5})) as server:
        for number in range(40):
            await server.docs.set("g", "x", {"n": number})
        client = await resume(server, first.position)
        assert client.kinds() == ["sync", "joined"]


async def test_C2_more_missed_than_is_kept_in_memory_is_a_sync_and_spoils_nobody_elses_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("motia_core.ring.RING_CHANGES", 20)
    monkeypatch.setattr("motia_core.hub.RING_CHANGES", 20)
    async with project(tmp_path) as before:
        results = [await before.streams["documents"].set("g", "x", {"n": n}) for n in range(50)]
    spy = Spy()
    async with serve(project(tmp_path, spy=spy)) as server:
        raw = await RawSocket.open(server.port)
        old = place("g", after=results[1].position)
        near = place("g", after=results[40].position)
        joins = [{**old, "subscriptionId": f"old {n}"} for n in range(10)] + [{**near, "subscriptionId": "near"}]
        await raw.send(*({"type": "join", "data": join} for join in joins))
        joined: set[str] = set()
        frames = []
        while len(joined) < 11:
            frames.append(await raw.frame())
            if kind(frames[-1]) == "joined":
                joined.add(frames[-1]["subscriptionId"])
        raw.close()
        assert [frame["reason"] for frame in frames if kind(frame) == "sync"] == ["expired"] * 10
        updates = [frame["position"] for frame in frames if kind(frame) == "update"]
        assert updates == [result.position for result in results[41:]]
        assert spy.adapter.watches <= 4


async def test_C2_resumes_while_others_write_lose_and_repeat_nothing(tmp_path: Path) -> None:
    """On one socket and on new ones, from every place."""
    async with serve(project(tmp_path)) as server:
        results = [await server.docs.set("g", "x", {"n": 0})]
        busy = await server.connect()
        await busy.joined("g")
        clients = []
        for number in range(1, 120):
            results.append(await server.docs.set("g", "x", {"n": number}))
            if number % 4 == 0:
                client = await server.connect()
                after = number // 2
                await client.join("g", after=results[after].position)
                clients.append((after, client))
                await busy.join("g", subscriptionId=f"again {number}", after=results[after].position)
        for after, client in clients:
            await client.at(results[-1].position)
            assert [frame["position"] for frame in client.changes()] == [
                result.position for result in results[after + 1 :]
            ]
        await busy.at(results[-1].position)
        positions = [result.position for result in results[1:]]
        assert {frame["position"] for frame in busy.changes()} == set(positions)


def _empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


async def test_C2_a_history_that_was_replaced_leaves_no_cursor_behind(tmp_path: Path) -> None:
    """B8 at the socket: the store is emptied under a running server; positions begin anew, smaller."""
    async with serve(project(tmp_path)) as server:
        for number in range(50):
            last = await server.docs.set("g", "x", {"n": number})
        client = await server.connect()
        await client.joined("g")
        await client.joined("h")
        last = await server.docs.set("g", "x", {"n": 50})
        await client.at(last.position)
        _empty(tmp_path)

        async def replaced() -> bool:
            try:
                await server.docs.set("g", "y", {"n": 1})
            except Exception:
                return False
            return any(frame.get("reason") == "reset" for frame in client.frames)

        await eventually(replaced, "a sync of the new history")
        await client.until(lambda frame: frame.get("reason") == "reset" and frame["groupId"] == "h")
        late = await client.joined("late")
        assert late["position"] < last.position
        before = len(client.frames)
        for group in ("g", "h", "late"):
            done = await server.docs.set(group, "z", {"n": 2})
        await client.at(done.position, before)
        assert {frame["groupId"] for frame in client.frames[before:]} >= {"g", "h", "late"}
