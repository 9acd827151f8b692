"""A process is killed in the middle of a transaction: the server keeps its locks, which must not stop the others."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from motia_core.errors import BackendError, Conflict
from motia_core.testing.harness import eventually

CHILD = """
import asyncio, sys
from motia_adapters.mongodb.adapter import MongoAdapter
from motia_adapters.mongodb.options import MongoOptions
from motia_core.adapter import StorageSettings
from motia_core.model import StreamSpec, Write

async def main():
    settings = StorageSettings("default", namespace="test")
    adapter = MongoAdapter(settings, MongoOptions(url=sys.argv[1], database="shop"))
    await adapter.open()

    async def commit(session):
        print("held", flush=True)
        await asyncio.Event().wait()

    adapter._link.commit = commit
    await adapter.write(StreamSpec("documents"), [Write("set", "g", id, b"{}") for id in "ab"])

asyncio.run(main())
"""


async def held_by_a_killed_process(lab: Any, url: str) -> None:
    """Somebody is killed while two items are locked; soon they are free."""
    adapter = await lab.connect(url)
    await lab.put(adapter, "a", {"n": 0})
    head = await adapter.head(lab.docs)
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", CHILD, url, stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    assert await child.stdout.readline() == b"held\n"
    child.kill()
    await child.wait()

    async def written() -> bool:
        try:
            await lab.put(adapter, "a", {"n": 1})
        except (BackendError, Conflict):
            return False
        return True

    await eventually(written, "the item to be free: the server itself takes a minute")
    assert await adapter.get(lab.docs, "g", "b") is None
    assert [change.id for change in await lab.log(adapter, head)][-1] == "a"


async def test_what_a_killed_process_held_is_free_again_soon(lab: Any) -> None:
    server = await lab.serve()
    await held_by_a_killed_process(lab, server.url)
