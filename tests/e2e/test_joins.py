"""Row 7: joins, leaves and resumes at full speed of writing: nothing stale, lost, repeated or before its sync."""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from motia_core.streams import Stream
from motia_core.testing.harness import eventually

from .judging import Follower, Place, Truth, repeated
from .serving import Served, Spied, Spy, project, serve
from .sockets import Socket

SEEDS = range(int(os.environ.get("MOTIA_E2E_SEEDS", "4")))
GROUPS = ["a", "b", "c"]
ITEMS = ["x", "y", "z"]


async def write(docs: Stream[Any], chance: random.Random, count: list[int]) -> str:
    """One write of some kind, or a batch; its position."""
    count[0] += 1
    group, item, n = chance.choice(GROUPS), chance.choice(ITEMS), count[0]
    what = chance.random()
    if what < 0.1:
        result = await docs.delete(group, item)
        return result.position if result else ""
    if what < 0.2:
        target = {"groupId": group} if what < 0.15 else {"groupId": group, "id": item}
        return (await docs.send(target, {"type": "n", "data": n})).position
    if what < 0.3:
        async with docs.batch() as batch:
            handles = [batch.send({"groupId": group, "id": chance.choice(ITEMS)}, {"type": "n"}) for _ in range(7)]
            handles += [batch.set(g, item, {"n": n}) for g in GROUPS]
        return max(handle.result.position for handle in handles if handle.result)
    return (await docs.set(group, item, {"n": n})).position


class Restless:
    """A client that joins, leaves and resumes, and is cut off and resumes all it had."""

    def __init__(self, server: Served, chance: random.Random) -> None:
        self.server = server
        self.chance = chance
        self.socket: Socket
        self.open: dict[Place, Follower] = {}
        self.left: list[Follower] = []
        self.twice: list[str] = []
        self._fed = 0
        self._repeats = False

    async def connect(self) -> None:
        """A new socket, and all subscriptions from where they stand."""
        self.socket = await self.server.connect()
        self._fed = 0
        self._repeats = False
        for follower in self.open.values():
            await self.join(follower)

    def feed(self) -> None:
        """Give what has come to the subscriptions."""
        for frame in self.socket.frames[self._fed :]:
            for follower in self.open.values():
                follower.feed(frame)
        self._fed = len(self.socket.frames)

    async def act(self) -> None:
        self.feed()
        if self.chance.random() < 0.1:
            await self.cut()
            return
        where: Place = (self.chance.choice(GROUPS), self.chance.choice([None, *ITEMS]))
        if where in self.open:
            self.left.append(self.open.pop(where))
            await self.socket.leave(*where, subscriptionId=self.left[-1].name)
            await self.socket.settled()
            return
        after = None
        positions = [frame["position"] for frame in self.socket.frames if "position" in frame]
        if positions and self.chance.random() < 0.3:
            after = self.chance.choice(positions[-30:])
        follower = Follower(where, f"{len(self.left)} {len(self.open)}", after)
        self.open[where] = follower
        await self.join(follower)

    async def join(self, follower: Follower) -> None:
        self._repeats |= follower.cursor is not None
        # Without a cursor ``after: null`` still asks for an acknowledgement.
        asks = follower.cursor is not None or self.chance.random() < 0.5
        more: dict[str, Any] = {"after": follower.cursor} if asks else {}
        await self.socket.join(*follower.where, subscriptionId=follower.name, **more)

    async def cut(self) -> None:
        """The socket ends in the middle of something."""
        self.socket.abort()
        await self.socket.gone()
        self.feed()
        self.check_repeats()
        for follower in self.open.values():
            follower.cut()
        await self.connect()

    def check_repeats(self) -> None:
        """One frame per change, unless somebody asked for what was missed."""
        if not self._repeats:
            self.twice += repeated(self.socket.frames)

    def wrong(self, truth: Truth) -> list[str]:
        self.feed()
        found = [f"more than once: {self.twice}"] if self.twice else []
        for follower in self.left:
            found += follower.wrong(truth, complete=False)
        for follower in self.open.values():
            found += follower.wrong(truth, complete=True)
        return found


@pytest.mark.parametrize("seed", SEEDS)
async def test_row_7_joins_of_all_kinds_during_writes(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With small rings and queues, snapshots and batches that come late: every seed another story."""
    chance = random.Random(seed)
    if chance.random() < 0.5:
        size = chance.choice([16, 64])
        monkeypatch.setattr("motia_core.ring.RING_CHANGES", size)
        monkeypatch.setattr("motia_core.hub.RING_CHANGES", size)
    monkeypatch.setattr("motia_core.hub.SNAPSHOT_REUSE", chance.choice([0.0, 0.05, 0.5]))
    spy = Spy(lambda settings, options: Late(settings, options, chance))
    limits = {"send_queue_changes": chance.choice([12, 1000])}
    foreign = project(tmp_path)
    async with serve(project(tmp_path, spy=spy, server=limits)) as server, foreign:
        writers = [server.docs, foreign.streams["documents"]]
        count, running = [0], True

        async def keep_writing(docs: Stream[Any]) -> None:
            while running:
                await write(docs, chance, count)
                await asyncio.sleep(chance.choice([0, 0, 0.001]))

        tasks = [asyncio.create_task(keep_writing(docs)) for docs in writers]
        clients = [Restless(server, chance) for _ in range(6)]

        async def live(client: Restless) -> None:
            await client.connect()
            for _ in range(20):
                await client.act()
                await asyncio.sleep(chance.choice([0, 0.002, 0.01]))

        await asyncio.gather(*map(live, clients))
        running = False
        await asyncio.gather(*tasks)
        last = ""
        for group in GROUPS:
            for item in ITEMS:
                last = (await server.docs.set(group, item, {"n": "last"})).position
        for client in clients:
            client.check_repeats()
        truth = await Truth.of(foreign.streams["documents"], last)

        async def right() -> bool:
            """What is late comes; what is wrong stays wrong."""
            return not any(client.wrong(truth) for client in clients)

        with suppress(AssertionError):
            await eventually(right, "everybody to be up to date")
        assert [error for client in clients for error in client.wrong(truth)] == []


class Late(Spied):
    """SQLite whose snapshots and batches come a little late, now and then."""

    def __init__(self, settings: Any, options: Any, chance: random.Random) -> None:
        super().__init__(settings, options)
        self._chance = chance

    async def snapshot(self, *args: Any, **options: Any) -> Any:
        await self._pause()
        snapshot = await super().snapshot(*args, **options)
        await self._pause()
        return snapshot

    async def watch(self, *args: Any, **options: Any) -> Any:
        async for batch in super().watch(*args, **options):
            await self._pause()
            yield batch

    async def _pause(self) -> None:
        if self._chance.random() < 0.3:
            await asyncio.sleep(self._chance.choice([0, 0.001, 0.02]))
