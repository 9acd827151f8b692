"""Rows 15 and 17: ten thousand odd ids, ten thousand odd frames."""

from __future__ import annotations

import asyncio
import random
import struct
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as seeded
from websockets.exceptions import ConnectionClosed

from motia_core import Motia, StreamConfig
from motia_core.errors import InvalidName
from motia_core.server.codes import CODES
from motia_core.testing.harness import eventually

from ..e2e.serving import project, serve
from ..e2e.sockets import RawSocket, frame_bytes, kind, place
from ..e2e.test_rows import FRAMES
from .figures import Figures, bounded, scaled

pytestmark = pytest.mark.chaos

PIECES = [
    ":",
    "{}",
    "*",
    "../",
    "$",
    ".",
    "..",
    "__x__",
    "/",
    "'",
    '"',
    "%",
    "\\",
    "?",
    "#",
    " ",
    "a",
    "A",
    "é",
    "e\u0301",
]
PIECES += ["\U0001f600", "\u202e", "\u2028", "\ufeff", "\U0010ffff", "中", "x" * 100, "é" * 200, "\U0001f600" * 100]
FORBIDDEN = ["\x00", "\n", "\x1f", "\x7f", "\x85", "\ud800", "\udfff"]


def odd_id(chance: random.Random) -> str:
    """An id of odd pieces, or of any characters; now and then one that is forbidden, or too long."""
    if chance.random() < 0.3:
        text = "".join(chr(chance.choice([chance.randrange(0x110000), chance.randrange(256)])) for _ in range(5))
    else:
        text = "".join(chance.choice(PIECES) for _ in range(chance.randrange(1, 6)))
    return text + (chance.choice(FORBIDDEN) if chance.random() < 0.1 else "")


def allowed(text: str) -> bool:
    """Clause A9, in other words than the code's."""
    if any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 or 0xD800 <= ord(c) < 0xE000 for c in text):
        return False
    return 1 <= len(text.encode()) <= 512


@asynccontextmanager
async def opened(backend: str, folder: Path) -> AsyncIterator[Motia]:
    """A project on that backend."""
    memory = Motia(streams=[StreamConfig(name="documents")], storage={"default": "memory://"})
    async with memory if backend == "memory" else project(folder) as motia:
        yield motia


@pytest.mark.parametrize("backend", ["memory", "sqlite"])
@bounded
async def test_row_15_fuzzed_ids(tmp_path: Path, backend: str, chance: random.Random, figures: Figures) -> None:
    wanted = scaled(10_000, least=200)
    pairs = list({(odd_id(chance), odd_id(chance)) for _ in range(wanted)})
    groups: dict[str, dict[str, Any]] = {}
    refused = 0
    async with opened(backend, tmp_path) as motia, serve(project(tmp_path / "served")) as server:
        docs = motia.streams["documents"]
        for group, id in pairs:
            value = {"pair": [ascii(group), ascii(id)]}
            if allowed(group) and allowed(id):
                await docs.set(group, id, value)
                groups.setdefault(group, {})[id] = value
            else:
                refused += 1
                with pytest.raises(InvalidName):
                    await docs.set(group, id, value)
        assert await docs.list_groups() == sorted(groups, key=str.encode)
        for group, items in groups.items():
            assert await docs.list(group) == [items[id] for id in sorted(items, key=str.encode)]
            for id, value in items.items():
                assert await docs.get(group, id) == value
        if backend == "sqlite":
            await _cross_the_wire(server, dict(list(groups.items())[: scaled(500, least=50)]))
    figures.add(ids=2 * len(pairs), pairs_refused=refused, groups=len(groups))


async def _cross_the_wire(server: Any, groups: dict[str, dict[str, Any]]) -> None:
    client = await server.connect()
    for group, items in groups.items():
        for id, value in items.items():
            await server.docs.set(group, id, value)
    for group, items in groups.items():
        synced = await client.joined(group)
        assert synced["event"]["data"] == [{"id": id, **items[id]} for id in sorted(items, key=str.encode)]
        await client.leave(group)


def raw_bytes(chance: random.Random) -> bytes:
    """What no WebSocket client would send."""
    payload = chance.randbytes(chance.randrange(200))
    return chance.choice(
        [
            frame_bytes(payload, opcode=chance.choice([1, 3, 7, 8, 11, 15])),
            frame_bytes(payload, opcode=0),  # a continuation of nothing
            bytes([0x81, len(payload) % 126]) + payload,  # not masked
            struct.pack("!BBQ", 0x81, 0xFF, 2**62),  # a length that nobody has
            struct.pack("!BBH", 0x89, 0x80 | 126, 500) + payload,  # a ping that is too long
            bytes([0xF1, 0x80, 0, 0, 0, 0]),  # reserved bits
            payload,
        ]
    )


@bounded
async def test_row_17_malformed_frames(tmp_path: Path, chance: random.Random, seed: int, figures: Figures) -> None:
    wanted = scaled(10_000, least=200)
    cases: list[list[str | bytes]] = []

    @seeded(seed)
    @settings(max_examples=max(20, wanted // 3), deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(FRAMES)
    def collect(frames: list[str | bytes]) -> None:
        cases.append(frames)

    await asyncio.get_running_loop().run_in_executor(None, collect)
    documented = {code.close for code in CODES.values() if code.close} | {1009}
    met: Counter[str] = Counter()
    sent = broken = 0
    async with serve(project(tmp_path)) as server:
        neighbour = await server.connect()
        await neighbour.joined("g")
        for frames in cases:
            if sent >= wanted:
                break
            client = await server.connect()
            with suppress(ConnectionClosed):
                await client.send(*frames, {"type": "join", "data": place("alive")})
            sent += len(frames)

            async def answered(client: Any = client) -> bool:
                return client.connection.close_code in documented or any(
                    frame.get("groupId") == "alive" for frame in client.frames
                )

            await eventually(answered, f"an answer after {frames!r}")
            for frame in client.frames:
                if frame.get("event", frame).get("type") == "error":
                    assert kind(frame) in CODES
                    met[kind(frame)] += 1
            client.abort()
        for _ in range(scaled(500, least=20)):
            raw = await RawSocket.open(server.port)
            with suppress(OSError):
                await raw.send_bytes(raw_bytes(chance))
            broken += 1
            raw.close()
        last = await server.docs.set("g", "x", {"n": 1})
        await neighbour.at(last.position)
        assert neighbour.kinds() == ["sync", "create"]

        async def alone() -> bool:
            return len(server.motia.connections) == 1 and server.motia.hubs["documents"].members == 1

        await eventually(alone, "nobody but the neighbour to be left")
    figures.add(frames=sent, clients=len(cases), connections_that_broke_the_protocol=broken)
    figures.add(**{f"answered {code}": number for code, number in sorted(met.items())})
