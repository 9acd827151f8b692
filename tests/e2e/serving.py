"""The real server in this process: `serve` runs it, `project` declares what it serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from motia_adapters.sqlite.adapter import SqliteAdapter
from motia_adapters.sqlite.options import SqliteOptions
from motia_adapters.sqlite.plugin import PLUGIN

from motia_core import Motia, StreamConfig
from motia_core.adapter import Adapter, AdapterPlugin, StorageSettings
from motia_core.config import Settings
from motia_core.model import Batch, Snapshot, StreamSpec
from motia_core.server import make_server
from motia_core.streams import Stream
from motia_core.testing.harness import DEADLINE, eventually

from .sockets import Socket


class Spied(SqliteAdapter):
    """SQLite that counts its reads, and fails or waits when told to."""

    def __init__(self, settings: StorageSettings, options: SqliteOptions) -> None:
        super().__init__(settings, options)
        self.snapshots: list[str] = []
        """The group of each snapshot that was read."""
        self.watches = 0
        self.raises: Exception | None = None
        """What snapshots and watches raise from now on."""
        self.gate = asyncio.Event()
        """Snapshots wait until it is set, those of ``held`` groups if it names any."""
        self.gate.set()
        self.held: set[str] = set()
        self.flowing = asyncio.Event()
        """Batches of a watch wait until it is set."""
        self.flowing.set()
        self.broken = asyncio.Event()
        """Set: open watches fail too."""

    async def snapshot(self, stream: StreamSpec, group: str, id: str | None, *, limit: int | None) -> Snapshot:
        self.snapshots.append(group)
        if not self.held or group in self.held:
            await self.gate.wait()
        if self.raises is not None:
            raise self.raises
        return await super().snapshot(stream, group, id, limit=limit)

    async def watch(self, stream: StreamSpec, after: str) -> AsyncGenerator[Batch, None]:
        self.watches += 1
        batches = super().watch(stream, after)
        broken = asyncio.create_task(self.broken.wait())
        try:
            while True:
                if self.raises is not None:
                    raise self.raises
                coming = asyncio.ensure_future(anext(batches))
                try:
                    await asyncio.wait({coming, broken}, return_when=asyncio.FIRST_COMPLETED)
                    if not coming.done():
                        continue
                    batch = coming.result()
                    await self.flowing.wait()
                    yield batch
                except StopAsyncIteration:
                    return
                finally:
                    if not coming.done():
                        coming.cancel()
                        await asyncio.gather(coming, return_exceptions=True)
        finally:
            broken.cancel()
            await batches.aclose()


class Spy:
    """A storage called ``spied``; `adapter` is the one that was built."""

    def __init__(self, build: Callable[[StorageSettings, SqliteOptions], Spied] = Spied) -> None:
        self._build = build
        self.built: list[Spied] = []
        self.plugin = AdapterPlugin(
            name="spied",
            schemes=(),
            options=SqliteOptions,
            load=lambda: self._make,
            from_url=PLUGIN.from_url,
            modes=PLUGIN.modes,
        )

    @property
    def adapter(self) -> Spied:
        return self.built[-1]

    def _make(self, settings: StorageSettings, options: Any) -> Adapter:
        self.built.append(self._build(settings, options))
        return self.built[-1]


def project(
    folder: Path,
    *streams: StreamConfig,
    server: Mapping[str, Any] | None = None,
    spy: Spy | None = None,
    retention: Mapping[str, Any] | None = None,
    plugins: Iterable[object] = (),
    **options: Any,
) -> Motia:
    """A project on a SQLite file in ``folder``, with one open stream "documents" unless others are given."""
    storage: dict[str, Any] = {"adapter": "spied" if spy else "sqlite", "path": str(folder / "streams.db")}
    if retention:
        storage["retention"] = retention
    loaded = [*plugins, *([spy.plugin] if spy else [])]
    probe = Motia(streams=(), plugins=loaded, storage={"default": storage})
    settings = Settings.build(storage={"default": storage}, server=server, plugins=probe.plugins)
    return Motia(
        streams=streams or (StreamConfig(name="documents"),), settings=settings, plugins=probe.plugins, **options
    )


class Served:
    """A running server and the ways to it."""

    def __init__(self, motia: Motia, server: uvicorn.Server, stack: AsyncExitStack) -> None:
        self.motia = motia
        self.server = server
        self.port: int = server.servers[0].sockets[0].getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}"
        self._stack = stack

    @property
    def docs(self) -> Stream[dict[str, Any]]:
        """The stream that most tests use."""
        return self.motia.streams["documents"]

    async def connect(self, path: str = "/", **options: Any) -> Socket:
        """A client, closed at the end at the latest."""
        socket = await Socket.open(self.url + path, **options)
        self._stack.push_async_callback(socket.aclose)
        return socket

    async def http(self, **options: Any) -> httpx.AsyncClient:
        """An HTTP client, closed at the end."""
        base = f"http://127.0.0.1:{self.port}"
        return await self._stack.enter_async_context(httpx.AsyncClient(base_url=base, timeout=DEADLINE, **options))


@asynccontextmanager
async def serve(motia: Motia, server: uvicorn.Server | None = None) -> AsyncIterator[Served]:
    """Run a server (ours, unless another is given) until the block ends; then all clients are closed first."""
    server = server or make_server(motia, port=0)
    task = asyncio.create_task(server.serve())

    async def started() -> bool:
        assert not task.done(), "the server did not start"
        return server.started

    try:
        await eventually(started, "the server to start")
        async with AsyncExitStack() as stack:
            yield Served(motia, server, stack)
    finally:
        server.should_exit = True
        await task
