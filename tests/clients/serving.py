"""The real server, and the doors through which tests change what it serves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from motia_core import Motia, Request, StreamConfig, Subscription
from motia_core.server import make_server

from .relay import Relay

DEADLINE = 10.0


class Server:
    """A server on SQLite, behind a port that stays: it can be stopped, cut off, and begun again.

    Tests write through a second `Motia` on the same file, so that they can do so while
    the server is down.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refused: set[str] = set()
        self.tokens: set[str] | None = None
        self._folder = folder
        self._monkeypatch = monkeypatch
        self._now = time.time
        self._relay = Relay()
        self._writer = self._motia()
        self._served = self._writer
        self._last = ("", "")
        """The group and the position of the last write."""
        self._serving: uvicorn.Server | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self._relay.port}"

    async def open(self) -> None:
        await self._writer.__aenter__()
        await self.start()

    async def start(self, *, clock_behind: float = 0.0) -> None:
        """Begin, or begin again, with a wall clock that is behind by so many seconds."""
        self._monkeypatch.setattr(time, "time", lambda: self._now() - clock_behind)
        self._served = self._motia()
        self._serving = make_server(self._served, port=0)
        self._task = asyncio.create_task(self._serving.serve())
        async with asyncio.timeout(DEADLINE):
            while not self._serving.started:
                assert not self._task.done(), "the server did not start"
                await asyncio.sleep(0.01)
        self._relay.target = self._serving.servers[0].sockets[0].getsockname()[1]
        await self._relay.start()

    async def stop(self) -> None:
        """As a server that is restarted: its clients are told, nothing is forgotten."""
        await self._relay.stop_listening()
        if self._serving is not None and self._task is not None:
            self._serving.should_exit = True
            await self._task

    async def aclose(self) -> None:
        await self.stop()
        await self._relay.aclose()
        await self._writer.__aexit__(None, None, None)

    @asynccontextmanager
    async def cut_off(self) -> AsyncGenerator[None, None]:
        """Break every connection without a word; none can be made until the block ends.

        Nor until the server has heard of what was written meanwhile by the other `Motia`: else
        a client that is quick could hear some of it live, and count less as missed.
        """
        await self._relay.stop_listening()
        self._relay.cut()
        _, before = self._last
        yield
        group, last = self._last
        if last != before:
            heard = self._served.streams["documents"].watch(group, after=before or None)
            async with asyncio.timeout(DEADLINE), aclosing(heard):
                async for change in heard:
                    if change.position >= last:
                        break
        await self._relay.start()

    @asynccontextmanager
    async def stopped(self) -> AsyncGenerator[None, None]:
        """Restart the server; what is in the block happens while there is none."""
        await self.stop()
        yield
        await self.start()

    async def freeze(self) -> None:
        """Leave every connection open, with nobody at the other end."""
        self._relay.freeze()

    async def set(self, stream: str, group: str, id: str, value: dict[str, Any]) -> str:
        """Write an item; its change's position."""
        return self._wrote(group, (await self._writer.streams[stream].set(group, id, {"id": id, **value})).position)

    async def delete(self, stream: str, group: str, id: str) -> str:
        deleted = await self._writer.streams[stream].delete(group, id)
        assert deleted is not None
        return self._wrote(group, deleted.position)

    async def send(self, stream: str, group: str, id: str | None, kind: str, data: Any) -> str:
        target = {"groupId": group} if id is None else {"groupId": group, "id": id}
        sent = await self._writer.streams[stream].send(target, {"type": kind, "data": data})
        return self._wrote(group, sent.position)

    def _wrote(self, group: str, position: str) -> str:
        self._last = (group, position)
        return position

    async def trim(self) -> None:
        """Forget the history, keep the items."""
        first, *_ = [await self.set("documents", "elsewhere", "a", {"n": n}) for n in range(3)]
        # A process that keeps less trims for all; once it has, its own watches begin with a sync.
        async with self._motia(retention={"count": 1}) as trimmer, asyncio.timeout(DEADLINE):
            kind = ""
            while kind != "sync":
                await asyncio.sleep(0.02)
                async with aclosing(trimmer.streams["documents"].watch("elsewhere", after=first)) as changes:
                    kind = (await anext(changes)).type

    async def wipe(self) -> None:
        """Lose everything; the history that follows is another one."""
        await self._writer.__aexit__(None, None, None)
        for path in self._folder.iterdir():
            path.unlink()
        self._writer = self._motia()
        await self._writer.__aenter__()

    def _motia(self, **options: Any) -> Motia:
        storage = {"adapter": "sqlite", "path": str(self._folder / "streams.db"), **options}
        stream = StreamConfig(name="documents", on_join=self._on_join)
        return Motia(streams=[stream], storage={"default": storage}, authenticate=self._authenticate)

    async def _authenticate(self, request: Request) -> dict[str, Any] | None:
        if self.tokens is not None and request.token not in self.tokens:
            raise PermissionError("who are you?")
        return {"token": request.token}

    async def _on_join(self, subscription: Subscription, ctx: Any, auth_context: Any) -> dict[str, Any]:
        return {"authorized": subscription.group_id not in self.refused}
