"""Writers in a process of their own: ``python worker.py KIND FOLDER WRITERS COUNT SEED``.

They begin when a line comes in, so that several processes begin together; what they did goes out as JSON.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from typing import Any

from motia_core import Motia, StreamConfig
from motia_core.config import Settings
from motia_core.streams import Stream

Docs = Stream[dict[str, Any]]


async def increments(docs: Docs, writers: int, count: int, chance: random.Random) -> Any:
    """Each writer increments the one item so many times; how many increments there were."""

    async def write() -> None:
        for _ in range(count):
            await docs.update("g", "counter", [{"type": "increment", "path": "n", "by": 1}])

    await asyncio.gather(*(write() for _ in range(writers)))
    return writers * count


async def creates(docs: Docs, writers: int, count: int, chance: random.Random) -> Any:
    """Each writer sets each of the keys, in some order; the keys it was told it had created."""
    created = []

    async def write(keys: list[int]) -> None:
        for key in keys:
            if (await docs.set("g", f"{key}", {"by": sys.argv[5]})).type == "create":
                created.append(key)

    orders = [list(range(count)) for _ in range(writers)]
    for order in orders:
        for start in range(0, count, 10):  # all race for about the same key
            part = order[start : start + 10]
            chance.shuffle(part)
            order[start : start + 10] = part
    await asyncio.gather(*map(write, orders))
    return created


async def main(kind: str, folder: str, writers: str, count: str, seed: str) -> None:
    """Open, wait for the word, write, tell."""
    storage = {"default": {"adapter": "sqlite", "path": f"{folder}/streams.db", "timeout": "120s"}}
    motia = Motia(streams=[StreamConfig(name="documents")], settings=Settings.build(storage=storage))
    async with motia:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        work = {"increments": increments, "creates": creates}[kind]
        done = await work(motia.streams["documents"], int(writers), int(count), random.Random(seed))
        print(json.dumps(done), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
