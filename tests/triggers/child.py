"""A worker process: ``child.py FILE LEASE [HOURS]``. Prints ``name position item n attempt`` around each run.

Its wall clock is wrong by HOURS.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

from motia_adapters.sqlite.adapter import SqliteAdapter
from motia_adapters.sqlite.options import SqliteOptions

from motia_core.adapter import StorageSettings
from motia_core.model import Change, StreamSpec
from motia_core.triggers import RunInfo, Runner, Trigger

DOCS = StreamSpec("docs")


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def handle(change: Change, info: RunInfo) -> None:
    value = change.data
    say("start", change.position, change.id, value["n"], info.attempt)
    if value.get("kill"):
        os._exit(9)
    await asyncio.sleep(value.get("sleep", 0))
    if (mended := value.get("mended")) and not Path(mended).exists():  # noqa: ASYNC240
        raise ValueError("poison")
    say("end", change.position, change.id, value["n"], info.attempt)


async def main() -> None:
    path, lease = sys.argv[1:3]
    adapter = SqliteAdapter(StorageSettings("default", timeout=30), SqliteOptions(path=path))
    await adapter.open()
    await adapter.prepare(DOCS)
    trigger = Trigger(
        key=("step", "stream", "docs", "0"),
        stream=DOCS,
        handle=handle,
        attempts=2,
        backoff=0.05,
        partitions=4,
        window=16,
    )
    runner = Runner(adapter, [trigger], lease=float(lease))
    await runner.start()
    say("ready")
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.stop()
    await adapter.close()
    say("stopped")


if len(sys.argv) > 3:
    seconds, right = 3600 * float(sys.argv[3]), time.time
    time.time = lambda: right() + seconds
asyncio.run(main())
