"""Real processes on one SQLite file that are killed (RELIABILITY rows 4, 5, 11, 22, 23 in short form)."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from motia_adapters.sqlite.adapter import SqliteAdapter
from motia_adapters.sqlite.options import SqliteOptions

from motia_core.adapter import Adapter, StorageSettings
from motia_core.errors import MotiaError
from motia_core.model import Write
from motia_core.triggers import DeadLetter
from motia_core.triggers.clock import SystemClock
from motia_core.triggers.control import Control
from motia_core.triggers.deadletters import DeadLetters
from motia_core.triggers.records import trigger_id
from motia_core.triggers.registry import Registry
from motia_core.values import encode_object

from .conftest import DOCS, until, until_async

CHILD = Path(__file__).with_name("child.py")
LEASE = 1.0
WINDOW = 16


class Workers:
    """Worker processes, and everything that they said."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.alive: list[asyncio.subprocess.Process] = []
        self.lines: list[tuple[int, list[str]]] = []
        self._readers: list[asyncio.Task[None]] = []

    async def start(self, hours: int = 0) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(CHILD), str(self.path), str(LEASE), str(hours),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        self.alive.append(process)
        self._readers.append(asyncio.create_task(self._read(process)))
        await until(lambda: (process.pid, ["ready"]) in self.lines or process.returncode is not None)
        return process

    async def kill(self, process: asyncio.subprocess.Process) -> None:
        self.alive.remove(process)
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            self.lines.append((process.pid, line.decode().split()))

    def said(self, word: str) -> list[tuple[str, int]]:
        """Item and number of each run that did that, in order."""
        return [(line[2], int(line[3])) for _, line in self.lines if line[0] == word]

    async def close(self) -> None:
        for process in self.alive:
            if process.returncode is None:
                assert process.stdin is not None
                process.stdin.close()
        for process in list(self.alive):
            await asyncio.wait_for(process.wait(), 30)
        await asyncio.gather(*self._readers)


@asynccontextmanager
async def storage(path: Path) -> AsyncIterator[Adapter]:
    adapter = SqliteAdapter(StorageSettings("default", timeout=30), SqliteOptions(path=path))
    await adapter.open()
    await adapter.prepare(DOCS)
    yield adapter
    await adapter.close()


async def letters_of(adapter: Adapter) -> DeadLetters:
    control = Control(adapter, random.Random())
    registry = Registry(control, SystemClock())
    await registry.refresh()
    _, name = registry.known[trigger_id(("step", "stream", "docs", "0"))]
    return DeadLetters(control, name)


async def kills(path: Path, count: int, each: int) -> int:
    """Kill each of three workers ``count`` times, in turn, under ``each`` changes per kill; returns the duplicates.

    Their wall clocks disagree by two hours. One message is poison until it is mended.
    """
    workers = Workers(path)
    mended = path.with_name("mended")
    hours = (0, 1, -1)
    async with storage(path) as adapter:
        team = [await workers.start(wrong) for wrong in hours]
        changes = 0

        async def write(item: str, **more: Any) -> None:
            nonlocal changes
            await adapter.write(DOCS, [Write("set", "g", item, encode_object({"n": changes, **more}))])
            changes += 1

        await write("poison", mended=str(mended))
        for _ in range(count):
            for turn, wrong in enumerate(hours):
                runs = len(workers.said("start"))
                for _ in range(each):
                    await write(f"i{changes % 8}", sleep=0.005)
                await until(lambda runs=runs: len(workers.said("start")) > runs)  # type: ignore[misc]
                await workers.kill(team[turn])
                team[turn] = await workers.start(wrong)
        letters = await letters_of(adapter)
        buried: dict[Any, DeadLetter] = {}

        async def settled() -> bool:
            buried.update({letter.change.data["n"]: letter for letter in await letters.list()})
            return len({n for _, n in workers.said("end")} | buried.keys()) == changes

        await until_async(settled)
        assert buried[0].change.id == "poison"
        # On a busy machine a change may be running at every kill: then rule 22 takes it for the killer.
        others = [letter.error for n, letter in buried.items() if n != 0]
        assert set(others) <= {"the process died while the handler ran"}
        mended.touch()
        for letter in buried.values():
            await letters.retry(letter.id)
        await until(lambda: len(set(workers.said("end"))) == changes)

        async def none() -> bool:
            return not await letters.list()

        await until_async(none)
        await workers.close()
    ended = Counter(workers.said("end"))
    assert len(ended) == changes
    first: dict[str, list[int]] = defaultdict(list)
    for item, n in workers.said("end"):
        if n not in first[item]:
            first[item].append(n)
    for item, numbers in first.items():
        kept = [n for n in numbers if n not in buried]  # a dead letter comes back out of order
        assert kept == sorted(kept), f"{item}: {numbers}"
    return sum(ended.values()) - changes


async def test_three_workers_each_killed_ten_times_lose_nothing(tmp_path: Path) -> None:
    """RELIABILITY 4, 5 and 11: at least once, each item in order; poison ends in dead letters and comes back."""
    assert await kills(tmp_path / "test.db", 10, 7) <= 30 * WINDOW


@pytest.mark.chaos
async def test_a_hundred_kills_lose_nothing(tmp_path: Path) -> None:
    duplicates = await kills(tmp_path / "test.db", 34, 10)
    sys.stdout.write(f"\n102 kills in 1,021 changes: {duplicates} duplicates of at most {102 * WINDOW}\n")
    assert duplicates <= 102 * WINDOW


async def test_a_change_that_kills_its_process_is_buried_too(tmp_path: Path) -> None:
    """Rule 22: other items go on, the killer's own successor follows."""
    path = tmp_path / "test.db"
    workers = Workers(path)
    async with storage(path) as adapter:
        await workers.start()
        values = [("killer", {"n": 0, "kill": True}), ("killer", {"n": 1})]
        values += [(f"i{n}", {"n": n}) for n in range(2, 20)]
        for item, value in values:
            await adapter.write(DOCS, [Write("set", "g", item, encode_object(value))])

        deaths = 0
        buried: dict[int, DeadLetter] = {}

        async def settled() -> bool:
            with suppress(MotiaError):  # no worker has told the store of the trigger yet
                letters = await (await letters_of(adapter)).list()
                buried.update({letter.change.data["n"]: letter for letter in letters})
            return len({n for _, n in workers.said("end")} | buried.keys()) == len(values)

        async with asyncio.timeout(120):
            while not await settled():
                for process in list(workers.alive):
                    if process.returncode is not None:
                        deaths += 1
                        await workers.kill(process)
                        await workers.start()
                await asyncio.sleep(0.05)
        assert ("killer", 1) in workers.said("end")
        assert buried[0].change.id == "killer"
        # What runs beside the killer each time, in another partition, may be taken for it.
        assert {letter.attempts for letter in buried.values()} == {2}
        assert {letter.error for letter in buried.values()} == {"the process died while the handler ran"}
        assert deaths <= 3 + 2 + 1
        await workers.close()
