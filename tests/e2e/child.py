"""A server in a process of its own: ``python child.py FOLDER SETTINGS``; a step says what must not grow."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from motia_core import Motia, StreamConfig, http, step
from motia_core.config import Settings
from motia_core.server import run


async def put(input: Any, ctx: Any) -> Any:
    """One set; answering is acknowledging."""
    params = input.request.path_params
    result = await ctx.streams.documents.set(params["group"], params["id"], input.request.body)
    return {"body": {"position": result.position}}


async def fill(input: Any, ctx: Any) -> Any:
    """Many sets, one after the other."""
    for number in range(input.request.body["count"]):
        await ctx.streams.documents.set(f"g{number % 7}", f"i{number % 10}", {"n": number})
    return {"status": 204}


async def stats(input: Any, ctx: Any) -> Any:
    """What must not grow."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])  # noqa: ASYNC240 (not on a disk)
    return {
        "body": {
            "memory": pages * os.sysconf("SC_PAGE_SIZE"),
            "tasks": len(asyncio.all_tasks()),
            "files": len(os.listdir("/proc/self/fd")),
            "threads": threading.active_count(),
            "connections": len(MOTIA.connections),
            "members": MOTIA.hubs["documents"].members,
        }
    }


if __name__ == "__main__":
    folder, server = sys.argv[1:]
    MOTIA = Motia(
        streams=[StreamConfig(name="documents")],
        steps=[
            step({"name": "stats", "triggers": [http("GET", "/stats")]}, stats),
            step({"name": "fill", "triggers": [http("POST", "/fill")]}, fill),
            step({"name": "put", "triggers": [http("PUT", "/docs/{group}/{id}")]}, put),
        ],
        settings=Settings.build(
            storage={"default": {"adapter": "sqlite", "path": f"{folder}/streams.db"}}, server=json.loads(server)
        ),
    )
    run(MOTIA, port=0)
