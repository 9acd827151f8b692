"""Rows 9 and 10: many writers in several processes, one item, or one key."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from motia_core import Motia, StreamConfig

from ..e2e.judging import Truth
from ..e2e.serving import project
from .figures import Figures, bounded, scaled

pytestmark = pytest.mark.chaos

WORKER = Path(__file__).with_name("worker.py")
PROCESSES = 4


async def race(folder: Path, kind: str, *, writers: int, count: int, seed: int) -> tuple[list[Any], float]:
    """Run so many writers in all, in several processes that begin together: what each did, and the seconds it took."""
    async with AsyncExitStack() as stack:
        workers = []
        for number in range(PROCESSES):
            arguments = [kind, str(folder), str(writers // PROCESSES), str(count), str(seed + number)]
            pipe = asyncio.subprocess.PIPE
            worker = await asyncio.create_subprocess_exec(
                sys.executable, str(WORKER), *arguments, stdin=pipe, stdout=pipe, limit=2**24
            )
            stack.push_async_callback(_end, worker)
            workers.append(worker)
        for worker in workers:
            assert worker.stdout is not None
            assert await worker.stdout.readline() == b"ready\n"
        begun = time.monotonic()
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write(b"go\n")
        told = [json.loads(await worker.stdout.readline()) for worker in workers if worker.stdout]
        return told, time.monotonic() - begun


async def _end(worker: asyncio.subprocess.Process) -> None:
    if worker.stdin is not None:
        worker.stdin.close()
    try:
        async with asyncio.timeout(30):
            await worker.wait()
    except TimeoutError:
        worker.kill()
        await worker.wait()


@bounded
async def test_row_9_increments_of_many_writers_in_several_processes(
    tmp_path: Path, figures: Figures, seed: int
) -> None:
    writers, count = 64, scaled(1_000, least=10)
    async with project(tmp_path):
        pass  # the file is there before they race for the item
    told, seconds = await race(tmp_path, "increments", writers=writers, count=count, seed=seed)
    figures.add(
        writers=writers, processes=PROCESSES, increments=writers * count, increments_a_second=sum(told) / seconds
    )
    async with project(tmp_path) as motia:
        docs = motia.streams["documents"]
        assert await docs.get("g", "counter") == {"n": writers * count}
        truth = await Truth.of(docs, (await docs.set("end", "end", {})).position)
    assert [change.data["n"] for change in truth.changes[:-1]] == list(range(1, writers * count + 1))


@bounded
async def test_row_9_increments_of_many_writers_in_memory(figures: Figures) -> None:
    writers, count = 64, scaled(1_000, least=10)
    async with Motia(streams=[StreamConfig(name="documents")], storage={"default": "memory://"}) as motia:
        docs = motia.streams["documents"]

        async def write() -> None:
            for _ in range(count):
                await docs.update("g", "counter", [{"type": "increment", "path": "n", "by": 1}])

        begun = time.monotonic()
        await asyncio.gather(*(write() for _ in range(writers)))
        figures.add(increments=writers * count, increments_a_second=writers * count / (time.monotonic() - begun))
        assert await docs.get("g", "counter") == {"n": writers * count}


@bounded
async def test_row_10_racing_creates_of_each_key(tmp_path: Path, figures: Figures, seed: int) -> None:
    writers, keys = 8, scaled(1_000, least=20)
    async with project(tmp_path):
        pass
    told, seconds = await race(tmp_path, "creates", writers=writers, count=keys, seed=seed)
    figures.add(writers=writers, processes=PROCESSES, keys=keys, sets_a_second=writers * keys / seconds)
    figures.add(creates_by_process=", ".join(str(len(created)) for created in told))
    creates = Counter(key for created in told for key in created)
    assert creates == Counter(range(keys))
    async with project(tmp_path) as motia:
        docs = motia.streams["documents"]
        assert len(await docs.list("g")) == keys
        truth = await Truth.of(docs, (await docs.set("end", "end", {})).position)
    types = Counter(change.type for change in truth.changes[:-1])
    assert types == {"create": keys, "update": (writers - 1) * keys}
