"""Redis, the newest and the oldest that is supported."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from motia_adapters.redis.adapter import RedisAdapter
from motia_adapters.redis.link import Argument, Link
from motia_adapters.redis.options import RedisOptions, options_from_url
from motia_adapters.redis.scripts import WRITE

from motia_core.adapter import Adapter, StorageSettings
from motia_core.model import StreamSpec
from motia_core.testing import Cannot, Harness
from motia_core.testing.servers import Server
from tests.conformance.backends.serving import served

FIXED_ARGUMENTS = 14
"""Of a call of the write script: the command, the script, four keys with their count, and seven; then units follow."""


def _break_after_write(link: Link) -> None:
    send = link.send

    def sending(*command: Argument) -> asyncio.Future[Any]:
        if command[1:2] == (WRITE.sha,) and len(command) > FIXED_ARGUMENTS:
            link.data_received = lambda data: link.abort("cut by the test")  # type: ignore[method-assign]
        return send(*command)

    link.send = sending  # type: ignore[method-assign]


class Redis(Harness):
    """A real server for the whole session; each test has a namespace."""

    name = "redis"

    def __init__(self, path: Path) -> None:
        self.adapters: list[RedisAdapter] = []

    async def start(self) -> None:
        self.server = await served(self.name)

    def make(self, settings: StorageSettings) -> Adapter:
        adapter = RedisAdapter(settings, self.options)
        self.adapters.append(adapter)
        return adapter

    def maker(self, settings: StorageSettings) -> Callable[[StorageSettings], Adapter]:
        return partial(RedisAdapter, options=self.options)

    @property
    def options(self) -> RedisOptions:
        return RedisOptions(**options_from_url(self.server.url))

    async def restart(self) -> None:
        await self._ours().restart()

    async def wipe(self) -> None:
        """FLUSHALL, while adapters are connected."""
        port = self._ours().port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"FLUSHALL\r\n")
        assert await reader.readline() == b"+OK\r\n"
        writer.close()
        await writer.wait_closed()

    async def backup(self) -> Any:
        server = self._ours()
        copy = Path(tempfile.mkdtemp(prefix="motia-redis-backup-"))
        await server.kill()
        shutil.copytree(server.folder, copy, dirs_exist_ok=True)
        await server.start()
        return copy

    async def restore(self, backup: Any) -> None:
        server = self._ours()
        await server.kill()
        shutil.rmtree(server.folder)
        shutil.move(backup, server.folder)
        await server.start()

    async def cut(self) -> None:
        """The server ends them all, those that listen too."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._ours().port)
        for kind in (b"pubsub", b"normal"):
            writer.write(b"CLIENT KILL TYPE %s SKIPME yes\r\n" % kind)
            assert (await reader.readline()).startswith(b":")
        writer.close()
        await writer.wait_closed()

    @asynccontextmanager
    async def away(self) -> AsyncGenerator[None, None]:
        server = self._ours()
        await server.kill()
        try:
            yield
        finally:
            await server.start()

    async def lose_reply(self) -> None:
        """The reply to the next write comes as far as our socket: there the connection breaks."""
        for adapter in self.adapters:
            if adapter._connection.is_open:
                _break_after_write(await adapter._connection.seed.link())

    def hold(self, settings: StorageSettings, stream: StreamSpec) -> Any:
        raise Cannot("Redis runs a script to its end before it looks at anything else: no write can be held open")

    def _ours(self) -> Server:
        if not self.server.ours:
            raise Cannot("this server was given to us: it is not restarted, wiped or copied")
        return self.server


class Redis62(Redis):
    """The oldest server that is supported."""

    name = "redis62"
