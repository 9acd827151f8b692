"""The page for Firebase apps: tokens of Firebase, streams in Firestore."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import firebase_admin
import httpx
import pytest

from motia_core import Motia
from motia_core.client import StreamChange, connect_stream
from motia_core.errors import AccessDenied
from motia_core.testing.harness import Reader
from motia_core.testing.servers import Firestore, start_or_skip
from tests.e2e.serving import serve

from .blocks import write_files

PROJECT = "demo-motia"


@pytest.fixture
async def _emulated(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[None, None]:
    server = Firestore()
    await start_or_skip(server)
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", PROJECT)
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", server.url.removeprefix("http://"))
    monkeypatch.setenv("FIREBASE_AUTH_EMULATOR_HOST", "127.0.0.1:9")  # what it says, no one asks: tokens are unsigned
    yield
    for app in list(firebase_admin._apps.values()):
        firebase_admin.delete_app(app)
    await server.kill()
    await server.stop()


def _token(user: str) -> str:
    """A token as the Auth emulator makes them: it is not signed."""
    now = int(time.time())
    claims = {
        "iss": f"https://securetoken.google.com/{PROJECT}",
        "aud": PROJECT,
        "sub": user,
        "user_id": user,
        "iat": now - 10,
        "exp": now + 3_600,
    }
    parts = [json.dumps(part).encode() for part in ({"alg": "none", "typ": "JWT"}, claims)]
    return ".".join([*(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts), ""])


def _documents(url: str, token: str) -> Reader:
    async def changes() -> AsyncIterator[StreamChange]:
        async with connect_stream("documents", group_id="w", url=url, token=token) as stream:
            async for change in stream:
                yield change

    return Reader(changes())


@pytest.mark.usefixtures("_emulated")
async def test_a_member_sees_documents_and_others_do_not(tmp_path: Path) -> None:
    write_files("how-to/firebase-app.md", tmp_path)
    async with serve(Motia.from_project(tmp_path)) as server:
        http: httpx.AsyncClient = await server.http()
        await http.post("/workspaces/w", json={"members": ["ada"]})
        await http.put("/docs/w/1", json={"title": "One"})
        ada = _documents(server.url, _token("ada"))
        (sync,) = await ada.count(1)
        assert sync.data == [{"id": "1", "title": "One"}]
        await http.put("/docs/w/1", json={"title": "Two"})
        assert (await ada.count(2))[1].data["title"] == "Two"
        await ada.stop()
        for token in (_token("eve"), "no token at all"):
            other = _documents(server.url, token)
            with pytest.raises(AccessDenied):
                await other.count(1)
            await other.stop()
