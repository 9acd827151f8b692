"""A peer in the test's hands, for what a real server rarely does."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import websockets.asyncio.server as ws
from websockets.typing import Subprotocol

DEADLINE = 10.0

Frame = dict[str, Any]


def first_offered(_: Any, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """Browsers break the connection off if none of the subprotocols they offer is chosen."""
    return offered[0] if offered else None


def sync(position: str, data: Any, **more: Any) -> Frame:
    """A snapshot of group "w1" of "documents", or of an item of it (``id=``)."""
    return _frame({"type": "sync", "data": data}, position, more)


def write(position: str, kind: str, id: str, **fields: Any) -> Frame:
    """A create, update or delete in the same group; ``subscriptionId`` is the frame's own."""
    more = {key: fields.pop(key) for key in ("subscriptionId",) if key in fields}
    return _frame({"type": kind, "data": {"id": id, **fields}}, position, {"id": id, **more})


def custom(position: str, kind: str, data: Any) -> Frame:
    """A custom event to the same group."""
    return _frame({"type": "event", "event": {"type": kind, "data": data}}, position, {})


def error(code: str, **more: Any) -> Frame:
    """An error of the subscription to the same group, or to an item of it (``id=``)."""
    return _frame({"type": "error", "data": {"code": code, "message": "as scripted"}}, None, more)


def joined(join: Frame, position: str) -> Frame:
    """The end of a join's answer."""
    return {"type": "joined", "subscriptionId": join["subscriptionId"], "position": position}


def _frame(event: Frame, position: str | None, more: Frame) -> Frame:
    place = {} if position is None else {"position": position}
    base = {"type": "stream", "timestamp": 1, "streamName": "documents", "groupId": "w1"}
    return {**base, "event": event, **place, **more}


class Peer:
    """One connection of a client, in the test's hands."""

    def __init__(self, socket: ws.ServerConnection) -> None:
        self.socket = socket

    def token(self) -> str | None:
        """The token, wherever the client put it."""
        request = self.socket.request
        assert request is not None
        bearer: str | None = request.headers.get("Authorization")
        if bearer is not None:
            return bearer.removeprefix("Bearer ")
        _, comma, second = request.headers.get("Sec-WebSocket-Protocol", "").partition(",")
        return second.strip() if comma else parse_qs(urlsplit(request.path).query).get("authToken", [None])[0]

    async def receive(self, kind: str = "join") -> dict[str, Any]:
        """The data of the next message, which must be of this kind."""
        async with asyncio.timeout(DEADLINE):
            message = json.loads(await self.socket.recv())
        assert message["type"] == kind, message
        data: dict[str, Any] = message["data"]
        return data

    async def send(self, *frames: dict[str, Any]) -> None:
        for frame in frames:
            await self.socket.send(json.dumps(frame))

    async def silent(self) -> bool:
        """Whether the client has sent nothing more, up to its answer to a ping."""
        await (await self.socket.ping())
        receiving = asyncio.ensure_future(self.socket.recv())
        await asyncio.sleep(0)
        return receiving.cancel()

    async def begin(self, position: str = "p100", data: Any = ()) -> Frame:
        """Answer the next join with a snapshot of the group; the join."""
        join = await self.receive()
        await self.send(sync(position, list(data)), joined(join, position))
        return join

    async def close(self, code: int) -> None:
        await self.socket.close(code)

    async def gone(self) -> int:
        """Wait until the client has closed; its close code."""
        async with asyncio.timeout(DEADLINE):
            await self.socket.wait_closed()
        code = self.socket.close_code
        assert code is not None
        return code


class Scripted:
    """A server without a mind: tests accept its connections and say what it says."""

    def __init__(self) -> None:
        self.accepted = 0
        self._waiting: asyncio.Queue[Peer] = asyncio.Queue()
        self._server: ws.Server | None = None
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self._socket.getsockname()[1]}"

    async def start(self) -> None:
        """Listen; until then whoever connects is refused."""
        serving = ws.serve(self._client, sock=self._socket, select_subprotocol=first_offered, max_queue=None)
        self._server = await serving

    async def accept(self) -> Peer:
        async with asyncio.timeout(DEADLINE):
            return await self._waiting.get()

    async def aclose(self) -> None:
        if self._server:
            self._server.close()
            await self._server.wait_closed()
        self._socket.close()

    async def _client(self, connection: ws.ServerConnection) -> None:
        self.accepted += 1
        self._waiting.put_nowait(Peer(connection))
        await connection.wait_closed()
