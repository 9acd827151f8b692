"""The tutorial's code runs, and does what the tutorial says."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import httpx

from motia_core import Motia
from motia_core.config import Settings
from motia_core.server import make_server

from .blocks import blocks, write_files

BLOCKS = blocks("tutorial.md")


def block(language: str, about: str = "") -> str:
    (found,) = (text for kind, rest, text in BLOCKS if kind == language and rest.strip() == about)
    return str(found)


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_library_prints_what_the_tutorial_says(tmp_path: Path) -> None:
    done = run(block("python"), tmp_path)
    assert (done.stdout, done.stderr) == (block("text"), "")


async def test_the_project_serves_the_client(tmp_path: Path) -> None:
    write_files("tutorial.md", tmp_path)
    (tmp_path / "motia.toml").write_text(block("toml"))
    server = make_server(Motia.from_project(tmp_path), port=0)
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(30):
        while not server.started:  # noqa: ASYNC110 (uvicorn has no event for it)
            await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    code = block("python", "client").replace("ws://127.0.0.1:3112", f"ws://127.0.0.1:{port}")
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as web:
            assert (await web.post("/workspaces/workspace-1/invite")).status_code == 204
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-u", "-c", code, stdout=asyncio.subprocess.PIPE, env={**os.environ}
            )
            assert process.stdout is not None
            async with asyncio.timeout(30):
                assert await process.stdout.readline() == b"sync []\n"
                answer = await web.put("/docs/workspace-1/doc-123", json={"title": "Plan"})
                assert answer.json() == {"type": "create"}
                assert b"create {'id': 'doc-123', 'title': 'Plan'}" in await process.stdout.readline()
                assert await process.wait() == 0
    finally:
        server.should_exit = True
        await serving


def test_its_configuration_is_valid(tmp_path: Path) -> None:
    (tmp_path / "motia.toml").write_text(block("toml"))
    settings = Settings.load(tmp_path)
    assert set(settings.storage) == {"default", "live"}
