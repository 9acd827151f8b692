"""What only the Python client does: iteration, back-pressure, errors that are raised."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from motia_core.client import (
    AccessDenied,
    ServerUnavailable,
    StreamConnection,
    StreamError,
    _link,
    connect_stream,
    javascript,
)
from motia_core.errors import InvalidName, MissingDependency, MotiaError

from .scripted import DEADLINE, Peer, Scripted, custom, error, joined, sync, write
from .serving import Server


def stream_of(scripted: Scripted, **options: Any) -> StreamConnection:
    return connect_stream("documents", group_id="w1", url=scripted.url, **options)


async def entered(scripted: Scripted, stream: StreamConnection) -> Peer:
    """Enter a stream of group "w1", which is live at position p100."""
    entering = asyncio.create_task(stream.__aenter__())
    peer = await scripted.accept()
    await peer.begin()
    await entering
    return peer


async def test_iterating_gives_changes(server: Server) -> None:
    await server.set("documents", "w1", "a", {"n": 1})
    async with connect_stream("documents", group_id="w1", url=server.url) as stream:
        status: str = stream.status
        assert status == "live"
        snapshot = await anext(stream)
        assert (snapshot.type, snapshot.id, snapshot.data) == ("sync", None, [{"id": "a", "n": 1}])
        await server.set("documents", "w1", "a", {"n": 2})
        last = await server.send("documents", "w1", None, "wave", {"from": "Ada"})
        update, wave = await anext(stream), await anext(stream)
    assert (update.type, update.group_id, update.id, update.data) == ("update", "w1", "a", {"id": "a", "n": 2})
    assert update.version is not None
    assert update.timestamp is not None
    assert (wave.type, wave.event_type, wave.data) == ("event", "wave", {"from": "Ada"})
    assert stream.position == wave.position == last
    status = stream.status
    assert status == "closed"


async def test_the_position_is_that_of_what_was_consumed(scripted: Scripted) -> None:
    stream = stream_of(scripted)
    peer = await entered(scripted, stream)
    assert stream.position is None
    await peer.send(write("p101", "create", "a"), write("p102", "create", "b"))
    assert (await anext(stream)).position == stream.position == "p100"
    assert (await anext(stream)).position == stream.position == "p101"
    await stream.close()


async def test_iteration_ends_when_the_stream_is_closed(scripted: Scripted) -> None:
    stream = stream_of(scripted)
    peer = await entered(scripted, stream)
    seen: list[str] = []

    async def consume() -> None:
        async for change in stream:
            seen.append(change.type)

    task = asyncio.create_task(consume())
    stream.on("create", lambda change: asyncio.create_task(stream.close()))
    await peer.send(write("p101", "create", "a"))
    async with asyncio.timeout(DEADLINE):
        await task
    assert seen == ["sync", "create"]
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    await stream.close()


async def test_cancelling_loses_nothing(scripted: Scripted) -> None:
    stream = stream_of(scripted)
    peer = await entered(scripted, stream)
    handled: list[Any] = []

    async def slow(change: Any) -> None:
        handled.append(change.position)
        await asyncio.sleep(0)

    stream.on("create", slow)
    wanted = [f"p{101 + n}" for n in range(300)]

    async def produce() -> None:
        for position in wanted:
            await peer.send(write(position, "create", position))
            await asyncio.sleep(0)

    producing = asyncio.create_task(produce())
    seen: list[str | None] = []
    turns = 0
    async with asyncio.timeout(DEADLINE):
        while len(seen) < 301:
            task = asyncio.create_task(anext(stream))
            for _ in range(turns % 5):
                await asyncio.sleep(0)
            turns += 1
            task.cancel()
            try:
                seen.append((await task).position)
            except asyncio.CancelledError:
                await asyncio.sleep(0)
    await producing
    await stream.close()
    assert seen == ["p100", *wanted]
    assert handled == wanted


async def test_memory_is_bounded_by_the_consumer(scripted: Scripted) -> None:
    stream = stream_of(scripted)
    peer = await entered(scripted, stream)
    total, sent, ahead = 600, 0, 0

    async def produce() -> None:
        nonlocal sent
        padding = "x" * 250_000
        for n in range(total):
            await peer.send(write(f"p{1000 + n}", "update", "a", padding=padding))
            sent += 1

    producing = asyncio.create_task(produce())
    taken = 0
    async with asyncio.timeout(60):
        async for _ in stream:
            for _ in range(25):
                await asyncio.sleep(0)
            ahead = max(ahead, sent - taken)
            taken += 1
            if taken > total:
                break
    await producing
    await stream.close()
    assert ahead < total / 4


async def test_a_connection_that_is_dead_without_knowing_it_is_noticed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_link, "PING_EVERY", 0.1)
    monkeypatch.setattr(_link, "PING_WAIT", 0.2)
    async with connect_stream("documents", group_id="w1", url=server.url) as stream:
        await anext(stream)
        await server.freeze()
        await server.set("documents", "w1", "a", {"n": 1})
        async with asyncio.timeout(DEADLINE):
            assert (await anext(stream)).data == {"id": "a", "n": 1}


async def test_one_reader_at_a_time(scripted: Scripted) -> None:
    stream = stream_of(scripted)
    peer = await entered(scripted, stream)
    await anext(stream)
    first = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="another task is reading"):
        await anext(stream)
    await peer.send(write("p101", "create", "a"))
    assert (await first).id == "a"
    await stream.close()


async def test_handlers_run_in_order_and_may_be_async(scripted: Scripted, caplog: pytest.LogCaptureFixture) -> None:
    stream = stream_of(scripted)
    peer = await entered(scripted, stream)
    seen: list[str] = []

    async def later(change: Any) -> None:
        await asyncio.sleep(0)
        seen.append(f"async {change.id}")

    def broken(change: Any) -> None:
        raise LookupError("thrown on purpose")

    stream.on("create", broken)
    stream.on("create", later)
    off = stream.on("create", lambda change: seen.append(f"plain {change.id}"))
    stream.on("wave", lambda change: seen.append(f"wave {change.data}"))
    await peer.send(write("p101", "create", "a"), custom("p102", "wave", 7))
    with caplog.at_level(logging.ERROR, logger="motia_core.client"):
        assert [(await anext(stream)).type for _ in range(3)] == ["sync", "create", "event"]
    assert seen == ["async a", "plain a", "wave 7"]
    assert "thrown on purpose" in caplog.text
    off()
    off()
    await peer.send(write("p103", "create", "b"))
    await anext(stream)
    assert seen[3:] == ["async b"]
    with pytest.raises(TypeError, match="must be a function"):
        stream.on("create", "not a function")  # type: ignore[arg-type]
    await stream.close()


async def test_entering_raises_a_refusal(server: Server) -> None:
    server.refused.add("secret")
    with pytest.raises(AccessDenied, match="no access") as refused:
        async with connect_stream("documents", group_id="secret", url=server.url):
            pass
    assert refused.value.code == "STREAM_ACCESS_DENIED"
    assert isinstance(refused.value, MotiaError)
    server.tokens = {"good"}
    with pytest.raises(AccessDenied, match="not authenticated") as refused:
        async with connect_stream("documents", group_id="w1", url=server.url, token="hush-hush"):
            pass
    assert refused.value.code == "UNAUTHENTICATED"
    assert "hush" not in str(refused.value)


async def test_iterating_raises_the_end_of_an_admission(scripted: Scripted) -> None:
    stream = stream_of(scripted)
    peer = await entered(scripted, stream)
    await anext(stream)
    await peer.send(error("STREAM_ACCESS_DENIED"))
    with pytest.raises(AccessDenied):
        await anext(stream)
    assert stream.status == "closed"


async def test_another_refusal_keeps_its_code(scripted: Scripted) -> None:
    entering = asyncio.create_task(stream_of(scripted).__aenter__())
    peer = await scripted.accept()
    await peer.receive()
    await peer.send(error("GROUP_TOO_LARGE"))
    with pytest.raises(StreamError, match="as scripted") as refused:
        await entering
    assert refused.value.code == "GROUP_TOO_LARGE"
    assert not isinstance(refused.value, AccessDenied)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refusal_at_the_upgrade_is_one(status: int) -> None:
    def refuse(connection: ServerConnection, request: Request) -> Response:
        return connection.respond(status, "no")

    async def never(connection: ServerConnection) -> None: ...

    async with serve(never, "127.0.0.1", 0, process_request=refuse) as running:
        port = next(iter(running.sockets)).getsockname()[1]
        with pytest.raises(AccessDenied):
            await connect_stream("documents", group_id="w1", url=f"http://127.0.0.1:{port}").__aenter__()


async def test_a_server_that_is_not_there_is_named() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        stream = connect_stream("documents", group_id="w1", url=f"ws://{address}", token="hush", connect_timeout=0.3)
        with pytest.raises(ServerUnavailable, match=address) as failure:
            await stream.__aenter__()
    assert isinstance(failure.value.__cause__, OSError)
    assert "hush" not in str(failure.value)
    assert stream.status == "closed"


async def test_a_server_that_says_nothing_is_given_up(scripted: Scripted) -> None:
    with pytest.raises(ServerUnavailable, match="no answer"):
        await stream_of(scripted, connect_timeout=0.3).__aenter__()


async def test_a_frame_over_the_limit_is_an_error_not_a_loop(scripted: Scripted) -> None:
    stream = stream_of(scripted, max_frame_bytes=2_000)
    peer = await entered(scripted, stream)
    await anext(stream)
    await peer.send(write("p101", "create", "a", padding="x" * 3_000))
    with pytest.raises(StreamError, match="max_frame_bytes") as failure:
        await anext(stream)
    assert failure.value.code == "FRAME_TOO_LARGE"
    assert scripted.accepted == 1


async def test_an_error_that_passes_is_logged_if_nobody_listens(
    scripted: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    stream = stream_of(scripted)
    peer = await entered(scripted, stream)
    await anext(stream)
    await peer.send(error("SLOW_CONSUMER"), sync("p101", []))
    assert (await anext(stream)).type == "sync"
    assert "SLOW_CONSUMER" in caplog.text
    await stream.close()


async def test_a_token_function_that_fails_is_asked_again(scripted: Scripted) -> None:
    asked: list[int] = []

    def token() -> Any:
        asked.append(1)
        return 7 if len(asked) == 1 else "good"

    stream = stream_of(scripted, token=token)
    problems: list[StreamError] = []
    stream.on("error", problems.append)
    entering = asyncio.create_task(stream.__aenter__())
    peer = await scripted.accept()
    join = await peer.receive()
    await peer.send(joined(join, "p1"))
    await entering
    assert [problem.code for problem in problems] == ["TOKEN_FAILED"]
    assert peer.token() == "good"
    await stream.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "no spaces", "group_id": "g"}, "stream name 'no spaces'"),
        ({"name": "documents", "group_id": ""}, "group id must not be empty"),
        ({"name": "documents", "group_id": "g", "id": "\n"}, "item id"),
        ({"name": "documents", "group_id": "g", "url": "ftp://host"}, "must begin with ws://"),
        ({"name": "documents", "group_id": "g", "url": "localhost:3112"}, "must begin with ws://"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        connect_stream(**arguments)
    assert isinstance(refused.value, InvalidName) or "url" in str(refused.value)


def test_without_the_extra_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "websockets", None)
    with pytest.raises(MissingDependency, match=r'pip install "motia-core\[client\]"'):
        connect_stream("documents", group_id="w1")


def test_the_javascript_client_can_be_served() -> None:
    assert b"export function connectStream" in javascript()
    assert b"export declare function connectStream" in javascript("client.d.ts")
    with pytest.raises(ValueError, match=r"'client.js' or 'client.d.ts'"):
        javascript("../secret")
