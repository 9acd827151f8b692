"""Steps on the runner: plain functions that hang or are too slow."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from motia_core import Motia, StreamConfig, queue, step, stream
from motia_core.steps.threads import in_thread

from .conftest import until


def motia(path: Path, *steps: Any) -> Motia:
    return Motia(streams=[StreamConfig(name="docs")], steps=steps, storage={"default": f"sqlite:///{path}/test.db"})


async def test_a_plain_handler_that_is_too_slow_never_overlaps_itself(tmp_path: Path) -> None:
    """A thread cannot be cancelled: the attempt is over when it has ended (rule 13)."""
    lock = threading.Lock()
    overlaps: list[int] = []
    seen: list[tuple[int, int]] = []
    release = threading.Event()

    def handler(input: Any, ctx: Any) -> None:
        if not lock.acquire(blocking=False):
            overlaps.append(input.event.data["n"])
            return
        with_lock = input.event.data["n"], ctx.trigger.attempt
        seen.append(with_lock)
        release.wait(1.0)
        lock.release()

    slow = step({"name": "slow", "triggers": [stream("docs")], "timeout": 0.1, "backoff": 0}, handler)
    async with motia(tmp_path, slow) as app:
        for n in range(3):
            await app.streams["docs"].set("g", "x", {"n": n})
        await until(lambda: len(seen) >= 2)
        release.set()
        await until(lambda: [n for n, _ in seen][-1] == 2)
    assert not overlaps
    assert seen == [(0, 1), (1, 1), (2, 1)]


async def test_plain_handlers_that_hang_keep_no_other_step_waiting(tmp_path: Path) -> None:
    release = threading.Event()
    others: list[str] = []

    def hangs(input: Any, ctx: Any) -> None:
        release.wait(60)

    def other(input: Any, ctx: Any) -> None:
        others.append(input.id)

    steps = [
        step({"name": "hangs", "triggers": [stream("docs", group_id="bad")], "concurrency": 50}, hangs),
        step({"name": "other", "triggers": [stream("docs", group_id="good")]}, other),
    ]
    async with motia(tmp_path, *steps) as app:
        for n in range(50):
            await app.streams["docs"].set("bad", f"{n}", {})
        await app.streams["docs"].set("good", "x", {})
        await until(lambda: others)
        release.set()


async def test_a_handler_that_runs_twice_enqueues_once(tmp_path: Path) -> None:
    runs: list[int] = []
    mails: list[Any] = []
    gate = asyncio.Event()

    async def handler(input: Any, ctx: Any) -> None:
        runs.append(ctx.trigger.attempt)
        for n in range(3):
            await ctx.enqueue({"topic": "mail", "data": {"n": n}})
        if len(runs) < 3:
            raise ValueError("after the work")
        gate.set()

    async def mailer(input: Any, ctx: Any) -> None:
        await gate.wait()  # while a message is there, the same one is not put there again
        mails.append(input.n)

    steps = [
        step({"name": "write", "triggers": [stream("docs")], "enqueues": ["mail"], "backoff": 0}, handler),
        step({"name": "send", "triggers": [queue("mail")]}, mailer),
    ]
    async with motia(tmp_path, *steps) as app:
        await app.streams["docs"].set("g", "x", {})
        await until(lambda: len(mails) >= 3)
        await app.enqueue({"topic": "mail", "data": {"n": 3}})
        await until(lambda: 3 in mails)
    assert runs == [1, 2, 3]
    assert sorted(mails) == [0, 1, 2, 3]


async def test_what_a_thread_raises_arrives() -> None:
    def fails() -> None:
        raise ValueError("no")

    def stops() -> None:
        raise StopIteration

    with pytest.raises(ValueError, match="no"):
        await in_thread(fails)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await in_thread(stops)
    assert await in_thread(lambda one, two: one + two, 1, 2) == 3


SCRIPT = """
import asyncio, sys, time
from motia_core import Motia, StreamConfig, step, stream
from motia_core.triggers import runner

runner.HANDLERS_MAY_END = runner.CANCELLED_MAY_END = 0.2

def hangs(input, ctx):
    print("hangs", flush=True)
    time.sleep(600)

async def main():
    made = step({"name": "hangs", "triggers": [stream("docs")]}, hangs)
    async with Motia(streams=[StreamConfig(name="docs")], steps=[made], storage={"default": sys.argv[1]}) as app:
        await app.streams["docs"].set("g", "x", {})
        await asyncio.sleep(3)
    print("left", flush=True)

asyncio.run(main())
print("ended", flush=True)
"""


def test_a_plain_handler_that_hangs_keeps_no_process_from_ending(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, f"sqlite:///{tmp_path}/test.db"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["hangs", "left", "ended"], done.stderr
    assert done.returncode == 0
