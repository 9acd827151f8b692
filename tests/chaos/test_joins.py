"""Rows 7 and 12: joins, and refused joins, while others write."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from motia_core import StreamConfig
from motia_core.streams import Stream

from ..e2e.judging import Follower, Place, Truth, repeated
from ..e2e.serving import project, serve
from ..e2e.sockets import Frame, Socket, kind
from .figures import Figures, bounded, scaled

pytestmark = pytest.mark.chaos

Docs = Stream[dict[str, Any]]

GROUPS = [f"g{number}" for number in range(10)]
ITEMS = ["x", "y", "z"]
RATE = 500
"""Writes a second that are aimed at."""


class Pace:
    """Writes at a steady rate until it is stopped."""

    def __init__(self, docs: Docs, chance: random.Random) -> None:
        self.written = 0
        self.rate = 0.0
        self._docs = docs
        self._chance = chance
        self._running = True

    async def run(self) -> None:
        begun = time.monotonic()
        while self._running:
            while self.written < (time.monotonic() - begun) * RATE:
                await self._write()
            await asyncio.sleep(0.002)
        self.rate = self.written / (time.monotonic() - begun)

    async def _write(self) -> None:
        group, item = self._chance.choice(GROUPS), self._chance.choice(ITEMS)
        self.written += 1
        if self._chance.random() < 0.1:
            await self._docs.delete(group, item)
        else:
            await self._docs.set(group, item, {"n": self.written, "text": "TOP-SECRET"})

    def stop(self) -> None:
        self._running = False


@asynccontextmanager
async def writing(chance: random.Random, docs: Docs) -> AsyncIterator[Pace]:
    """Writes while the block runs."""
    pace = Pace(docs, chance)
    task = asyncio.create_task(pace.run())
    try:
        yield pace
    finally:
        pace.stop()
        await task


class Joiner:
    """A client that joins one place after the other; every subscription is judged."""

    def __init__(self, socket: Socket, name: int) -> None:
        self.socket = socket
        self.followers: list[Follower] = []
        self.early: list[str] = []
        """Changes that came before a sync."""
        self.twice: list[str] = []
        self.waits: list[float] = []
        self._name = name

    async def live(self, joins: int, chance: random.Random) -> None:
        left = ""
        for number in range(joins):
            # Another group than the one before, whose last changes may still be on their way.
            where: Place = (chance.choice([g for g in GROUPS if g != left]), chance.choice([None, *ITEMS]))
            left = where[0]
            follower = Follower(where, f"{self._name}-{number}")
            self.followers.append(follower)
            begun, since = time.monotonic(), len(self.socket.frames)
            synced = await self.socket.joined(*where, subscriptionId=follower.name)
            self.waits.append(time.monotonic() - begun)
            await asyncio.sleep(chance.choice([0, 0, 0.01, 0.05]))
            if number < joins - 1:
                await self.socket.leave(*where, subscriptionId=follower.name)
                self._take(follower, self.socket.frames[since:], synced)
                del self.socket.frames[:], self.socket.texts[:]

    def end(self) -> None:
        """The last subscription stays until the end."""
        frames, follower = self.socket.frames, self.followers[-1]
        synced = next(f for f in frames if kind(f) == "sync" and f["groupId"] == follower.where[0])
        self._take(follower, frames, synced)

    def _take(self, follower: Follower, frames: list[Frame], synced: Frame) -> None:
        mine = [frame for frame in frames if frame["groupId"] == follower.where[0]]
        for frame in mine:
            follower.feed(frame)
        self.early += [frame["position"] for frame in mine[: mine.index(synced)]]
        self.twice += repeated(mine)

    def wrong(self, truth: Truth) -> list[str]:
        found = [f"before a sync: {position}" for position in self.early]
        found += [f"twice: {position}" for position in self.twice]
        for follower in self.followers:
            found += follower.wrong(truth, complete=follower is self.followers[-1])
        return found


@pytest.mark.parametrize("whose", ["our own", "another process's"])
@bounded
async def test_row_7_joins_during_writes(tmp_path: Path, whose: str, chance: random.Random, figures: Figures) -> None:
    """Of another's writes the server learns late, and gives many the same snapshot, brought forward."""
    clients = 50
    joins = scaled(10_000 // clients, least=3)
    foreign = project(tmp_path)
    async with serve(project(tmp_path)) as server, foreign:
        joiners = [Joiner(await server.connect(), number) for number in range(clients)]
        docs = server.docs if whose == "our own" else foreign.streams["documents"]
        async with writing(chance, docs) as pace:
            begun = time.monotonic()
            await asyncio.gather(*(joiner.live(joins, random.Random(chance.random())) for joiner in joiners))
            took = time.monotonic() - begun
        marks: dict[Place, str] = {}
        for group in GROUPS:
            for item in ITEMS:
                marks[group, item] = (await server.docs.set(group, item, {"n": "last"})).position
            marks[group, None] = last = marks[group, ITEMS[-1]]
        for joiner in joiners:
            await joiner.socket.at(marks[joiner.followers[-1].where])
            joiner.end()
        truth = await Truth.of(server.docs, last)
        assert [error for joiner in joiners for error in joiner.wrong(truth)] == []
        assert len([f for joiner in joiners for f in joiner.followers]) == joins * clients
    figures.add(joins=joins * clients, joins_a_second=joins * clients / took, writes_a_second=pace.rate)
    figures.spread("from join to sync", [wait for joiner in joiners for wait in joiner.waits])


@bounded
async def test_row_12_denied_joins_under_load(tmp_path: Path, chance: random.Random, figures: Figures) -> None:
    async def on_join(subscription: Any, ctx: Any, auth: Any) -> Any:
        turn = int(subscription.subscription_id) % 5
        if turn == 0:
            raise RuntimeError("broken")
        if turn == 1:
            await asyncio.sleep(3600)
        return [None, None, {"authorized": False}, {"authorized": "yes"}, "certainly"][turn]

    clients, joins = 50, scaled(1_000 // 50, least=5)
    stream = StreamConfig("documents", on_join=on_join)
    async with serve(project(tmp_path, stream, server={"join_timeout": 0.5})) as server:
        sockets = [await server.connect() for _ in range(clients)]
        async with writing(chance, server.docs) as pace:
            begun = time.monotonic()
            for socket in sockets:
                for turn in range(joins):
                    more = {"subscriptionId": str(turn)}
                    await socket.join(chance.choice(GROUPS), chance.choice([None, *ITEMS]), **more)
            for socket in sockets:
                await socket.count(joins)
            took = time.monotonic() - begun
        for socket in sockets:
            await socket.settled()
            assert set(socket.kinds()) == {"STREAM_ACCESS_DENIED"}
            assert len(socket.frames) == joins
            assert not any("SECRET" in str(text) for text in socket.texts)
        assert server.motia.hubs["documents"].members == 0
    figures.add(denied=joins * clients, denied_a_second=joins * clients / took, writes_a_second=pace.rate)
