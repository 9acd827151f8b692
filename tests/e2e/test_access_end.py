"""Clause E5, row 13: admission ends when it should, and nothing more is sent."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from motia_core import Auth, StreamConfig
from motia_core.hookspecs import hookimpl
from motia_core.testing.harness import eventually

from .serving import Served, project, serve
from .sockets import RawSocket, Socket, kind, message, place


@asynccontextmanager
async def writing(server: Served, group: str = "g", pad: int = 0) -> AsyncIterator[list[str]]:
    """Somebody who writes all the time; the positions of what is written so far."""
    positions: list[str] = []

    async def write() -> None:
        while True:
            result = await server.docs.set(group, "x", {"n": len(positions), "pad": "x" * pad})
            positions.append(result.position)

    task = asyncio.create_task(write())
    try:
        yield positions
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def authenticate(request: Any) -> Any:
    name, _, seconds = (request.token or "").partition(":")
    if not seconds:
        return {"user": name} if name else None
    return Auth({"user": name}, expires_at=time.time() + float(seconds))


def ended(client: Socket, why: str) -> None:
    assert kind(client.frames[-1]) == "ACCESS_ENDED"
    assert message(client.frames[-1]) == why
    assert client.kinds().count("ACCESS_ENDED") == 1


async def test_row_13_a_token_that_expires_while_connected(tmp_path: Path) -> None:
    async with serve(project(tmp_path, authenticate=authenticate)) as server, writing(server) as written:
        expiring = await server.connect("/?authToken=ada:0.4")
        lasting = await server.connect("/?authToken=bob:86400000")
        for client in (expiring, lasting):
            await client.joined("g")
        assert await expiring.gone() == 4401
        ended(expiring, "access has expired")
        assert len(expiring.changes()) > 0
        later = len(written)
        await eventually(lambda: _longer(written, later + 5), "more writes")
        await lasting.at(written[later + 4])
        assert {frame["position"] for frame in expiring.changes()} <= set(written[: later + 1])


async def _longer(what: list[Any], than: int) -> bool:
    return len(what) > than


async def test_E5_a_token_that_has_expired_already(tmp_path: Path) -> None:
    asked = []

    async def on_join(subscription: Any, ctx: Any, auth_context: Any) -> Any:
        asked.append(subscription)
        return {"authorized": True}

    stream = StreamConfig(name="documents", on_join=on_join)
    async with serve(project(tmp_path, stream, authenticate=authenticate)) as server:
        for seconds in ("-1", "0", "-inf"):
            raw = await RawSocket.open(server.port, path=f"/?authToken=ada:{seconds}")
            assert raw.status == 101
            await raw.send({"type": "join", "data": place("g")})
            opcode, payload = await raw.next()
            assert (opcode, kind(json.loads(payload))) == (1, "ACCESS_ENDED")
            opcode, payload = await raw.next()
            assert (opcode, int.from_bytes(payload[:2], "big")) == (8, 4401)
            raw.close()
        forever = await server.connect("/?authToken=ada:inf")
        assert kind(await forever.joined("g")) == "sync"
    assert len(asked) == 1


async def test_E5_an_expiry_of_a_plugin_counts_too(tmp_path: Path) -> None:
    class Lets:
        @hookimpl
        def motia_authenticate(self, request: Any) -> Any:
            return Auth({"user": "ada"}, expires_at=time.time() + 0.3)

    async with serve(project(tmp_path, plugins=[Lets()])) as server:
        client = await server.connect()
        await client.joined("g")
        assert await client.gone() == 4401


async def test_row_13_revoked_while_others_write(tmp_path: Path) -> None:
    async with serve(project(tmp_path, authenticate=authenticate)) as server, writing(server) as written:
        revoked = [await server.connect("/?authToken=ada") for _ in range(3)]
        others = [await server.connect(path) for path in ("/?authToken=bob", "/")]
        for client in (*revoked, *others):
            await client.joined("g")
        await eventually(lambda: _longer(written, 20), "some writes")
        assert await server.motia.revoke(lambda auth: auth is not None and auth["user"] == "ada") == 3
        after = len(written)
        for client in revoked:
            assert await client.gone() == 4401
            ended(client, "access was revoked")
            assert {frame["position"] for frame in client.changes()} <= set(written[: after + 1])
        await eventually(lambda: _longer(written, after + 5), "more writes")
        for client in others:
            await client.at(written[after + 4])
        assert await server.motia.revoke(lambda auth: auth is not None and auth["user"] == "ada") == 0
        again = await server.connect("/?authToken=ada")  # who may come back is for authenticate to say
        assert kind(await again.joined("g")) == "sync"


async def test_E5_a_predicate_that_fails_ends_access(tmp_path: Path) -> None:
    async with serve(project(tmp_path, authenticate=authenticate)) as server:
        anonymous, known = await server.connect(), await server.connect("/?authToken=ada")
        for client in (anonymous, known):
            await client.joined("g")
        assert await server.motia.revoke(lambda auth: auth["user"] == "bob") == 1  # type: ignore[index]
        assert await anonymous.gone() == 4401
        last = await server.docs.set("g", "x", {})
        await known.at(last.position)


async def test_E5_a_revoked_client_that_does_not_read_gets_nothing_later(tmp_path: Path) -> None:
    """Not what waits for it in the server, nor what its transport still holds after a second."""
    async with serve(project(tmp_path, authenticate=authenticate)) as server:
        raw = await RawSocket.open(server.port, path="/?authToken=ada", receive_buffer=4096)
        await raw.send({"type": "join", "data": place("g")})
        witness = await server.connect("/?authToken=bob")
        await witness.joined("g")
        async with writing(server, pad=50_000) as written:
            # Far more than socket buffers hold.
            await eventually(lambda: _longer(written, 300), "much to be written")
            await server.motia.revoke(lambda auth: auth == {"user": "ada"})
            revoked = len(written)
            await eventually(lambda: _gone(server), "the connection to be given up")
            await eventually(lambda: _longer(written, revoked + 5), "more writes")
            await witness.at(written[revoked + 4])
        seen = await raw.rest()
        raw.close()
        positions = {frame["position"] for frame in seen if kind(frame) in ("create", "update")}
        assert len(positions) < 300
        assert positions <= set(written[: revoked + 1])


async def _gone(server: Served) -> bool:
    return len(server.motia.connections) == 1


@pytest.mark.parametrize("end", ["revoke", "expire"])
async def test_E5_a_join_whose_hook_runs_as_access_ends(tmp_path: Path, end: str) -> None:
    gate, asked, left = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def on_join(subscription: Any, ctx: Any, auth_context: Any) -> Any:
        asked.set()
        await gate.wait()
        return {"authorized": True}

    async def on_leave(subscription: Any, ctx: Any, auth_context: Any) -> None:
        left.set()

    stream = StreamConfig(name="documents", on_join=on_join, on_leave=on_leave)
    async with serve(project(tmp_path, stream, authenticate=authenticate)) as server:
        await server.docs.set("g", "x", {"text": "secret"})
        client = await server.connect("/?authToken=ada:" + ("0.4" if end == "expire" else "1000"))
        await client.join("g")
        await asked.wait()
        if end == "revoke":
            await server.motia.revoke(lambda auth: True)
        assert await client.gone() == 4401
        gate.set()
        await asyncio.wait_for(left.wait(), 10)
        assert client.kinds() == ["ACCESS_ENDED"]
