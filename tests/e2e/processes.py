"""A server in a process of its own, for what needs one: killing it, and measuring it."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from motia_core.testing.harness import DEADLINE

CHILD = Path(__file__).with_name("child.py")
_RUNNING = re.compile(rb"running on http://127\.0\.0\.1:(\d+)")


class Process:
    """A running server; `child` says what its steps do."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.port = port
        self._process = process
        self._log = asyncio.create_task(self._read())

    async def kill(self) -> None:
        """``kill -9``, and wait until it is gone."""
        self._process.send_signal(signal.SIGKILL)
        await self.ended()

    async def ended(self) -> int:
        """Wait for its end; the exit status."""
        async with asyncio.timeout(DEADLINE):
            await self._log
            return await self._process.wait()

    async def stop(self) -> None:
        """End it as an operator would, if it still runs."""
        if self._process.returncode is None:
            self._process.terminate()
        await self.ended()

    async def _read(self) -> None:
        """Its log goes nowhere, but must not fill the pipe."""
        assert self._process.stderr is not None
        while await self._process.stderr.readline():
            pass


async def start(folder: Path, **server: Any) -> Process:
    """Start a server on the SQLite file in ``folder``."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(CHILD), str(folder), json.dumps(server), stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    log = b""
    async with asyncio.timeout(DEADLINE):
        while line := await process.stderr.readline():
            log += line
            if found := _RUNNING.search(line):
                return Process(process, int(found[1]))
    await process.wait()
    raise AssertionError(f"the server did not start: {log.decode()}")


@asynccontextmanager
async def running(folder: Path, **server: Any) -> AsyncIterator[Process]:
    """A server that is stopped at the end of the block."""
    process = await start(folder, **server)
    try:
        yield process
    finally:
        await process.stop()
