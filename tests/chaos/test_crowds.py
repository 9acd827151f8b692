"""Rows 8 and 18: a thousand clients, of which one stalls, or all come back at once."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest
from websockets.exceptions import ConnectionClosed

from motia_core.snapshots import SNAPSHOT_REUSE
from motia_core.testing.harness import eventually

from ..e2e.serving import Served, Spy, project, serve
from ..e2e.sockets import RawSocket, Socket, kind, place
from .figures import LIMIT, Figures, bounded, percentile, scaled

pytestmark = pytest.mark.chaos

PAD = "x" * 20_000
FLOOD = 600
"""Writes of `PAD` that a client cannot leave unread without being noticed."""


class Light(Socket):
    """A client that keeps of each frame only what it was, where it stands, and when it came."""

    def __init__(self, connection: Any) -> None:
        self.came: list[tuple[str, str, float]] = []
        super().__init__(connection)

    async def _read(self) -> None:
        with suppress(ConnectionClosed):
            while True:
                frame = orjson.loads(await self.connection.recv())
                self.came.append((kind(frame), frame.get("position", ""), time.monotonic()))

    def has(self, position: str) -> bool:
        return bool(self.came) and self.came[-1][1] >= position


async def crowd(server: Served, number: int, groups: int = 1) -> list[Light]:
    """So many clients, all live, on ``g0``, ``g1``, ..."""
    clients: list[Light] = []
    for first in range(0, number, 50):
        part = range(first, min(first + 50, number))
        clients += await asyncio.gather(*(Light.open(server.url) for _ in part))
    for turn, client in enumerate(clients):
        await client.join(f"g{turn % groups}")
    await _all(clients, lambda client: bool(client.came), "all to be live")
    return clients


async def _all(clients: Any, done: Any, what: str) -> None:
    waiting = list(clients)
    async with asyncio.timeout(LIMIT):
        while waiting := [client for client in waiting if not done(client)]:
            assert not waiting[0].connection.close_code, f"closed, while waiting for {what}"
            await asyncio.sleep(0.01)


async def _close(clients: list[Light]) -> None:
    for client in clients:
        client.abort()
    await asyncio.gather(*(client.gone() for client in clients))


def _memory() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def _delays(server: Served, clients: list[Light], writes: int) -> tuple[list[float], list[str]]:
    """Write to the crowd and flood another group meanwhile: each delivery's delay, and the positions."""
    begun: dict[str, float] = {}
    counts = [len(client.came) for client in clients]

    async def flood() -> None:
        for number in range(FLOOD):
            await server.docs.set("flood", f"i{number % 10}", {"n": number, "pad": PAD})
            await asyncio.sleep(0.002)

    flooding = asyncio.create_task(flood())
    for number in range(writes):
        at = time.monotonic()
        begun[(await server.docs.set("g0", f"i{number % 10}", {"n": number})).position] = at
        await asyncio.sleep(0.05)
    await flooding
    positions = list(begun)
    await _all(clients, lambda client: client.has(positions[-1]), "the last write")
    delays = []
    for client, count in zip(clients, counts, strict=True):
        assert [position for _, position, _ in client.came[count:]] == positions
        delays += [at - begun[position] for _, position, at in client.came[count:]]
    return delays, positions


@bounded
async def test_row_8_one_stalled_client_among_a_thousand(tmp_path: Path, figures: Figures) -> None:
    number, writes = scaled(1_000, least=50), scaled(100, least=10)
    async with serve(project(tmp_path, server={"send_queue_bytes": 1_000_000})) as server:
        clients = await crowd(server, number)
        healthy = await Light.open(server.url)
        await healthy.join("flood")
        await _all([healthy], lambda client: bool(client.came), "the last to be live")
        before, _ = await _delays(server, clients, writes)
        await _close([healthy])

        stalled = await RawSocket.open(server.port, receive_buffer=4096)
        await stalled.send({"type": "join", "data": place("flood")})
        await stalled.frame()
        await eventually(lambda: _are(server, number + 1), "the stalled client to be the only other one")
        memory, begun = _memory(), time.monotonic()
        during, _ = await _delays(server, clients, writes)
        grown = _memory() - memory
        await eventually(lambda: _are(server, number), "the stalled client to be let go")
        let_go = time.monotonic() - begun
        frames = await stalled.rest()
        assert len(frames) < FLOOD
        stalled.close()
        await _close(clients)
    figures.add(clients=number, deliveries=len(before) + len(during))
    figures.spread("delay beside one that reads", before)
    figures.spread("delay beside one that stalls", during)
    figures.add(ratio_of_p99s=percentile(during, 0.99) / percentile(before, 0.99))
    figures.add(seconds_until_it_was_let_go=let_go, memory_grown_MB=grown / 1e6)


async def _are(server: Served, number: int) -> bool:
    return len(server.motia.connections) == number


@bounded
async def test_row_18_a_thousand_clients_reconnect_at_once(tmp_path: Path, figures: Figures) -> None:
    number, groups, spy = scaled(1_000, least=50), 20, Spy()
    async with serve(project(tmp_path, spy=spy)) as server:
        for group in range(groups):
            for item in range(20):
                last = (await server.docs.set(f"g{group}", f"i{item}", {"n": item})).position
        for way in ("sync", "resume"):
            clients = await crowd(server, number, groups)
            await _close(clients)
            await eventually(lambda: _are(server, 0), "the server to have noticed")
            positions = [client.came[-1][1] for client in clients]
            for group in range(groups):
                last = (await server.docs.set(f"g{group}", "i0", {"n": way})).position
            reads, watches = len(spy.adapter.snapshots), spy.adapter.watches

            async def back(turn: int, way: str = way, positions: list[str] = positions) -> Light:
                client = await Light.open(server.url)
                more = {"after": positions[turn]} if way == "resume" else {}
                await client.join(f"g{turn % groups}", **more)
                return client

            begun = time.monotonic()
            returned = await asyncio.gather(*(back(turn) for turn in range(number)))
            await _all(returned, lambda client: bool(client.came), "all to be live again")
            took = time.monotonic() - begun
            mark = (await server.docs.set("g0", "mark", {})).position
            await _all(returned[::groups], lambda client, mark=mark: client.has(mark), "the next change")
            read = len(spy.adapter.snapshots) - reads
            expected = "sync" if way == "sync" else "update"
            assert {client.came[0][0] for client in returned} == {expected}
            # One read serves all who come at about the same time.
            assert read <= 2 * groups * (1 + took / SNAPSHOT_REUSE)
            assert spy.adapter.watches - watches <= 1 + (read if way == "sync" else groups)
            await _close(list(returned))
            await eventually(lambda: _are(server, 0), "the server to have noticed")
            figures.add(**{f"{way}: all live after seconds": took, f"{way}: reads per group": read / groups})
        assert last
    figures.add(clients=number, groups=groups)
