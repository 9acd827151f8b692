"""A server that keeps streams in memory behind the protocol, until the real one takes its place."""

from __future__ import annotations

import asyncio
import itertools
import json
from contextlib import suppress
from typing import Any

import websockets.asyncio.server as ws
from websockets.exceptions import ConnectionClosed

from .scripted import first_offered


class Server:
    """Streams in memory behind the protocol, and the doors through which tests change them."""

    def __init__(self) -> None:
        self.refused: set[str] = set()
        self.tokens: set[str] | None = None
        self._items: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
        self._log: list[dict[str, Any]] = []
        self._history = "h1"
        self._floor = 0
        self._count = itertools.count(1)
        self._joined: dict[ws.ServerConnection, dict[str, dict[str, Any]]] = {}
        self._server: ws.Server | None = None
        self._relay = Relay()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self._relay.port}"

    async def start(self) -> None:
        self._server = await ws.serve(self._client, "127.0.0.1", 0, select_subprotocol=first_offered)
        self._relay.target = self._server.sockets[0].getsockname()[1]
        await self._relay.start()

    async def stop(self) -> None:
        """As a server that is restarted: told to the clients, nothing forgotten."""
        await self._relay.stop_listening()
        if self._server:
            self._server.close(code=1012)
            await self._server.wait_closed()

    async def aclose(self) -> None:
        await self.stop()
        await self._relay.aclose()

    async def cut(self) -> None:
        """Break every connection without a word."""
        self._relay.cut()

    async def set(self, stream: str, group: str, id: str, value: dict[str, Any]) -> str:
        """Write an item; its change's position."""
        items = self._items.setdefault((stream, group), {})
        kind = "update" if id in items else "create"
        items[id] = {"id": id, **value}
        return await self._append(stream, group, id, {"type": kind, "data": items[id]})

    async def delete(self, stream: str, group: str, id: str) -> str:
        return await self._append(stream, group, id, {"type": "delete", "data": self._items[stream, group].pop(id)})

    async def send(self, stream: str, group: str, id: str | None, kind: str, data: Any) -> str:
        return await self._append(stream, group, id, {"type": "event", "event": {"type": kind, "data": data}})

    async def trim(self) -> None:
        """Forget the history, keep the items."""
        self._floor = len(self._log)

    async def wipe(self) -> None:
        """Lose everything; the history that follows is another one."""
        self._items.clear()
        self._log.clear()
        self._history, self._floor, self._count = "h0", 0, itertools.count(1)

    def _position(self, number: int) -> str:
        return f"{self._history}-{number:08d}"

    async def _append(self, stream: str, group: str, id: str | None, event: dict[str, Any]) -> str:
        number = next(self._count)
        frame = {"type": "stream", "timestamp": number, "streamName": stream, "groupId": group, "event": event}
        frame |= {"position": self._position(number)} | ({} if id is None else {"id": id, "version": f"v{number}"})
        self._log.append(frame)
        for socket, joins in list(self._joined.items()):
            if any(_concerns(frame, join) for join in joins.values()):
                await _send(socket, frame)
        return self._position(number)

    async def _client(self, socket: ws.ServerConnection) -> None:
        token = (socket.request.headers.get("Sec-WebSocket-Protocol") or "").partition(",")[2].strip()  # type: ignore[union-attr]
        bearer = socket.request.headers.get("Authorization", "").removeprefix("Bearer ")  # type: ignore[union-attr]
        if self.tokens is not None and not {token, bearer} & self.tokens:
            await _send(socket, {"type": "error", "data": {"code": "UNAUTHENTICATED", "message": "who are you?"}})
            return await socket.close(4401)
        self._joined[socket] = {}
        with suppress(ConnectionClosed):
            async for text in socket:
                message = json.loads(text)
                if message["type"] == "join":
                    await self._join(socket, message["data"])
                else:
                    self._joined[socket].pop(message["data"]["subscriptionId"])
        self._joined.pop(socket, None)
        return None

    async def _join(self, socket: ws.ServerConnection, join: dict[str, Any]) -> None:
        head = self._log[-1]["position"] if self._log else self._position(0)
        address: dict[str, Any] = {"type": "stream", "timestamp": len(self._log), "streamName": join["streamName"]}
        address |= {"groupId": join["groupId"]} | ({"id": join["id"]} if join.get("id") else {})
        if join["groupId"] in self.refused:
            error = {"type": "error", "data": {"code": "STREAM_ACCESS_DENIED", "message": "not for you"}}
            return await _send(socket, {**address, "event": error})
        after, number = join.get("after"), 0
        if after is not None:
            number = int(after.rpartition("-")[2])
        tag = {"subscriptionId": join["subscriptionId"]}
        self._joined[socket][join["subscriptionId"]] = join
        if after is None or after > head or not after.startswith(self._history) or number < self._floor:
            items = self._items.get((join["streamName"], join["groupId"]), {})
            data: Any = items.get(join["id"]) if join.get("id") else list(items.values())
            await _send(socket, {**address, **tag, "position": head, "event": {"type": "sync", "data": data}})
        else:
            for frame in self._log[number:]:
                if _concerns(frame, join):
                    await _send(socket, {**frame, **tag})
        return await _send(socket, {"type": "joined", **tag, "position": head})


def _concerns(frame: dict[str, Any], join: dict[str, Any]) -> bool:
    same = (frame["streamName"], frame["groupId"]) == (join["streamName"], join["groupId"])
    return same and join.get("id") in (None, frame.get("id"))


async def _send(socket: ws.ServerConnection, frame: dict[str, Any]) -> None:
    with suppress(ConnectionClosed):
        await socket.send(json.dumps(frame))


class Relay:
    """A TCP relay at a port that stays: connections can be cut at will."""

    def __init__(self) -> None:
        self.port = 0
        self.target = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop_listening(self) -> None:
        if self._server:
            self._server.close()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def aclose(self) -> None:
        await self.stop_listening()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, up_writer}
        self._writers |= ends
        try:
            await asyncio.gather(_copy(reader, up_writer), _copy(up_reader, writer))
        finally:
            self._writers -= ends
            for end in ends:
                end.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
