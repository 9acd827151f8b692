"""Two servers and a worker on one storage, as the how-to has them: killed, replaced, and judged."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from motia_core import Motia
from motia_core.model import StreamSpec
from motia_core.testing.harness import DEADLINE, eventually
from motia_core.testing.servers import free_port

from .judging import Truth, repeated
from .killing import Resumer, Writer

SERVE = ["serve", "--no-triggers", "--log-level", "warning"]


class Command:
    """``motia-core`` in a process of its own."""

    def __init__(self, folder: Path, environ: dict[str, str], *arguments: str, ready: str) -> None:
        self._folder, self._environ, self._arguments, self._ready = folder, environ, arguments, ready
        self._process: asyncio.subprocess.Process | None = None
        self._log: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it, and wait until it says that it runs."""
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "motia_core.cli", *self._arguments),
            cwd=self._folder, env={**os.environ, **self._environ}, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stderr is not None
        said = ""
        async with asyncio.timeout(DEADLINE):
            while self._ready not in said:
                line = await self._process.stderr.readline()
                assert line, f"{self._arguments} ended: {said}"
                said += line.decode()
        self._log = asyncio.create_task(self._read(self._process.stderr))

    async def end(self, how: signal.Signals) -> None:
        """Send it a signal, and wait until it is gone."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(how)
        async with asyncio.timeout(DEADLINE):
            await self._process.wait()
        if self._log is not None:
            await self._log

    @staticmethod
    async def _read(log: asyncio.StreamReader) -> None:
        while await log.readline():
            pass


@dataclass
class Outcome:
    """What there is to judge."""

    wrong: list[str]
    acknowledged: int
    unknown: int
    resyncs: int
    handled: int
    """Changes that the step has run for."""


class Cluster:
    """Two servers, a worker, writers that go where a server answers, and clients that come back."""

    def __init__(self, folder: Path, environ: dict[str, str], chance: random.Random, clients: int) -> None:
        self.folder = folder
        self.environ = environ
        self.ports = [free_port(), free_port()]
        self.servers = [Command(folder, environ, *SERVE, "--port", str(p), ready="Serving on") for p in self.ports]
        self.worker = Command(folder, environ, "worker", "--log-level", "error", ready="Running")
        self.up = [False, False]
        self.writers = [Writer(number, random.Random(chance.random())) for number in range(4)]
        self.clients = [Resumer(number) for number in range(clients)]
        self.handled: set[tuple[str, str]] = set()
        """Group and position of each change that the step has run for."""
        self._at = [number % 2 for number in range(clients)]
        self._writing: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        await asyncio.gather(*(server.start() for server in self.servers), self.worker.start())
        self.up = [True, True]
        await asyncio.gather(*(self._connect(number) for number in range(len(self.clients))))
        self._writing = [asyncio.create_task(self._write(number)) for number in range(len(self.writers))]

    async def replace(self, number: int, how: signal.Signals) -> None:
        """End a server under the load; its clients resume on the other one; then start another in its place."""
        self.up[number] = False
        await self.servers[number].end(how)
        moved = [client for client in range(len(self.clients)) if self._at[client] == number]
        for client in moved:
            await self.clients[client].lose()
            self._at[client] = 1 - number
        await asyncio.gather(*map(self._connect, moved))
        await self.more(20)
        await self.servers[number].start()
        self.up[number] = True

    async def replace_worker(self, how: signal.Signals) -> None:
        """End the worker under the load, and start another."""
        await self.worker.end(how)
        await self.worker.start()

    async def more(self, count: int) -> None:
        """Wait for so many more acknowledged writes."""
        goal = self._count() + count

        async def reached() -> bool:
            for task in self._writing:
                if task.done():
                    task.result()
            return self._count() >= goal

        await eventually(reached, f"{count} more acknowledged writes")

    async def finish(self) -> None:
        """Stop writing."""
        for writer in self.writers:
            writer.stopping = True
        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(*self._writing)

    async def close(self) -> None:
        for client in self.clients:
            await client.close()
        for command in (*self.servers, self.worker):
            if command._process is not None:
                await command.end(signal.SIGKILL)

    async def judge(self) -> Outcome:
        """All that went wrong, from what the store holds now."""
        os.environ.update(self.environ)
        async with Motia.from_project(self.folder, run_triggers=False) as motia:
            docs, index = motia.streams["documents"], motia.streams["index"]
            end = await docs.set("end", "end", {"n": 0})
            truth = await Truth.of(docs, end.position)
            last = {group: truth.after((group, None), "")[-1] for group, _ in (c.follower.where for c in self.clients)}

            async def caught_up() -> bool:
                for client in self.clients:
                    client.feed()
                return all((c.follower.cursor or "") >= last[c.follower.where[0]] for c in self.clients)

            await eventually(caught_up, "every client to be up to date")
            changes = {(change.group_id, change.position) for change in truth.changes}

            async def handled() -> bool:
                self.handled = {
                    (group, change) for group in await index.list_groups() for change in await _ids(index, group)
                }
                return self.handled >= changes

            await eventually(handled, "every change to be handled")
            found = [f"handled, but not there: {extra}" for extra in sorted(self.handled - changes)]
            stored = {(c.position, c.group_id, c.id, c.data.get("n")) for c in truth.changes}
            for writer in self.writers:
                for group, id, number, position in writer.acknowledged:
                    if (position, group, id, number) not in stored:
                        found.append(f"lost: {number} of {group}/{id} at {position}")
        for client in self.clients:
            found += client.follower.wrong(truth, complete=True)
            found += [f"twice: {position}" for position in repeated(client.frames)]
        resyncs = sum(step[0] == "sync" for client in self.clients for step in client.follower.steps)
        unknown = sum(writer.unknown for writer in self.writers)
        return Outcome(found, self._count(), unknown, resyncs - len(self.clients), len(self.handled))

    def _count(self) -> int:
        return sum(len(writer.acknowledged) for writer in self.writers)

    async def _connect(self, number: int) -> None:
        await self.clients[number].connect(self.ports[self._at[number]])

    async def _write(self, number: int) -> None:
        """Write to one server until it is gone, then to the other."""
        writer, turn = self.writers[number], number
        while not writer.stopping:
            turn += 1
            if self.up[turn % 2]:
                try:
                    await writer.write(self.ports[turn % 2])
                except httpx.HTTPError:
                    writer.unknown += 1
            await asyncio.sleep(0.01)


async def _ids(index: Any, group: str) -> list[str]:
    items = await index.hub.adapter.list(StreamSpec("index"), group, after=None, limit=None)
    return [item.id for item in items]


@asynccontextmanager
async def cluster(
    folder: Path, environ: dict[str, str], chance: random.Random, *, clients: int = 6
) -> AsyncIterator[Cluster]:
    """A cluster that runs until the block ends."""
    made = Cluster(folder, environ, chance, clients)
    try:
        await made.start()
        yield made
    finally:
        await made.close()
