"""Worker processes for the tests of clause D: started, frozen, and really killed."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import pickle
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from motia_core.adapter import Adapter, StorageSettings
from motia_core.model import Change, StreamSpec
from motia_core.triggers import RunInfo, Runner, Trigger

MakeAdapter = Callable[[StorageSettings], Adapter]
"""Can be pickled, so that another process makes an adapter on the same store."""

SPEC = StreamSpec("documents")


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker process does: it handles the changes of "documents" and writes down each start and end."""

    make: MakeAdapter
    settings: StorageSettings
    journal: Path
    lease: float = 1.0
    attempts: int = 5
    pause: float = 0.0
    """Seconds that a handler takes."""
    poison: str = ""
    """The process kills itself when it handles an item of this id."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the journal."""

    kind: str
    """"start" or "end"."""
    worker: int
    group: str
    id: str
    n: int
    epoch: int
    attempt: int
    position: str


def read_journal(journal: Path) -> list[Line]:
    """All whole lines, in the order in which they were written."""
    if not journal.exists():
        return []
    lines = [text.split("\t") for text in journal.read_text().splitlines(keepends=True) if text.endswith("\n")]
    return [Line(k, int(w), g, i, int(n), int(e), int(a), p.rstrip("\n")) for k, w, g, i, n, e, a, p in lines]


class Worker:
    """One process that runs a `Job`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, job: Job) -> Worker:
        """Start it, and wait until it runs."""
        code = base64.b64encode(pickle.dumps(job)).decode()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "from motia_core.testing.workers import main; main()", code),
            stdout=asyncio.subprocess.PIPE,
            env=environment,
        )
        worker = cls(process)
        try:
            assert process.stdout
            ready = await process.stdout.readline()
            assert ready == b"running\n", "a worker process did not start: see its output above"
        except BaseException:  # nobody else knows of it yet
            await worker.kill()
            raise
        return worker

    async def kill(self) -> None:
        """``kill -9``."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()

    def freeze(self) -> None:
        """Let it stand still, as a paused machine does."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on, as if nothing had happened."""
        self.process.send_signal(signal.SIGCONT)

    async def stop(self) -> None:
        """Ask it to end."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        await self.process.wait()


async def work(job: Job) -> None:
    """What the process does."""
    descriptor = os.open(job.journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(kind: str, change: Change, run: RunInfo) -> None:
        fields = (kind, os.getpid(), change.group_id, change.id, change.data["n"], run.epoch, run.attempt, run.position)
        os.write(descriptor, ("\t".join(map(str, fields)) + "\n").encode())

    async def handle(change: Change, run: RunInfo) -> None:
        note("start", change, run)
        if change.id == job.poison:
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(job.pause)
        note("end", change, run)

    adapter = job.make(job.settings)
    await adapter.open()
    await adapter.prepare(SPEC)
    trigger = Trigger(
        key=("journal", "stream", SPEC.name, "0"),
        stream=SPEC,
        handle=handle,
        start="beginning",
        attempts=job.attempts,
        backoff=0.05,
    )
    runner = Runner(adapter, [trigger], lease=job.lease)
    await runner.start()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    print("running", flush=True)  # noqa: T201 (the parent waits for it)
    await stopped.wait()
    await runner.stop()
    await adapter.close()


def main() -> None:
    """The process: its job comes as an argument."""
    asyncio.run(work(pickle.loads(base64.b64decode(sys.argv[1]))))
