"""Clause E4: what is too much, malformed or foreign is refused with a code of the table."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from motia_core import Motia
from motia_core.errors import BackendUnavailable
from motia_core.server.codes import CODES
from motia_core.testing.harness import eventually

from .serving import Spy, project, serve
from .sockets import RawSocket, frame_bytes, kind, message, place

JOIN: dict[str, Any] = {"type": "join", "data": place("g")}

BAD: dict[str, tuple[Any, str, str]] = {
    "no JSON": ("hello", "INVALID_FRAME", "a frame must be JSON text"),
    "no text": ("", "INVALID_FRAME", "a frame must be JSON text"),
    "NaN": ('{"type":NaN}', "INVALID_FRAME", "a frame must be JSON text"),
    "two values": ("{}{}", "INVALID_FRAME", "a frame must be JSON text"),
    "lone surrogate": ('{"type":"\\ud800"}', "INVALID_FRAME", "a frame must be JSON text"),
    "a depth bomb": ("[" * 50_000, "INVALID_FRAME", "a frame must be JSON text"),
    "binary": (b'{"type":"join"}', "INVALID_FRAME", "a frame must be text, not binary"),
    "a list": ([JOIN], "INVALID_FRAME", "a frame must be an object with a 'type'"),
    "null": (None, "INVALID_FRAME", "a frame must be an object with a 'type'"),
    "no type": ({"data": {}}, "INVALID_FRAME", "a frame must be an object with a 'type'"),
    "a type of 1": ({"type": 1}, "INVALID_FRAME", "a frame must be an object with a 'type'"),
    "an unknown type": ({"type": "write"}, "UNKNOWN_MESSAGE", "type 'write' is not one of 'join', 'leave'"),
    "a long type": ({"type": "x" * 999}, "UNKNOWN_MESSAGE", f"type '{'x' * 40}' is not one of 'join', 'leave'"),
    "no data": ({"type": "join"}, "INVALID_FRAME", "join needs an object 'data'"),
    "data of text": ({"type": "leave", "data": "g"}, "INVALID_FRAME", "leave needs an object 'data'"),
    "no stream": ({"type": "join", "data": {"groupId": "g"}}, "INVALID_FRAME", "streamName must be text"),
    "no group": (
        {"type": "join", "data": {"streamName": "documents"}},
        "INVALID_FRAME",
        "groupId must be text, not NoneType",
    ),
    "an empty group": ({"type": "join", "data": place("")}, "INVALID_FRAME", "groupId must not be empty"),
    "a long group": (
        {"type": "join", "data": place("é" * 257)},
        "INVALID_FRAME",
        f"groupId '{'é' * 40}'...: 514 bytes of UTF-8, 512 at most",
    ),
    "a group with a newline": (
        {"type": "join", "data": place("a\nb")},
        "INVALID_FRAME",
        "groupId 'a\\nb': character U+000A at 1 is not allowed (control characters and lone surrogates)",
    ),
    "an id of 7": ({"type": "join", "data": place("g", id=7)}, "INVALID_FRAME", "id must be text, not int"),  # type: ignore[arg-type]
    "a subscription of 1": (
        {"type": "join", "data": place("g", subscriptionId=1)},
        "INVALID_FRAME",
        "subscriptionId must be text",
    ),
    "after of 1": (
        {"type": "join", "data": place("g", after=1)},
        "INVALID_FRAME",
        "after must be a position, or null",
    ),
    "an after of pages": (
        {"type": "join", "data": place("g", after="f" * 2000)},
        "INVALID_FRAME",
        "after must be a position, or null",
    ),
    "too large": (json.dumps({"type": "x" * 70_000}), "FRAME_TOO_LARGE", "a frame may have 65536 bytes"),
    "too large in bytes": (
        json.dumps("é" * 40_000, ensure_ascii=False),
        "FRAME_TOO_LARGE",
        "a frame may have 65536 bytes",
    ),
}


async def test_E4_a_bad_frame_gets_its_code_and_the_socket_lives(tmp_path: Path) -> None:
    async with serve(project(tmp_path, server={"max_bad_frames": 1000})) as server:
        client = await server.connect()
        got = {}
        for name, (frame, _, _) in BAD.items():
            before = len(client.frames)
            await client.send(frame)
            await client.count(before + 1)
            got[name] = kind(client.frames[-1]), message(client.frames[-1])
        assert got == {name: (code, text) for name, (_, code, text) in BAD.items()}
        assert kind(await client.joined("g")) == "sync"


async def test_E4_an_error_says_which_subscription_it_is_about(tmp_path: Path) -> None:
    """As an event in its name, which published clients understand; where no name can be read, a frame they ignore."""
    async with serve(project(tmp_path)) as server:
        client = await server.connect()
        await client.join("g", "x", after=1)
        await client.join("", "x")
        await client.count(2)
    named, unnamed = client.frames
    assert {key: named[key] for key in ("type", "streamName", "groupId", "id")} == {"type": "stream", **place("g", "x")}
    assert named["timestamp"] == 0  # a published client keeps the greatest it met
    assert set(unnamed) == {"type", "data"}


async def test_E4_the_limit_of_bad_frames_closes(tmp_path: Path) -> None:
    async with serve(project(tmp_path, server={"max_bad_frames": 3})) as server:
        client = await server.connect()
        for number, frame in enumerate(["one", {"type": "two"}, JOIN]):
            await client.send(frame)
            await client.count(number + 1)
        await client.send(b"three", "four")
        assert await client.gone() == CODES["TOO_MANY_BAD_FRAMES"].close == 4400
        assert [code for code in client.kinds() if code != "sync"] == [
            "INVALID_FRAME",
            "UNKNOWN_MESSAGE",
            "TOO_MANY_BAD_FRAMES",
        ]
        assert message(client.frames[-1]) == "3 bad frames; the last: a frame must be text, not binary"


async def test_E4_the_limit_of_a_frame_is_of_bytes_and_exact(tmp_path: Path) -> None:
    async with serve(project(tmp_path, server={"max_frame_bytes": 200})) as server:
        client = await server.connect()
        start = '{"type":"join","data":{"streamName":"documents","groupId":"g","pad":"'
        for text, size in (("é", 2), ("x", 1), ("😀", 4)):
            room = 200 - len(start) - len('"}}')
            fits = start + text * (room // size) + "-" * (room % size) + '"}}'
            assert len(fits.encode()) == 200
            before = len(client.frames)
            await client.send(fits)
            await client.send(fits + " ")
            await client.count(before + 2)
            assert sorted(client.kinds(before)) == ["FRAME_TOO_LARGE", "sync"]


async def test_E4_a_monstrous_frame_ends_its_own_socket_only(tmp_path: Path) -> None:
    """Not even read to its end: 1009, as the WebSocket standard says, if the reset leaves that much."""
    async with serve(project(tmp_path)) as server:
        client, neighbour = await server.connect(), await server.connect()
        await neighbour.joined("g")
        with suppress(ConnectionClosed):
            await client.send("x" * 3_000_000)
        assert await client.gone() in (1009, 1006)
        last = await server.docs.set("g", "x", {})
        await neighbour.at(last.position)


async def test_E4_text_that_is_not_utf8_ends_its_own_socket_only(tmp_path: Path) -> None:
    async with serve(project(tmp_path)) as server:
        neighbour = await server.connect()
        await neighbour.joined("g")
        raw = await RawSocket.open(server.port)
        await raw.send_bytes(frame_bytes(b'{"type":"\xff"}'))
        assert await raw.next() == (8, (1007).to_bytes(2, "big") + (await _reason(raw)))
        raw.close()
        last = await server.docs.set("g", "x", {})
        await neighbour.at(last.position)


async def _reason(raw: RawSocket) -> bytes:
    return b""


async def test_E4_too_many_subscriptions_are_refused_by_name(tmp_path: Path) -> None:
    async with serve(project(tmp_path, server={"max_subscriptions": 3, "max_bad_frames": 2})) as server:
        client = await server.connect()
        for group in ("a", "b", "c"):
            assert kind(await client.joined(group)) == "sync"
        for _ in range(5):  # it is no bad frame: the client is told, and may go on
            refused = await client.joined("d")
            assert kind(refused) == "TOO_MANY_SUBSCRIPTIONS"
            assert message(refused) == "a connection may have 3 subscriptions"
        assert kind(await client.joined("c")) == "sync"  # the same again is no more
        await client.leave("a")
        assert kind(await client.joined("d")) == "sync"
        assert kind(await (await server.connect()).joined("d")) == "sync"


async def test_E4_too_many_connections_are_told_to_come_back(tmp_path: Path) -> None:
    async with serve(project(tmp_path, server={"max_connections": 2})) as server:
        first, second = await server.connect(), await server.connect()
        for client in (first, second):
            await client.joined("g")
        third = await server.connect()
        assert await third.gone() == CODES["TOO_MANY_CONNECTIONS"].close == 1013
        assert third.kinds() == ["TOO_MANY_CONNECTIONS"]
        assert message(third.frames[0]) == "the server is full: come back later"
        last = await server.docs.set("g", "x", {})
        await first.at(last.position)
        await second.aclose()

        async def welcome() -> bool:
            client = await server.connect()
            with suppress(ConnectionClosed):
                await client.send(JOIN)
            await client.count(1)
            return client.kinds() == ["sync"]

        await eventually(welcome, "a place to be free")


async def test_row_14_a_foreign_origin_is_refused_before_the_upgrade(tmp_path: Path) -> None:
    asked = []

    async def authenticate(request: Any) -> None:
        asked.append(request)

    motia = project(tmp_path, authenticate=authenticate, server={"allowed_origins": ["https://app.example"]})
    async with serve(motia) as server:
        host = f"127.0.0.1:{server.port}"
        answers = {}
        for origin in (
            None,
            f"http://{host}",
            f"https://{host}",
            f"HTTP://{host}",
            "https://app.example",
            "https://APP.example",
            "http://app.example",
            "https://app.example.evil.example",
            "https://evil.example",
            f"http://localhost:{server.port}",
            "http://127.0.0.1",
            f"http://{host}@evil.example",
            f"ftp://{host}",
            f"//{host}",
            host,
            "null",
            "",
            "http://[",
            "http://[::1",
            "é",
        ):
            raw = await RawSocket.open(server.port, headers=[] if origin is None else [("Origin", origin)])
            answers[origin] = raw.status
            raw.close()
        allowed = {None, f"http://{host}", f"https://{host}", f"HTTP://{host}"}
        allowed |= {"https://app.example", "https://APP.example"}
        assert {origin for origin, status in answers.items() if status == 101} == allowed
        assert {status for origin, status in answers.items() if origin not in allowed} == {403}
        assert len(asked) == len(allowed)


async def test_row_14_two_origins_are_none(tmp_path: Path) -> None:
    async with serve(project(tmp_path)) as server:
        own = ("Origin", f"http://127.0.0.1:{server.port}")
        foreign = ("Origin", "https://evil.example")
        for headers in ([own, foreign], [foreign, own]):
            raw = await RawSocket.open(server.port, headers=headers)
            assert raw.status in (400, 403)  # uvicorn has its own opinion first
            raw.close()


async def test_row_14_a_star_allows_every_origin(tmp_path: Path) -> None:
    async with serve(project(tmp_path, server={"allowed_origins": ["*"]})) as server:
        for origin in ("https://evil.example", "null"):
            raw = await RawSocket.open(server.port, headers=[("Origin", origin)])
            assert raw.status == 101
            raw.close()


async def test_E4_a_storage_that_is_away_is_told_and_where_it_is_not(tmp_path: Path) -> None:
    """BACKEND_UNAVAILABLE for a join, once for what is joined; it heals by itself (C6)."""
    spy = Spy()
    async with serve(project(tmp_path, spy=spy)) as server:
        live, late = await server.connect(), await server.connect()
        await live.joined("g")
        spy.adapter.raises = BackendUnavailable("cannot reach db.internal:5432 as admin")
        spy.adapter.broken.set()
        refused = await late.joined("other")
        assert kind(refused) == "BACKEND_UNAVAILABLE"
        assert message(refused) == "the storage cannot be reached at the moment"
        told = await live.told("BACKEND_UNAVAILABLE")
        assert told["groupId"] == "g"
        spy.adapter.raises = None
        spy.adapter.broken.clear()
        missed = await server.docs.set("g", "x", {"n": 1})
        await live.at(missed.position)
        assert live.kinds() == ["sync", "BACKEND_UNAVAILABLE", "create"]
        assert kind(await late.joined("other")) == "sync"
        assert "db.internal" not in str(live.texts + late.texts)


async def test_E4_what_fails_inside_is_no_secret_told(tmp_path: Path) -> None:
    spy = Spy()
    async with serve(project(tmp_path, spy=spy)) as server:
        spy.adapter.raises = LookupError("the password is hunter2")
        client = await server.connect()
        failed = await client.joined("g")
        assert (kind(failed), message(failed)) == ("INTERNAL_ERROR", "internal error")
        spy.adapter.raises = None
        assert kind(await client.joined("g")) == "sync"


async def test_C2_a_group_too_large_is_refused_by_name_and_its_items_are_not(tmp_path: Path) -> None:
    limits = {"max_sync_items": 3, "max_sync_bytes": 1_000}
    async with serve(project(tmp_path, server=limits)) as server:
        for item in ("x", "y", "z"):
            await server.docs.set("many", item, {})
            await server.docs.set("heavy", item, {"text": "x" * (400 if item != "z" else 1)})
        client = await server.connect()
        assert kind(await client.joined("many")) == "sync"
        await server.docs.set("many", "zz", {})
        await server.docs.set("heavy", "z", {"text": "x" * 400})
        other = await server.connect()
        refused = await other.joined("many")
        assert (kind(refused), message(refused)) == (
            "GROUP_TOO_LARGE",
            "group 'many' holds more than 3 items: read it in pages with list()",
        )
        heavy = await other.joined("heavy")
        assert kind(heavy) == "GROUP_TOO_LARGE"
        assert "1000 at most in one sync" in message(heavy)
        assert kind(await other.joined("heavy", "z")) == "sync"
        # One who is in stays in.
        last = await server.docs.set("many", "zzz", {})
        await client.at(last.position)


async def test_E4_SERVER_SHUTDOWN_when_the_project_closes_before_the_server(tmp_path: Path) -> None:
    motia: Motia = project(tmp_path)
    await motia.__aenter__()
    async with serve(motia) as server:
        client = await server.connect()
        await client.joined("g")
        await motia.__aexit__(None, None, None)
        assert await client.gone() == CODES["SERVER_SHUTDOWN"].close == 1012
        assert client.kinds() == ["sync", "SERVER_SHUTDOWN"]


def test_E4_every_code_of_the_table_is_met_here() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert [code for code in CODES if f'"{code}"' not in tests.replace("'", '"')] == []


async def test_E4_a_client_that_does_not_read_its_errors_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Joins over the limit are no bad frames; asking without reading must not fill the server's memory."""
    monkeypatch.setattr("motia_core.server.connection.STALL_LIMIT", 30.0)
    limits = {"max_subscriptions": 1, "send_queue_bytes": 50_000}
    async with serve(project(tmp_path, server=limits)) as server:
        raw = await RawSocket.open(server.port, receive_buffer=4096)
        await raw.send({"type": "join", "data": place("g")})
        frames = [{"type": "join", "data": place("x" * 400 + str(number))} for number in range(20_000)]
        sending = asyncio.create_task(raw.send(*frames))
        neighbour = await server.connect()
        await neighbour.joined("g")

        # The server stops to read, so that our own send stops: three looks without progress.
        sizes = [-1, -2, -3]
        while len(set(sizes)) > 1:
            last = await server.docs.set("g", "x", {})
            await neighbour.at(last.position)
            await asyncio.sleep(0.1)
            sizes = [*sizes[1:], raw.sent]
        assert not sending.done()
        # It reads: the rest is answered, to the last.
        answered = 0
        while answered < 20_001:
            opcode, _ = await raw.next()
            answered += opcode == 1
        await sending
        raw.close()
