"""What the tests of the Redis adapter share: servers of their own, and a plain client beside the adapter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any

import pytest
from hiredis import Reader, pack_command
from motia_adapters.redis.adapter import RedisAdapter
from motia_adapters.redis.options import RedisOptions

from motia_core.adapter import Adapter, Retention, StorageSettings
from motia_core.errors import BackendError
from motia_core.model import Change, StreamSpec, Write, WriteResult
from motia_core.operations import parse
from motia_core.testing.servers import Redis, start_or_skip
from motia_core.values import encode, encode_object

DOCS = StreamSpec("docs")
DEADLINE = 20.0


class Lab:
    """Servers and adapters of one test, all gone after it."""

    docs = DOCS

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def serve(self, *arguments: str, kind: type[Redis] = Redis) -> Redis:
        """Start a server of the test's own: ``await lab.serve("--maxmemory", "8mb")``."""
        server = kind(*arguments)
        if not server.ours:
            pytest.skip("these tests need servers of their own, and an address was given")
        self._stack.push_async_callback(server.stop)
        self._stack.push_async_callback(server.kill)  # nobody needs its data
        await start_or_skip(server)
        return server

    async def connect(
        self,
        port: int,
        *,
        timeout: float = 5.0,
        retention: Retention | None = None,
        prepare: bool = True,
        **options: Any,
    ) -> RedisAdapter:
        """Open an adapter: ``await lab.connect(server.port, timeout=1)``."""
        settings = StorageSettings("default", namespace="test", timeout=timeout, retention=retention or Retention())
        adapter = RedisAdapter(settings, RedisOptions(port=port, **options))
        self._stack.push_async_callback(adapter.close)
        await adapter.open()
        if prepare:
            await adapter.prepare(DOCS)
        return adapter

    async def ask(self, port: int, *command: Any) -> Any:
        """The reply of a server to one command, past the adapter."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(pack_command(command))
            replies = Reader()
            while (reply := replies.gets()) is False:
                replies.feed(await reader.read(65_536))
            if isinstance(reply, Exception):
                raise reply
            return reply
        finally:
            writer.close()
            await writer.wait_closed()

    async def put(self, adapter: Adapter, id: str, value: Any, *, spec: StreamSpec = DOCS, **how: Any) -> WriteResult:
        """Set an item of group "g"."""
        (result,) = await adapter.write(spec, [Write("set", "g", id, encode_object(value), **how)])
        assert result is not None
        return result

    def increment(self, id: str, by: int = 1) -> Write:
        """A write that adds to field "n" of an item of group "g"."""
        operations = parse([{"type": "increment", "path": "n", "by": by}])
        return Write("update", "g", id, operations=operations, finish=encode)

    async def log(self, adapter: Adapter, position: str, spec: StreamSpec = DOCS) -> list[Change]:
        """The changes after a position, up to the head as it is now."""
        head = await adapter.head(spec)
        changes: list[Change] = []
        async with asyncio.timeout(DEADLINE), aclosing(adapter.watch(spec, position)) as batches:
            async for batch in batches:
                changes += batch.changes
                if batch.position >= head:
                    break
        return changes

    async def eventually(self, check: Callable[[], Awaitable[Any]], what: str) -> None:
        """Wait until ``check`` is true without an error of the backend."""
        last: Exception | None = None
        try:
            async with asyncio.timeout(DEADLINE):
                while True:
                    try:
                        if await check():
                            return
                    except BackendError as error:
                        last = error
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"waited in vain for: {what} ({last})") from last


@pytest.fixture
async def lab() -> AsyncGenerator[Lab, None]:
    """Servers, adapters and what is done with them."""
    async with AsyncExitStack() as stack:
        yield Lab(stack)
