"""The page on a Firebase app's own documents: another program writes, and streams and steps see it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud.firestore import AsyncClient

from motia_core import Motia
from motia_core.client import StreamChange, connect_stream
from motia_core.testing.harness import Reader, eventually
from motia_core.testing.servers import Firestore, start_or_skip
from tests.e2e.serving import serve

from .blocks import write_files

PROJECT = "demo-motia"


@pytest.fixture
async def client(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Any, None]:
    """The plain driver."""
    server = Firestore()
    await start_or_skip(server)
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", PROJECT)
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", server.url.removeprefix("http://"))
    anonymous: Any = AnonymousCredentials
    client = AsyncClient(project=PROJECT, credentials=anonymous())
    api = client._firestore_api
    yield client
    await api.transport.close()
    await server.kill()
    await server.stop()


async def _app(folder: Path, *arguments: str) -> None:
    """Run the other program. firebase-admin wants credentials for the emulator too, which asks for none."""
    key = folder / "credentials.json"
    key.write_text(
        json.dumps({"type": "authorized_user", "client_id": "x", "client_secret": "x", "refresh_token": "x"})
    )
    environment = {**os.environ, "GOOGLE_APPLICATION_CREDENTIALS": str(key)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "ignore", str(folder / "app.py"), *arguments, env=environment
    )
    assert await process.wait() == 0


def _documents(url: str, workspace: str) -> Reader:
    async def changes() -> AsyncIterator[StreamChange]:
        async with connect_stream("documents", group_id=workspace, url=url) as stream:
            async for change in stream:
                yield change

    return Reader(changes())


async def test_what_the_other_program_writes_is_live_and_runs_steps(tmp_path: Path, client: Any) -> None:
    write_files("how-to/firestore-documents.md", tmp_path)
    await _app(tmp_path, "write", "w1", "early", "Early")
    async with serve(Motia.from_project(tmp_path)) as server:
        one, two = _documents(server.url, "w1"), _documents(server.url, "w2")
        (sync,) = await one.count(1)
        assert [(item["title"], item["author"]) for item in sync.data] == [("Early", {"$reference": "users/ada"})]
        await two.count(1)
        await _app(tmp_path, "write", "w1", "late", "Late")
        assert (await one.count(2))[1].data["status"] == "draft"
        await _app(tmp_path, "publish", "w1", "late")
        await one.until(lambda seen: seen[-1].id == "late" and seen[-1].data["status"] == "announced")

        async def noted() -> bool:
            known = await server.motia.state.get("published", "late")
            return known is not None and known["title"] == "Late"

        await eventually(noted, "the step to run")
        stored = (await client.document("workspaces/w1/documents/late").get()).to_dict()
        assert stored["status"] == "announced"
        assert stored["author"].path == "users/ada"
        assert stored["edited"].tzinfo is not None
        await _app(tmp_path, "move", "w1", "late", "w2")
        await _app(tmp_path, "delete", "w1", "early")
        await one.until(lambda seen: [e.type for e in seen[-2:]] == ["delete", "delete"])
        assert [(change.type, change.id) for change in (await two.count(2))[1:]] == [("create", "late")]
        await one.stop()
        await two.stop()
