"""Clients that show each frame as it came: `Socket` behaves, `RawSocket` need not."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket as sockets
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Self

import websockets.asyncio.client as ws
from websockets.exceptions import ConnectionClosed

from motia_core.testing.harness import DEADLINE, eventually

Frame = dict[str, Any]


def place(group: str, id: str | None = None, stream: str = "documents", **more: Any) -> Frame:
    """The data of a join or leave."""
    return {"streamName": stream, "groupId": group, **({} if id is None else {"id": id}), **more}


def kind(frame: Frame) -> str:
    """``sync``, ``create``, ..., of errors their code, or the frame's own type."""
    if frame["type"] == "stream":
        event = frame["event"]
        return str(event["data"]["code"] if event["type"] == "error" else event["type"])
    return str(frame["data"]["code"] if frame["type"] == "error" else frame["type"])


def about(stream: str, group: str, frame: Frame) -> bool:
    """Whether a frame is about this group."""
    return (frame.get("streamName"), frame.get("groupId")) == (stream, group)


def message(frame: Frame) -> str:
    """What an error says to people."""
    data = frame["event"]["data"] if frame["type"] == "stream" else frame["data"]
    return str(data["message"])


class Socket:
    """A client; all that arrives is kept in ``frames``, with its text in ``texts``."""

    def __init__(self, connection: ws.ClientConnection) -> None:
        self.connection = connection
        self.frames: list[Frame] = []
        self.texts: list[str | bytes] = []
        self._news = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, url: str, **options: Any) -> Self:
        options = {"max_size": None, "compression": None, "proxy": None, "ping_interval": None, **options}
        async with asyncio.timeout(DEADLINE):
            return cls(await ws.connect(url, **options))

    async def aclose(self) -> None:
        """Close as a browser does."""
        await self.connection.close()
        await self._reader

    def abort(self) -> None:
        """Go without a word, as a process that is killed."""
        self.connection.transport.abort()

    async def send(self, *frames: Any) -> None:
        """Send frames: text and bytes as they are, others as JSON."""
        for frame in frames:
            await self.connection.send(frame if isinstance(frame, str | bytes) else json.dumps(frame))

    async def join(self, group: str, id: str | None = None, stream: str = "documents", **more: Any) -> None:
        await self.send({"type": "join", "data": place(group, id, stream, **more)})

    async def leave(self, group: str, id: str | None = None, stream: str = "documents", **more: Any) -> None:
        await self.send({"type": "leave", "data": place(group, id, stream, **more)})

    async def joined(self, group: str, id: str | None = None, stream: str = "documents", **more: Any) -> Frame:
        """Join and wait for the answer, whatever it is."""
        since = len(self.frames)
        await self.join(group, id, stream, **more)
        return await self.until(
            lambda frame: (
                (frame.get("streamName"), frame.get("groupId"), frame.get("id")) == (stream, group, id)
                and (kind(frame) == "sync" or frame["event"]["type"] == "error")
            ),
            since,
        )

    async def until(self, wanted: Callable[[Frame], bool], since: int = 0) -> Frame:
        """The first frame that is wanted, from number ``since`` on; waits for it."""
        try:
            async with asyncio.timeout(DEADLINE):
                while True:
                    for frame in self.frames[since:]:
                        if wanted(frame):
                            return frame
                    since = max(since, len(self.frames))
                    if self._reader.done():
                        raise AssertionError(f"closed with {self.connection.close_code}; got {self.frames}")
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            shown = [kind(frame) for frame in self.frames]
            raise AssertionError(f"not seen within {DEADLINE} s; seen: {shown[-50:]}") from None

    async def told(self, what: str, since: int = 0) -> Frame:
        """The first frame of a kind (see `kind`)."""
        return await self.until(lambda frame: kind(frame) == what, since)

    async def at(self, position: str, since: int = 0) -> Frame:
        """The frame with a position, or a sync at or after it."""
        return await self.until(
            lambda frame: (
                frame.get("position") == position or (kind(frame) == "sync" and frame["position"] >= position)
            ),
            since,
        )

    async def count(self, number: int) -> None:
        """Wait until that many frames have come."""

        async def enough() -> bool:
            return len(self.frames) >= number

        await eventually(enough, f"{number} frames; got {[kind(frame) for frame in self.frames][-50:]}")

    async def settled(self) -> list[Frame]:
        """All frames so far, those included that the server had written when it saw our ping."""
        async with asyncio.timeout(DEADLINE):
            await (await self.connection.ping())
        return self.frames

    async def gone(self) -> int:
        """Wait for the server to close; its close code."""
        async with asyncio.timeout(DEADLINE):
            await asyncio.shield(self._reader)
        return self.connection.close_code or 0

    def kinds(self, since: int = 0) -> list[str]:
        return [kind(frame) for frame in self.frames[since:]]

    def changes(self, group: str | None = None, id: str | None = None) -> list[Frame]:
        """Frames of changes and events, in order."""
        return [
            frame
            for frame in self.frames
            if frame["type"] == "stream"
            and frame["event"]["type"] in ("create", "update", "delete", "event")
            and (group is None or frame["groupId"] == group)
            and (id is None or frame.get("id") == id)
        ]

    async def _read(self) -> None:
        with suppress(ConnectionClosed):
            while True:
                text = await self.connection.recv()
                self.texts.append(text)
                self.frames.append(json.loads(text))
                self._news.set()
        self._news.set()


class RawSocket:
    """A TCP connection with a WebSocket in it, read only when asked to."""

    def __init__(self, socket: sockets.socket) -> None:
        self.socket = socket
        self.buffer = b""
        self.status = 0
        self.head = b""
        self.sent = 0
        self.code = 0
        self.chunk = 65_536
        """Bytes that one read takes, and the seconds between two: a slow link."""
        self.pause = 0.0

    @classmethod
    async def open(
        cls,
        port: int,
        *,
        path: str = "/",
        headers: Iterable[tuple[str, str]] = (),
        receive_buffer: int | None = None,
        with_upgrade: bytes = b"",
    ) -> RawSocket:
        """Upgrade; ``status`` holds the answer. ``with_upgrade`` goes out together with the request."""
        socket = sockets.socket()
        socket.setblocking(False)
        if receive_buffer:
            socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, receive_buffer)
        raw = cls(socket)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(DEADLINE):
            await loop.sock_connect(socket, ("127.0.0.1", port))
            lines = [
                f"GET {path} HTTP/1.1",
                f"Host: 127.0.0.1:{port}",
                "Connection: Upgrade",
                "Upgrade: websocket",
                "Sec-WebSocket-Version: 13",
                f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
                *(f"{name}: {value}" for name, value in headers),
            ]
            request = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
            await loop.sock_sendall(socket, request + with_upgrade)
            while b"\r\n\r\n" not in raw.buffer and await raw.more():
                pass
        raw.head, _, raw.buffer = raw.buffer.partition(b"\r\n\r\n")
        raw.status = int(raw.head.split(b" ", 2)[1]) if raw.head else 0
        return raw

    async def more(self, size: int = 65_536) -> bool:
        """Read what there is; False at the end."""
        try:
            data = await asyncio.get_running_loop().sock_recv(self.socket, size)
        except OSError:
            return False
        self.buffer += data
        return bool(data)

    async def send(self, *frames: Any) -> None:
        """Send text frames, JSON unless they are text."""
        data = b"".join(text_frame(f if isinstance(f, str) else json.dumps(f)) for f in frames)
        await self.send_bytes(data)

    async def send_bytes(self, data: bytes) -> None:
        """Send; ``sent`` counts on the way."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(DEADLINE):
            for start in range(0, len(data), 16_384):
                await loop.sock_sendall(self.socket, data[start : start + 16_384])
                self.sent += len(data[start : start + 16_384])

    async def next(self) -> tuple[int, bytes]:
        """The next frame's opcode and payload; opcode -1 when the connection is over. Pings are answered."""
        async with asyncio.timeout(DEADLINE):
            while True:
                while (frame := self._split()) is None:
                    if not await self.more(self.chunk):
                        return -1, b""
                    await asyncio.sleep(self.pause)
                if frame[0] != 9:
                    return frame
                await self.send_bytes(frame_bytes(frame[1], opcode=10))

    async def frame(self) -> Frame:
        """The next text frame, decoded."""
        opcode, payload = await self.next()
        assert opcode == 1, (opcode, payload)
        frame: Frame = json.loads(payload)
        return frame

    async def until(self, wanted: Callable[[Frame], bool]) -> list[Frame]:
        """All frames up to the first that is wanted."""
        frames = [await self.frame()]
        while not wanted(frames[-1]):
            frames.append(await self.frame())
        return frames

    async def rest(self) -> list[Frame]:
        """All text frames until the connection is over; ``code`` then holds the close code, or 1006."""
        frames = []
        self.code = 1006
        while (frame := await self.next())[0] != -1:
            if frame[0] == 8:
                self.code = int.from_bytes(frame[1][:2], "big")
                break
            frames.append(json.loads(frame[1]))
        return frames

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Close with a TCP reset."""
        self.socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _split(self) -> tuple[int, bytes] | None:
        data = self.buffer
        if len(data) < 2:
            return None
        size, start = data[1] & 0x7F, 2
        if size == 126:
            size, start = int.from_bytes(data[2:4], "big"), 4
        elif size == 127:
            size, start = int.from_bytes(data[2:10], "big"), 10
        if len(data) < max(start, 2) or len(data) < start + size:
            return None
        self.buffer = data[start + size :]
        return data[0] & 0x0F, data[start : start + size]


def text_frame(text: str, *, opcode: int = 1) -> bytes:
    """A client's frame: final and masked."""
    payload = text.encode("utf-8", "surrogatepass")
    return frame_bytes(payload, opcode=opcode)


def frame_bytes(payload: bytes, *, opcode: int = 1) -> bytes:
    """A client's frame with any payload."""
    mask = os.urandom(4)
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
    elif size < 65536:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
    repeated = (mask * (size // 4 + 1))[:size]
    masked = (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(size, "big")
    return head + mask + masked
