"""What ``dev`` does: a server process that is replaced when the project's files change."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from asyncio.subprocess import Process
from collections.abc import Sequence
from pathlib import Path

from watchfiles import Change, DefaultFilter, awatch

from motia_core.cli.output import say

GRACE = 5.0
"""Seconds that the old server has to end by itself."""


class ProjectFiles(DefaultFilter):
    """Code and configuration; not the data, nor what tools leave behind."""

    def __call__(self, change: Change, path: str) -> bool:
        """Whether a change of this file means a restart."""
        return path.endswith((".py", ".toml", ".html", ".js", ".css", ".json")) and super().__call__(change, path)


async def supervise(command: Sequence[str], project: Path) -> None:
    """Keep ``command`` running, afresh after each change of a project file, until a signal."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, stop.set)
    # The watch comes first: a change while the server starts must not go unseen.
    changes = awatch(project, watch_filter=ProjectFiles(), stop_event=stop)
    server = Supervised(command)
    try:
        await server.start()
        async for changed in changes:
            names = sorted({_shown(path, project) for _, path in changed})
            say(f"changed: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}; starting again")
            await server.stop()
            await server.start()
    finally:
        await server.stop()


class Supervised:
    """One command, run again and again."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._process: Process | None = None
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it; should it end by itself, say so."""
        process = self._process = await asyncio.create_subprocess_exec(*self._command, stdin=asyncio.subprocess.DEVNULL)
        self._watching = asyncio.create_task(_report(process))

    async def stop(self) -> None:
        """End it: by a signal, and by force if that does not help."""
        process, self._process = self._process, None
        if process is None:
            return
        if self._watching is not None:
            self._watching.cancel()
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), GRACE)
        except TimeoutError:
            say("the server does not end by itself: killing it")
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _report(process: Process) -> None:
    code = await process.wait()
    say(f"the server ended (exit code {code}); waiting for a change of the project's files")


def _shown(path: str, project: Path) -> str:
    absolute = project.absolute()
    return str(Path(path).relative_to(absolute)) if Path(path).is_relative_to(absolute) else path
