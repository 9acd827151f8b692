"""Row 20: ten thousand connects and closes, and whatever time there is to soak: nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from motia_core.ring import RING_CHANGES
from motia_core.testing.harness import DEADLINE, eventually

from ..e2e.processes import running
from ..e2e.sockets import RawSocket, Socket, place
from .figures import Figures, bounded, scaled

pytestmark = pytest.mark.chaos

SOAK = float(os.environ.get("MOTIA_CHAOS_SOAK", "0"))
"""Seconds to go on after the connects and closes (3600 in a nightly run)."""

AT_ONCE = 20
GROUPS = 7


async def polite(port: int, group: str) -> None:
    """Join, get the sync, leave, close."""
    socket = await Socket.open(f"ws://127.0.0.1:{port}")
    await socket.joined(group)
    await socket.leave(group)
    await socket.aclose()


async def abrupt(port: int, group: str) -> None:
    """Join and go without a word, before or after the answer."""
    socket = await Socket.open(f"ws://127.0.0.1:{port}")
    await socket.join(group)
    await asyncio.sleep(0)
    socket.abort()
    await socket.gone()


async def reset(port: int, group: str) -> None:
    """Leave a frame half sent, and reset the connection."""
    raw = await RawSocket.open(port)
    await raw.send({"type": "join", "data": place(group)})
    await raw.send_bytes(b"\x81\xff\x00")
    raw.reset()


async def refused(port: int, group: str) -> None:
    """A page from elsewhere."""
    raw = await RawSocket.open(port, headers=[("Origin", "https://elsewhere.example")])
    assert raw.status == 403
    raw.close()


WAYS: list[Callable[[int, str], Any]] = [polite, polite, abrupt, reset, refused]


@bounded
async def test_row_20_connects_and_closes_leave_nothing(
    tmp_path: Path, chance: random.Random, figures: Figures
) -> None:
    connects = scaled(10_000, least=500)
    async with running(tmp_path) as server:
        base = f"http://127.0.0.1:{server.port}"
        async with httpx.AsyncClient(
            base_url=base, timeout=DEADLINE, limits=httpx.Limits(max_keepalive_connections=1)
        ) as web:

            async def visit() -> None:
                await chance.choice(WAYS)(server.port, f"g{chance.randrange(GROUPS)}")

            async def write() -> None:
                path = f"/docs/g{chance.randrange(GROUPS)}/i{chance.randrange(10)}"
                assert (await web.put(path, json={"n": chance.random()})).status_code == 200

            async def visits(number: int) -> None:
                """So many visitors, and a write for every twenty of them."""
                for _ in range(0, number, AT_ONCE):
                    await asyncio.gather(*(visit() for _ in range(AT_ONCE)))
                    await write()

            async def settle() -> None:
                """Fill what is bounded: the changes that are remembered for those who resume, the caches."""
                listener = await Socket.open(f"ws://127.0.0.1:{server.port}")
                await listener.joined("g0")
                assert (await web.post("/fill", json={"count": RING_CHANGES + 1_000})).status_code == 204
                await listener.aclose()
                await visits(scaled(2_000, least=1_000))

            async def stats() -> dict[str, int]:
                """When everybody is gone."""

                async def alone() -> bool:
                    found = (await web.get("/stats")).json()
                    return bool(found["connections"] == 0 and found["members"] == 0)

                await eventually(alone, "no connection and no member to be left")
                found: dict[str, int] = (await web.get("/stats")).json()
                return found

            await settle()
            before = await stats()
            begun = time.monotonic()
            await visits(connects)
            rate = connects / (time.monotonic() - begun)
            soaked = 0
            while time.monotonic() - begun < SOAK:
                await visits(AT_ONCE * 10)
                soaked += AT_ONCE * 10

            async def clean() -> bool:
                now = await stats()
                return all(now[what] <= before[what] for what in ("tasks", "files", "threads"))

            await eventually(clean, f"no more tasks, files and threads than {before}")
            after = await stats()
    figures.add(connects=connects + soaked, connects_a_second=rate)
    for what in ("tasks", "files", "threads"):
        figures.add(**{what: f"{before[what]} before, {after[what]} after"})
    grown = after["memory"] / before["memory"] - 1
    figures.add(memory_before_MB=before["memory"] / 1e6, memory_grown_percent=grown * 100)
    assert grown <= 0.05
