"""Rows 1 and 3: kill the server again and again, under writers that count and clients that resume."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx

from motia_core.testing.harness import DEADLINE, eventually

from .judging import Follower, Truth, repeated
from .processes import Process, start
from .serving import project
from .sockets import Frame, Socket

GROUPS = ["a", "b", "c", "d"]


@dataclass
class Writer:
    """Sets its own items one after the other, each with a greater number; keeps what was acknowledged."""

    name: int
    chance: random.Random
    acknowledged: list[tuple[str, str, int, str]] = field(default_factory=list)
    """Group, id, number, position."""
    unknown: int = 0
    """Writes that got no answer."""
    number: int = 0
    stopping: bool = False

    async def write(self, port: int) -> None:
        """Write until the server is gone, or we are told to stop."""
        limits = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE, limits=limits) as web:
            while not self.stopping:
                self.number += 1
                group, id = self.chance.choice(GROUPS), f"{self.name}-{self.chance.randrange(5)}"
                try:
                    answer = await web.put(f"/docs/{group}/{id}", json={"n": self.number})
                except httpx.TransportError:
                    self.unknown += 1
                    return
                assert answer.status_code == 200, answer.text
                self.acknowledged.append((group, id, self.number, answer.json()["position"]))


class Resumer:
    """A client of one group that comes back and resumes, whatever happens to the server."""

    def __init__(self, name: int) -> None:
        self.follower = Follower((GROUPS[name % len(GROUPS)], None), f"client {name}")
        self.frames: list[Frame] = []
        """All that ever came."""
        self._socket: Socket | None = None
        self._fed = 0

    async def connect(self, port: int) -> None:
        self._socket = await Socket.open(f"ws://127.0.0.1:{port}")
        self._fed = 0
        where, after = self.follower.where, self.follower.cursor
        await self._socket.join(*where, subscriptionId=self.follower.name, after=after)

    def feed(self) -> None:
        assert self._socket is not None
        for frame in self._socket.frames[self._fed :]:
            self.follower.feed(frame)
            self.frames.append(frame)
        self._fed = len(self._socket.frames)

    async def lose(self) -> None:
        """The server is gone."""
        assert self._socket is not None
        await self._socket.gone()
        self.feed()
        self.follower.cut()

    async def close(self) -> None:
        assert self._socket is not None
        await self._socket.aclose()


@dataclass
class Outcome:
    """What there is to judge, and to report."""

    wrong: list[str]
    acknowledged: int = 0
    unknown: int = 0
    resyncs: int = 0
    seconds_to_converge: list[float] = field(default_factory=list)
    """From each return of the server until every client had all that was acknowledged before."""


async def kill_again_and_again(
    folder: Path, chance: random.Random, *, kills: int, writes: int, writers: int, clients: int
) -> Outcome:
    """Kill the server ``kills`` times while ``writes`` sets are acknowledged; everything is judged at the end."""
    all_writers = [Writer(number, random.Random(chance.random())) for number in range(writers)]
    resumers = [Resumer(number) for number in range(clients)]
    took = []
    for turn in range(kills + 1):
        process = await start(folder)
        try:
            took.append(await _all_back(process, resumers, _acknowledged(all_writers)))
            enough = writes * (turn + 1) // (kills + 1) + chance.randrange(20)
            await _write(process, all_writers, enough, kill=turn < kills)
            if turn < kills:
                await asyncio.gather(*(resumer.lose() for resumer in resumers))
            else:
                await _caught_up(resumers, _acknowledged(all_writers))
                await asyncio.gather(*(resumer.close() for resumer in resumers))
        finally:
            await process.stop()
    outcome = Outcome([*await _judged(folder, all_writers, resumers)])
    outcome.acknowledged = sum(len(writer.acknowledged) for writer in all_writers)
    outcome.unknown = sum(writer.unknown for writer in all_writers)
    outcome.resyncs = sum(step[0] == "sync" for resumer in resumers for step in resumer.follower.steps) - clients
    outcome.seconds_to_converge = took[1:]
    return outcome


def _acknowledged(writers: list[Writer]) -> dict[str, str]:
    """The last acknowledged position of each group."""
    last: dict[str, str] = {}
    for writer in writers:
        for group, _, _, position in writer.acknowledged:
            last[group] = max(position, last.get(group, ""))
    return last


async def _all_back(process: Process, resumers: list[Resumer], last: dict[str, str]) -> float:
    begun = asyncio.get_running_loop().time()
    await asyncio.gather(*(resumer.connect(process.port) for resumer in resumers))
    await _caught_up(resumers, last)
    return asyncio.get_running_loop().time() - begun


async def _caught_up(resumers: list[Resumer], last: dict[str, str]) -> None:
    async def caught_up() -> bool:
        for resumer in resumers:
            resumer.feed()
        return all(
            resumer.follower.answered and (resumer.follower.cursor or "") >= last.get(resumer.follower.where[0], "")
            for resumer in resumers
        )

    await eventually(caught_up, "every client to be up to date")


async def _write(process: Process, writers: list[Writer], enough: int, *, kill: bool) -> None:
    """Let them write until so many writes are acknowledged; then kill the server under them, or let them finish."""
    tasks = [asyncio.create_task(writer.write(process.port)) for writer in writers]

    async def written() -> bool:
        assert not any(task.done() for task in tasks), "a writer gave up"
        return sum(len(writer.acknowledged) for writer in writers) >= enough

    try:
        await eventually(written, f"{enough} acknowledged writes")
    finally:
        for writer in writers:
            writer.stopping = not kill
        if kill:
            await process.kill()
        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(*tasks)


async def _judged(folder: Path, writers: list[Writer], resumers: list[Resumer]) -> list[str]:
    """All that went wrong, from what the store holds now."""
    found = []
    async with project(folder) as motia:
        docs = motia.streams["documents"]
        end = await docs.set("end", "end", {})
        truth = await Truth.of(docs, end.position)
        stored = {(c.position, c.group_id, c.id, c.data.get("n")) for c in truth.changes}
        for writer in writers:
            for group, id, number, position in writer.acknowledged:
                if (position, group, id, number) not in stored:
                    found.append(f"lost: {number} of {group}/{id} at {position}")
        numbers: dict[Any, list[int]] = {}
        for change in truth.changes[:-1]:
            numbers.setdefault((change.group_id, change.id), []).append(change.data["n"])
        for key, seen in numbers.items():
            if any(later <= earlier for earlier, later in pairwise(seen)):
                found.append(f"reordered: {key}: {seen}")
            if (await docs.get(*key)) != {"n": seen[-1]}:
                found.append(f"stale: {key}")
    for resumer in resumers:
        found += resumer.follower.wrong(truth, complete=True)
        found += [f"twice: {position}" for position in repeated(resumer.frames)]
    return found
