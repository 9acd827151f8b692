"""Several event loops in one process, one after the other and in threads: gRPC has one queue for all of them."""

from __future__ import annotations

import asyncio
import sys

from motia_core.testing.harness import DEADLINE
from motia_core.testing.servers import Firestore

PROGRAM = """
import asyncio, sys, threading
from motia_core import Motia, StreamConfig

async def main(number):
    storage = {"default": {"adapter": "firestore", "project": "demo-motia", "emulator": sys.argv[1]}}
    async with Motia(streams=[StreamConfig(name="docs")], storage=storage) as motia:
        docs = motia.streams["docs"]
        watch = docs.watch("g")
        assert (await anext(watch)).type == "sync"
        for asked in (docs.list("g"), docs.set("g", "given-up", {"n": number})):
            task = asyncio.create_task(asked)
            await asyncio.sleep(0)
            task.cancel()
        await docs.set("g", f"{number}", {"n": number})
        async for event in watch:
            if event.id == f"{number}":
                break
        await watch.aclose()

def several(first):
    for number in range(4):
        asyncio.run(main(first + number))

several(0)
threads = [threading.Thread(target=several, args=(first,)) for first in (10, 20)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("done")
"""


async def test_loops_do_not_get_into_each_others_way(emulator: Firestore) -> None:
    """What is left of a call when its loop ends would be told to a loop that is closed, and hold up the others."""
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-W",
            "error",
            "-W",
            "ignore::FutureWarning",
            "-c",
            PROGRAM,
            emulator.url.removeprefix("http://"),
        ),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(2 * DEADLINE):
        said, _ = await process.communicate()
    assert said.decode() == "done\n"
