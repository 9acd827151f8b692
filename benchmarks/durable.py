"""Durable triggers: changes handled, delay until a handler starts, takeover, and what the store is asked."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.rows import Row
from motia_core import Motia, StreamConfig, step, stream
from motia_core.adapter import Adapter
from motia_core.steps import Step

CHANGES = 10_000
PACED = 400
WORKERS = (1, 3, 10)


@asynccontextmanager
async def _project(folder: str, *steps: Step) -> AsyncIterator[Motia]:
    storage = {"default": f"sqlite:///{folder}/bench.db"}
    async with Motia(streams=[StreamConfig(name="documents")], steps=steps, storage=storage) as motia:
        yield motia


async def _fill(motia: Motia, count: int) -> None:
    docs = motia.streams["documents"]
    for start in range(0, count, 500):
        async with docs.batch() as batch:
            for number in range(start, start + 500):
                batch.set(f"g{number % 50}", f"{number % 1_000}", {"n": number})


async def _handled() -> float:
    seen = 0
    done = asyncio.Event()

    async def handler(input: Any, ctx: Any) -> None:
        nonlocal seen
        seen += 1
        if seen >= CHANGES:
            done.set()

    with tempfile.TemporaryDirectory() as folder:
        counting = step({"name": "count", "triggers": [stream("documents")], "concurrency": 64}, handler)
        async with _project(folder, counting) as motia:
            await asyncio.sleep(0.5)  # the partitions are claimed: their takeover is a row of its own
            started = time.perf_counter()
            await _fill(motia, CHANGES)
            await done.wait()
            return CHANGES / (time.perf_counter() - started)


async def _watched() -> float:
    with tempfile.TemporaryDirectory() as folder:
        async with _project(folder) as motia:
            readers = [asyncio.create_task(_read(motia, f"g{number}", CHANGES // 50)) for number in range(50)]
            await asyncio.sleep(0.5)
            started = time.perf_counter()
            await _fill(motia, CHANGES)
            await asyncio.gather(*readers)
            return CHANGES / (time.perf_counter() - started)


async def _read(motia: Motia, group: str, count: int) -> None:
    async with motia.streams["documents"].watch(group) as watch:
        await anext(watch)
        for _ in range(count):
            await anext(watch)


def _delay(share: float, triggered: bool) -> Any:
    """Milliseconds from the call of `set` to the handler's start (or the watch's change), at a quantile."""

    async def measured() -> float:
        began: dict[int, float] = {}
        delays: list[float] = []
        done = asyncio.Event()

        def arrived(number: int) -> None:
            delays.append((time.perf_counter() - began[number]) * 1000)
            if len(delays) >= PACED:
                done.set()

        async def handler(input: Any, ctx: Any) -> None:
            arrived(input.event.data["n"])

        async def watch(motia: Motia) -> None:
            async with motia.streams["documents"].watch("g") as changes:
                async for change in changes:
                    if change.type != "sync":
                        arrived(change.data["n"])

        steps = [step({"name": "delay", "triggers": [stream("documents")]}, handler)] if triggered else []
        with tempfile.TemporaryDirectory() as folder:
            async with _project(folder, *steps) as motia:
                reader = None if triggered else asyncio.create_task(watch(motia))
                await asyncio.sleep(0.5)
                for number in range(PACED):
                    began[number] = time.perf_counter()
                    await motia.streams["documents"].set("g", f"{number}", {"n": number})
                    await asyncio.sleep(0.004)
                await done.wait()
                if reader:
                    reader.cancel()
                    await asyncio.gather(reader, return_exceptions=True)
        return statistics.quantiles(delays, n=1_000)[int(share * 1_000) - 1]

    return measured


_WORKER = """
import asyncio, sys
from motia_core import Motia, StreamConfig, step, stream

async def handler(input, ctx):
    if input.event.data.get("hold"):
        print("holding", flush=True)
        await asyncio.sleep(3600)

async def main():
    held = step({"name": "held", "triggers": [stream("documents")], "timeout": 3600}, handler)
    storage = {"default": sys.argv[1]}
    async with Motia(streams=[StreamConfig(name="documents")], steps=[held], storage=storage):
        print("open", flush=True)
        await asyncio.sleep(3600)

asyncio.run(main())
"""


async def _takeover() -> float:
    """Seconds from `kill -9` of the process that runs a change to its start in another one."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "worker.py"
        script.write_text(_WORKER)
        command = [sys.executable, str(script), f"sqlite:///{folder}/bench.db"]
        other = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert other.stdout
        await other.stdout.readline()
        started_again = asyncio.Event()

        async def handler(input: Any, ctx: Any) -> None:
            started_again.set()

        held = step({"name": "held", "triggers": [stream("documents")]}, handler)
        try:
            async with _project(folder, held) as motia:
                await asyncio.sleep(3)  # both have their share
                for number in range(64):
                    await motia.streams["documents"].set("g", f"{number}", {"hold": True})
                holding = 0
                with contextlib.suppress(TimeoutError):
                    while True:
                        await asyncio.wait_for(other.stdout.readline(), 1.0)
                        holding += 1
                assert holding, "the other process got no share"
                started_again.clear()
                os.kill(other.pid, signal.SIGKILL)
                killed = time.perf_counter()
                await started_again.wait()
                return time.perf_counter() - killed
        finally:
            if other.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    other.kill()
                await other.wait()


class _Counted:
    """Counts what a storage is asked."""

    def __init__(self, motia: Motia) -> None:
        self.writes = self.reads = 0
        for adapter in motia.storages.values():
            self._count(adapter)

    def _count(self, adapter: Adapter) -> None:
        for name, kind in (("write", "writes"), ("get", "reads"), ("list", "reads"), ("snapshot", "reads")):
            inner = getattr(adapter, name)

            async def counted(*arguments: Any, inner: Any = inner, kind: str = kind, **options: Any) -> Any:
                setattr(self, kind, getattr(self, kind) + 1)
                return await inner(*arguments, **options)

            setattr(adapter, name, counted)


def _asked(kind: str, workers: int, busy: bool) -> Any:
    """Calls of the store: for 1,000 handled changes at 1,000/s, or in an idle minute."""

    async def measured() -> float:
        async def handler(input: Any, ctx: Any) -> None:
            pass

        async with contextlib.AsyncExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            one = step({"name": "one", "triggers": [stream("documents")]}, handler)
            motias = [await stack.enter_async_context(_project(folder, one)) for _ in range(workers)]
            await asyncio.sleep(4)
            counts = [_Counted(motia) for motia in motias]
            if busy:
                docs = motias[0].streams["documents"]
                for number in range(1_000):
                    await docs.set("g", f"{number}", {"n": number})
                    await asyncio.sleep(0.001)
                await asyncio.sleep(1.5)
                own = 1_000 if kind == "writes" else 0
                return float(sum(getattr(count, kind) for count in counts) - own)
            await asyncio.sleep(10)
            return float(sum(getattr(count, kind) for count in counts) * 6)

    return measured


ROWS = [
    Row(
        "triggers: changes handled per second, no-op handler, one process",
        "changes/s",
        {"a step that does nothing": _handled, "bare watch, 50 groups": _watched},
        "a step that does nothing",
        "0.3x of watch",
        "0.6x",
    ),
    *(
        Row(
            f"triggers: from set to handler start, p{round(share * 100)}",
            "ms",
            {"handler starts": _delay(share, True), "watch gets it": _delay(share, False)},
            "handler starts",
            "2x of watch",
            "1.25x",
            more_is_better=False,
        )
        for share in (0.5, 0.99)
    ),
    Row(
        "triggers: takeover after kill -9, lease 5 s",
        "s",
        {"another process starts the change": _takeover},
        "another process starts the change",
        "10 s",
        "6 s",
        more_is_better=False,
    ),
    *(
        Row(
            f"triggers: store {kind} per {'1,000 handled changes' if busy else 'idle minute'}",
            "calls",
            {f"{workers} worker{'s' * (workers > 1)}": _asked(kind, workers, busy) for workers in WORKERS},
            "1 worker",
            "told, not judged",
            "a beat and a flush a second for each",
            more_is_better=False,
            rounds=1,
        )
        for busy in (True, False)
        for kind in ("writes", "reads")
    ),
]
