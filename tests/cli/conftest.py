"""A project's folder, and ``motia-core`` run as people run it: as a process of its own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

DEADLINE = 30.0
COMMAND = [sys.executable, "-W", "error", "-m", "motia_core.cli"]

STREAMS = """
from motia_core import StreamConfig
default = StreamConfig(name="documents")
notes = StreamConfig(name="notes", base_config={"storageType": "inside"})
"""

STEP = """
from motia_core import step, http

async def handler(input, ctx):
    return {"status": 200, "body": {"answer": 1}}

default = step({"name": "answer", "triggers": [http("GET", "/answer")]}, handler)
"""

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "Running"]


class Running:
    """A command that goes on; what it prints is collected."""

    def __init__(self, arguments: tuple[str, ...], folder: Path, stdout: int = subprocess.PIPE) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=folder,
            env=environment(),
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.out: list[str] = []
        self.err: list[str] = []
        self._news = threading.Condition()
        self._threads = [self._collect("stdout", self.out), self._collect("stderr", self.err)]

    def _collect(self, name: str, lines: list[str]) -> threading.Thread:
        def read() -> None:
            for line in getattr(self.process, name) or ():
                with self._news:
                    lines.append(line.rstrip("\n"))
                    self._news.notify_all()

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        return thread

    def wait_for(self, pattern: str, *, times: int = 1, of: str = "err") -> re.Match[str]:
        """The ``times``-th line that matches, once it is printed."""
        end = time.monotonic() + DEADLINE
        with self._news:
            while True:
                found = [match for line in getattr(self, of) if (match := re.search(pattern, line))]
                if len(found) >= times:
                    return found[times - 1]
                left = end - time.monotonic()
                assert left > 0, f"{pattern!r} was not printed {times} times; out: {self.out}, err: {self.err}"
                self._news.wait(left)

    def lines(self, count: int) -> list[str]:
        """The first lines of standard output, once there are ``count``."""
        self.wait_for("", times=count, of="out")
        return self.out[:count]

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code; everything it printed is read."""
        self.process.send_signal(number)
        return self.wait_to_end()

    def wait_to_end(self) -> int:
        """Wait until it ends by itself and return the exit code; everything it printed is read."""
        code = self.process.wait(DEADLINE)
        for thread in self._threads:
            thread.join(DEADLINE)
        return code

    def close(self) -> None:
        """Make sure that it is gone, with the processes that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(DEADLINE)
        for thread in self._threads:
            thread.join(DEADLINE)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


def environment(**more: str) -> dict[str, str]:
    """This process's environment without settings of its own."""
    return {**{name: value for name, value in os.environ.items() if not name.startswith("MOTIA_")}, **more}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a stream in SQLite, one in memory, and an HTTP step."""
    folder = tmp_path / "app"
    for name, text in {
        "motia.toml": '[storage]\ninside = "memory://"\n[server]\nport = 0\n',
        "motia/streams/documents_stream.py": STREAMS,
        "motia/steps/answer_step.py": STEP,
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def cli(project: Path) -> Cli:
    """Run a command in the project's folder to its end."""

    def run(*arguments: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments],
            cwd=project,
            env=environment(**environ),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )

    return run


@pytest.fixture
def start(project: Path) -> Iterator[Start]:
    """Start a command in the project's folder that goes on until it is told to end."""
    running: list[Running] = []

    def begin(*arguments: str, stdout: int = subprocess.PIPE) -> Running:
        running.append(Running(arguments, project, stdout))
        return running[-1]

    yield begin
    for each in running:
        each.close()
