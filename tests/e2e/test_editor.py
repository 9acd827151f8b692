"""A whole project as people write them (tests/e2e/editor): rules, edits, triggers, a queue, a clock, presence."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from motia_core import AccessDenied, Motia
from motia_core.client import StreamChange, connect_stream
from motia_core.testing.harness import Reader, eventually

from .serving import serve

HERE = Path(__file__).parent / "editor"


class Editor:
    """The project, served."""

    def __init__(self, motia: Motia, http: httpx.AsyncClient, url: str) -> None:
        self.motia = motia
        self.http = http
        self.url = url

    def listen(self, stream: str, group: str, id: str | None = None, token: str | None = None) -> Reader:
        async def changes() -> AsyncIterator[StreamChange]:
            async with connect_stream(stream, group_id=group, id=id, url=self.url, token=token) as subscription:
                async for change in subscription:
                    yield change

        return Reader(changes())


@pytest.fixture
async def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Editor]:
    monkeypatch.setenv("EDITOR_DATABASE", str(tmp_path / "editor.db"))
    monkeypatch.setenv("METRICS_EVERY", "* * * * * *")
    folder = tmp_path / "editor"
    shutil.copytree(HERE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    async with serve(Motia.from_project(folder)) as server:
        yield Editor(server.motia, await server.http(), server.url)


async def until(check: Callable[[], Any], what: str) -> None:
    async def done() -> bool:
        return bool(await check())

    await eventually(done, what)


async def test_only_members_listen_and_all_of_them_get_each_edit(editor: Editor) -> None:
    await editor.motia.state.set("workspaces", "shared", {"members": ["user-42", "user-43"]})
    readers = [editor.listen("documents", "shared", token=user) for user in ("user-42", "user-43")]
    for reader in readers:
        await reader.count(1)
    stranger = editor.listen("documents", "shared", token="user-44")
    with pytest.raises(AccessDenied):
        await stranger.count(1)
    created = await editor.http.put("/workspaces/shared/documents/doc-1", json={"title": "Plan", "content": ""})
    edited = await editor.http.patch("/docs/doc-1", json={"content": "Begin", "cursorPosition": 3})
    assert (created.json(), edited.json()) == ({"type": "create"}, {"updated": True})
    for reader in readers:
        seen = await reader.count(3)
        assert [change.type for change in seen] == ["sync", "create", "update"]
        assert seen[2].data["content"] == "Begin"
        await reader.stop()
    read = await editor.http.get("/workspaces/shared/documents/doc-1")
    assert read.json()["content"] == "Begin"
    assert (await editor.http.get("/workspaces/shared/documents/none")).status_code == 404


async def test_a_custom_event_reaches_who_listens(editor: Editor) -> None:
    await editor.motia.state.set("workspaces", "workspace-1", {"members": ["user-42"]})
    reader = editor.listen("documents", "workspace-1", token="user-42")
    await reader.count(1)
    answer = await editor.http.post("/documents/doc-1/notify", json={"message": "hello"})
    assert answer.json() == {"sent": True}
    event = (await reader.count(2))[1]
    await reader.stop()
    assert (event.type, event.event_type, event.id) == ("event", "notification", "doc-1")
    assert event.data["message"] == "hello"


async def test_changes_are_indexed_in_order_and_told_by_a_queue(editor: Editor) -> None:
    place = "/workspaces/workspace-123/documents/doc-456"
    await editor.http.put(place, json={"title": "A"})
    await editor.http.put(place, json={"title": "B"})
    await editor.http.put("/workspaces/elsewhere/documents/doc-9", json={"title": "not indexed"})
    state = editor.motia.state

    async def is_indexed() -> bool:
        return bool(await state.get("index", "doc-456") == {"title": "B", "by": "update"})

    await until(is_indexed, "the document to be indexed")
    await editor.http.delete(place)

    async def told() -> bool:
        return sorted(await state.get("indexed", "doc-456") or []) == ["create", "delete", "update"]

    await until(told, "the messages about it")
    assert await state.get("index", "doc-456") is None
    assert await state.get("index", "doc-9") is None


async def test_the_dashboard_is_fed_by_the_clock(editor: Editor) -> None:
    reader = editor.listen("metrics", "live", "current")
    seen = await reader.until(lambda seen: sum(change.type in ("create", "update") for change in seen) >= 2)
    await reader.stop()
    ticks = [change.data["timestamp"] for change in seen if change.type in ("create", "update")]
    assert ticks == sorted(set(ticks))
    assert all(tick % 1_000 == 0 for tick in ticks)


async def test_presence_follows_a_users_updates(editor: Editor) -> None:
    reader = editor.listen("presence", "global")
    await reader.count(1)
    users = editor.motia.streams.users
    await users.set("all", "user-42", {"status": "away"})  # a create: not followed
    await users.set("all", "user-42", {"status": ""})  # nothing to tell
    await users.set("all", "user-42", {"status": "online"})
    seen = await reader.count(2)
    await reader.stop()
    assert (seen[1].type, seen[1].id, seen[1].data["status"]) == ("create", "user-42", "online")
    assert len(seen) == 2
