"""Over real sockets on loopback: fan-out, joins, memory; the server is a process of its own."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, cast

from benchmarks.rows import Row

SOCKETS = 1_000
MESSAGES = 40
BURST = 10


class Client(asyncio.Protocol):
    """A WebSocket client that counts frames and decodes none: the server is what is measured."""

    def __init__(self, counter: Counter, join: bytes, path: str = "/ws") -> None:
        self._counter = counter
        self._join = join
        self._path = path
        self._buffer = b""
        self._open = False
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        key = base64.b64encode(os.urandom(16)).decode()
        self.transport.write(
            f"GET {self._path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data if self._buffer else data
        if not self._open:
            head, separator, data = data.partition(b"\r\n\r\n")
            if not separator:
                self._buffer = head
                return
            assert b" 101 " in head[:20], head[:100]
            self._open = True
            assert self.transport is not None
            if self._join:
                self.transport.write(text_frame(self._join))
            else:
                self._counter.add(1)
        at, size, frames = 0, len(data), 0
        while at + 2 <= size:
            length, head_size = data[at + 1], 2
            if length == 126:
                length, head_size = int.from_bytes(data[at + 2 : at + 4], "big"), 4
            elif length == 127:
                length, head_size = int.from_bytes(data[at + 2 : at + 10], "big"), 10
            if at + head_size + length > size:
                break
            if data[at] == 0x89:  # a ping: answer it
                assert self.transport is not None
                self.transport.write(masked(0x8A, data[at + head_size : at + head_size + length]))
            else:
                frames += 1
            at += head_size + length
        self._buffer = data[at:]
        if frames:
            self._counter.add(frames)


class Counter:
    """Counts frames of all clients; `reach` waits for a number of them."""

    def __init__(self) -> None:
        self.count = 0
        self._goal = 0
        self._reached: asyncio.Future[None] | None = None

    def add(self, frames: int) -> None:
        self.count += frames
        if self._reached is not None and self.count >= self._goal and not self._reached.done():
            self._reached.set_result(None)

    async def reach(self, goal: int) -> None:
        if self.count < goal:
            self._goal = goal
            self._reached = asyncio.get_running_loop().create_future()
            await asyncio.wait_for(self._reached, 60)


def masked(first: int, payload: bytes) -> bytes:
    """A client frame, with a mask of zeros."""
    size = len(payload)
    if size < 126:
        return bytes((first, 0x80 | size)) + b"\0\0\0\0" + payload
    return bytes((first, 0x80 | 126)) + size.to_bytes(2, "big") + b"\0\0\0\0" + payload


def text_frame(payload: bytes) -> bytes:
    """A client's text frame."""
    return masked(0x81, payload)


NODE = ("ws", "socket.io")
JOIN = b'{"type":"join","data":{"streamName":"documents","groupId":"g","subscriptionId":"s"}}'


# Path to connect to, what to say then, and how many frames come before it is ready.
KINDS = {
    "ours": ("/ws", JOIN, 1),
    "socket.io": ("/socket.io/?EIO=4&transport=websocket", b"40", 2),
}


@contextlib.asynccontextmanager
async def server(kind: str) -> AsyncGenerator[tuple[int, int], None]:
    """A server process of this kind; yields its port and pid."""
    here = Path(__file__).resolve().parent
    process = await asyncio.create_subprocess_exec(
        *(["node", "server.cjs", kind] if kind in NODE else [sys.executable, "-m", "benchmarks.servers", kind]),
        cwd=here / "node" if kind in NODE else here.parent,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 30)
        yield int(line), process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


@contextlib.asynccontextmanager
async def clients(port: int, number: int, kind: str) -> AsyncGenerator[tuple[Counter, list[Client]], None]:
    """So many open sockets that have joined."""
    path, join, hello = KINDS.get(kind, ("/ws", b"", 1))
    loop = asyncio.get_running_loop()
    counter = Counter()
    opened: list[Client] = []
    for start in range(0, number, 100):
        for _ in range(min(100, number - start)):
            _, client = await loop.create_connection(lambda: Client(counter, join, path), "127.0.0.1", port)
            opened.append(client)
        await counter.reach(len(opened) * hello)
    counter.count = 0
    try:
        yield counter, opened
    finally:
        for client in opened:
            if client.transport:
                client.transport.abort()
        await asyncio.sleep(0.05)


async def post(port: int, path: str) -> bytes:
    """A small HTTP POST."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return answer


async def fan_out(kind: str, burst: int) -> float:
    """Deliveries a second: the server sends to all, ``burst`` messages at a time, each burst when the last is in."""
    async with server(kind) as (port, _), clients(port, SOCKETS, kind) as (counter, _):
        await post(port, f"/send/{burst}")
        base = SOCKETS * burst
        await counter.reach(base)
        started = time.perf_counter()
        for _ in range(MESSAGES // burst):
            await post(port, f"/send/{burst}")
            base += SOCKETS * burst
            await counter.reach(base)
        return SOCKETS * MESSAGES / (time.perf_counter() - started)


async def memory(kind: str) -> float:
    """KiB of the server's memory for each idle socket."""
    number = 2_000
    async with server(kind) as (port, pid):
        await post(port, "/send/1")
        before = _resident(pid)
        async with clients(port, number, kind):
            await asyncio.sleep(0.5)
            return (_resident(pid) - before) / number


async def joins(kind: str) -> float:
    """Joins a second: connect, and for ours authenticate, on_join and sync; for the baseline the upgrade alone."""
    number = 2_000
    async with server(kind) as (port, _):
        await post(port, "/send/1")
        started = time.perf_counter()
        async with clients(port, number, kind):
            return number / (time.perf_counter() - started)


async def joins_only() -> float:
    """Joins a second on authenticated connections: on_join and sync, without the upgrade."""
    number = 2_000
    async with server("ours") as (port, _), clients(port, number, "ours") as (counter, opened):
        more = text_frame(JOIN.replace(b'"g"', b'"other"').replace(b'"s"', b'"s2"'))
        started = time.perf_counter()
        for client in opened:
            assert client.transport is not None
            client.transport.write(more)
        await counter.reach(number)
        return number / (time.perf_counter() - started)


def _resident(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return float(line.split()[1])
    raise RuntimeError("no VmRSS")


def _fan_out(kind: str, burst: int) -> Any:
    return lambda: fan_out(kind, burst)


def _node(burst: int) -> dict[str, Any]:
    """The baselines in Node, where their packages are installed (``npm install`` in benchmarks/node)."""
    if not (Path(__file__).parent / "node" / "node_modules").is_dir():
        return {}
    return {"socket.io": _fan_out("socket.io", burst), "node ws": _fan_out("ws", burst)}


ROWS = [
    Row(
        "fan-out to 1,000 sockets, one message at a time",
        "deliveries/s",
        {"ours": _fan_out("ours", 1), "starlette on uvicorn, a loop": _fan_out("starlette", 1), **_node(1)},
        "ours",
        "1.0x",
        "ahead of node ws",
    ),
    Row(
        "fan-out to 1,000 sockets, bursts of 10",
        "deliveries/s",
        {"ours": _fan_out("ours", BURST), "starlette on uvicorn, a loop": _fan_out("starlette", BURST), **_node(BURST)},
        "ours",
        "1.0x",
        "5x",
    ),
    Row(
        "memory of an idle socket",
        "KiB",
        {"ours, joined": lambda: memory("ours"), "bare uvicorn": lambda: memory("starlette")},
        "ours, joined",
        "<= 1.5x",
        "<= 1.2x",
        more_is_better=False,
        rounds=3,
    ),
    Row(
        "authenticated joins",
        "joins/s",
        {
            "connect, authenticate, on_join, sync": lambda: joins("ours"),
            "the same on open connections": joins_only,
            "bare upgrades (starlette)": lambda: joins("starlette"),
        },
        "connect, authenticate, on_join, sync",
        "1,000/s",
        "3,000/s",
        rounds=3,
    ),
]
