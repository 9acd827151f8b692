"""The page of the how-to on MongoDB, in a real browser, while another program writes."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient

from motia_core import Motia
from motia_core.testing.servers import MongoDB, start_or_skip
from tests.docs.blocks import write_files
from tests.e2e.serving import serve

HERE = Path(__file__).parent


@pytest.fixture
async def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Path, None]:
    server = MongoDB()
    await start_or_skip(server)
    monkeypatch.setenv("MONGO_URL", server.url)
    client: Any = AsyncMongoClient(server.url)
    await client["shop"].create_collection("orders")
    await client.close()
    write_files("how-to/mongodb-shop.md", tmp_path)
    yield tmp_path
    await server.stop()


async def _shop(folder: Path, *arguments: str) -> str:
    command = (sys.executable, str(folder / "shop.py"), *arguments)
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, env=os.environ)
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode().strip()


async def test_the_page_shows_the_orders_live(project: Path, node_command: list[str], node_modules: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium is installed")
    first = await _shop(project, "place", "ada", "3.50")
    async with serve(Motia.from_project(project)) as server:
        url = server.url.replace("ws://", "http://").rstrip("/") + "/orders?customer=ada"
        playwright = str(node_modules / "playwright-core" / "index.mjs")
        page = await asyncio.create_subprocess_exec(
            *node_command, str(HERE / "page.mjs"), url, browser, playwright, stdin=PIPE, stdout=PIPE, stderr=PIPE
        )
        assert page.stdin
        assert page.stdout
        assert page.stderr

        async def shows(*lines: str) -> None:
            page.stdin.write(json.dumps(lines).encode() + b"\n")  # type: ignore[union-attr]
            async with asyncio.timeout(60):
                said = await page.stdout.readline()  # type: ignore[union-attr]
                assert said == b"seen\n", (await page.stderr.read()).decode()  # type: ignore[union-attr]

        await shows(f"{first}: 3.50, new")
        second = await _shop(project, "place", "ada", "12.50")
        await shows(f"{first}: 3.50, new", f"{second}: 12.50, new")
        await _shop(project, "ship", second)
        await shows(f"{first}: 3.50, new", f"{second}: 12.50, shipped")
        await _shop(project, "give", first, "bob")
        await shows(f"{second}: 12.50, shipped")
        await _shop(project, "cancel", second)
        await shows()
        page.stdin.close()
        assert (await page.stderr.read()).decode() == ""
        assert await page.wait() == 0
