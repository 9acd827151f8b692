"""Firestore, on Google's emulator."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
from motia_adapters.firestore.adapter import FirestoreAdapter
from motia_adapters.firestore.connection import Connection
from motia_adapters.firestore.names import paths_of
from motia_adapters.firestore.options import FirestoreOptions
from motia_adapters.firestore.wire import BatchGetRequest

from motia_core.adapter import Adapter, StorageSettings
from motia_core.model import StreamSpec, Write
from motia_core.testing import Cannot, Harness
from motia_core.testing.proxy import Proxy
from motia_core.testing.servers import Firestore as FirestoreServer
from motia_core.values import encode_object
from tests.conformance.backends.serving import served

PROJECT = "demo-motia"


class Firestore(Harness):
    """One emulator for the whole session; each test has a namespace."""

    name = "firestore"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.adapters: list[FirestoreAdapter] = []

    async def start(self) -> None:
        server = await served("firestore")
        assert isinstance(server, FirestoreServer)
        self.server = server
        url = urlsplit(server.url)
        self.proxy = await Proxy(url.port or 80, url.hostname or "127.0.0.1").__aenter__()

    async def stop(self) -> None:
        await self.proxy.__aexit__()

    @property
    def options(self) -> FirestoreOptions:
        """Past the proxy, which works only as long as this process's loop does."""
        return FirestoreOptions(project=PROJECT, emulator=self.server.url.removeprefix("http://"))

    @property
    def breakable(self) -> FirestoreOptions:
        """By connections that `cut` breaks."""
        return self.options.model_copy(update={"emulator": f"127.0.0.1:{self.proxy.port}"})

    def make(self, settings: StorageSettings) -> Adapter:
        adapter = FirestoreAdapter(settings, self.breakable)
        self.adapters.append(adapter)
        return adapter

    def maker(self, settings: StorageSettings) -> Callable[[StorageSettings], Adapter]:
        return partial(FirestoreAdapter, options=self.options)

    async def restart(self) -> None:
        async with self._alone():
            await self._ours().restart()

    @asynccontextmanager
    async def _alone(self) -> AsyncGenerator[None, None]:
        """No adapter reaches the emulator: what it acknowledged after a copy would be lost by the restart."""
        self.proxy.mode = "refuse"
        self.proxy.cut()
        try:
            yield
        finally:
            self.proxy.mode = "pass"

    async def wipe(self) -> None:
        await asyncio.to_thread(self._ours().clear, PROJECT)

    async def backup(self) -> Any:
        return await asyncio.to_thread(self._ours().export, PROJECT, Path(tempfile.mkdtemp(dir=self.path)) / "copy")

    async def restore(self, backup: Any) -> None:
        server = self._ours()
        await server.kill()
        server.seed = backup
        await server.start()

    async def cut(self) -> None:
        self.proxy.cut()

    @asynccontextmanager
    async def away(self) -> AsyncGenerator[None, None]:
        """Killed. The emulator has its data in memory only: it gets them back from a copy."""
        async with self._alone():
            backup = await self.backup()
            await self._ours().kill()
        try:
            yield
        finally:
            await self.restore(backup)

    async def lose_reply(self) -> None:
        """The next commit is applied, and its reply is lost on the way to us."""
        for adapter in self.adapters:
            if adapter._connection.is_open:
                _lose_reply(adapter._connection)

    @asynccontextmanager
    async def hold(self, settings: StorageSettings, stream: StreamSpec) -> AsyncGenerator[None, None]:
        """Another process's commit, which the server has taken and keeps waiting for a lock until the block ends."""
        other = FirestoreAdapter(settings, self.options)
        await other.open()
        connection = other._connection
        name = paths_of(connection.documents, self.options.root, settings.namespace, stream.name).item("held", "x")
        begin = BatchGetRequest(database=connection.database, documents=[name])
        begin.new_transaction.read_write.SetInParent()
        call = connection._stub("BatchGetDocuments")(begin, metadata=connection.metadata)
        transaction = await anext(answer.transaction async for answer in call)
        commit = asyncio.create_task(other.write(stream, [Write("set", "held", "x", encode_object({"held": True}))]))
        try:
            while not connection.calls["commits"]:  # noqa: ASYNC110 (it has no event)
                await asyncio.sleep(0.01)
            yield
            assert not commit.done(), "nothing held the commit"
            rollback = connection._channel.unary_unary("/google.firestore.v1.Firestore/Rollback")
            await rollback(_rollback(connection.database, transaction), metadata=connection.metadata)
            await commit
        finally:
            commit.cancel()
            await asyncio.gather(commit, return_exceptions=True)
            await other.close()

    def _ours(self) -> FirestoreServer:
        if not self.server.ours:
            raise Cannot("this server was given to us: it is not restarted, wiped or copied")
        return self.server


def _lose_reply(connection: Connection) -> None:
    stub = connection._stub("Commit")

    async def losing(request: Any, **options: Any) -> Any:
        connection._stubs["Commit"] = stub
        await stub(request, **options)
        none = grpc.aio.Metadata()
        raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, none, none, "cut by the test")

    connection._stubs["Commit"] = losing


def _rollback(database: str, transaction: bytes) -> bytes:
    from google.cloud.firestore_v1.types import RollbackRequest

    message: Any = RollbackRequest.pb()(database=database, transaction=transaction)
    return bytes(message.SerializeToString())
