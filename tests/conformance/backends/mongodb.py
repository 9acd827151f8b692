"""MongoDB: our own collections, by PyMongo and by Motor."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import socket
import stat
import tempfile
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from motia_adapters.mongodb.adapter import MongoAdapter
from motia_adapters.mongodb.link import Link
from motia_adapters.mongodb.options import MappedOptions, MongoOptions
from pymongo import AsyncMongoClient, MongoClient, WriteConcern
from pymongo.errors import AutoReconnect

from motia_core.adapter import Adapter, StorageSettings
from motia_core.model import StreamSpec
from motia_core.testing import Cannot, Harness
from motia_core.testing.servers import Server
from tests.conformance.backends.serving import served

WRITES = {"findAndModify", "update", "insert", "delete"}


def _break_after_write(link: Link) -> None:
    """The next write gets to the server and back; then its connection breaks, before anybody has its reply."""
    send, commit = link.send, link.commit

    async def sending(command: Any, *, session: Any = None, **options: Any) -> Any:
        reply = await send(command, session=session, **options)
        if session is None and next(iter(command)) in WRITES:
            _mend(link)
            raise AutoReconnect("cut by the test")
        return reply

    async def committing(session: Any) -> Any:
        await commit(session)
        _mend(link)
        from motia_adapters.mongodb.failures import failure

        raise failure(AutoReconnect("cut by the test"), link.address, write=True, committing=True)

    link.send = sending  # type: ignore[method-assign]
    link.commit = committing  # type: ignore[method-assign]


def _mend(link: Link) -> None:
    for name in ("send", "commit"):
        link.__dict__.pop(name, None)


class MongoDB(Harness):
    """A real one-node replica set for the whole session; each test has a database."""

    name = "mongodb"
    driver = "pymongo"

    def __init__(self, path: Path) -> None:
        self.adapters: list[MongoAdapter] = []
        self.database = f"test_{secrets.token_hex(6)}"

    async def start(self) -> None:
        # The event loop resolves names in threads that it never ends: with one no test counts more or fewer.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        self.server = await served("mongodb")

    async def stop(self) -> None:
        async with self.client() as client:
            await client.drop_database(self.database)

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[Any, None]:
        client: Any = AsyncMongoClient(self.server.url)
        try:
            yield client
        finally:
            await client.close()

    def make(self, settings: StorageSettings) -> Adapter:
        adapter = MongoAdapter(settings, self.options)
        self.adapters.append(adapter)
        return adapter

    def maker(self, settings: StorageSettings) -> Callable[[StorageSettings], Adapter]:
        return partial(MongoAdapter, options=self.options)

    @property
    def options(self) -> MongoOptions:
        return MongoOptions(url=self.server.url, database=self.database, driver=self.driver)  # type: ignore[arg-type]

    async def restart(self) -> None:
        await self._ours().restart()

    async def wipe(self) -> None:
        """dropDatabase, while adapters are connected."""
        async with self.client() as client:
            await client.drop_database(self.database)

    async def backup(self) -> Any:
        server = self._ours()
        copy = Path(tempfile.mkdtemp(prefix="motia-mongodb-backup-"))
        await server.kill()
        await asyncio.to_thread(shutil.copytree, server.folder, copy, dirs_exist_ok=True)
        await server.start()
        return copy

    async def restore(self, backup: Any) -> None:
        server = self._ours()
        await server.kill()
        shutil.rmtree(server.folder)
        shutil.move(backup, server.folder)
        # Cluster times count within a second: one that ends in the second of what is lost cannot be told from it.
        # No backup of a real server is put back that fast.
        await asyncio.sleep(1.1)
        await server.start()

    async def cut(self) -> None:
        """Every connection of this process to the server is shut down under its driver."""
        port = self.server.port
        for number in os.listdir("/proc/self/fd"):
            try:
                if not stat.S_ISSOCK(os.fstat(int(number)).st_mode):
                    continue  # else its copy would stay open
                with socket.socket(fileno=os.dup(int(number))) as end:
                    if end.family == socket.AF_INET and end.getpeername()[1] == port:
                        end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # no socket, not connected, or gone already

    @asynccontextmanager
    async def away(self) -> AsyncGenerator[None, None]:
        server = self._ours()
        await server.kill()
        try:
            yield
        finally:
            await server.start()

    async def lose_reply(self) -> None:
        for adapter in self.adapters:
            if adapter._link.is_open:
                _break_after_write(adapter._link)

    @asynccontextmanager
    async def hold(self, settings: StorageSettings, stream: StreamSpec) -> AsyncGenerator[None, None]:
        """A transaction of another client that has written an item and is not committed yet."""
        from motia_adapters.mongodb import documents

        from motia_core.model import Write

        collection = f"{settings.namespace}.stream.{stream.name}"
        step = documents.store(Write("set", "held", "x", b"{}"), documents.NOTHING, b"{}", documents.new_nonce())[0]
        async with self.client() as client, client.start_session() as session:
            await session.start_transaction()
            await client[self.database][collection].update_one(
                {"_id": {"g": "held", "i": "x"}}, step, upsert=True, session=session
            )
            yield
            await session.commit_transaction()

    def _ours(self) -> Server:
        if not self.server.ours:
            raise Cannot("this server was given to us: it is not restarted or copied")
        return self.server


class MongoDBMapped(MongoDB):
    """A collection of the user's for each namespace; a client of its own is the other program."""

    name = "mongodb-mapped"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._made: set[str] = set()

    def make(self, settings: StorageSettings) -> Adapter:
        adapter = MongoAdapter(settings, self._options(settings))
        self.adapters.append(adapter)
        return adapter

    def maker(self, settings: StorageSettings) -> Callable[[StorageSettings], Adapter]:
        return partial(MongoAdapter, options=self._options(settings))

    def _options(self, settings: StorageSettings) -> MongoOptions:
        name = f"orders_{settings.namespace}"
        client: MongoClient[Any]
        if name not in self._made:  # the user's program made it once, not each of our processes
            self._made.add(name)
            with MongoClient(self.server.url) as client:
                _create(client[self.database], name)
        mapped = MappedOptions(collection=name, group_field="customer", id_field="code", include_ids=False)
        return MongoOptions(url=self.server.url, database=self.database, driver=self.driver, mapped=mapped)  # type: ignore[arg-type]

    async def wipe(self) -> None:
        client: MongoClient[Any]
        with MongoClient(self.server.url) as client:
            names = [name for name in client[self.database].list_collection_names() if name.startswith("orders_")]
            client.drop_database(self.database)
            for name in names:
                _create(client[self.database], name)

    @asynccontextmanager
    async def hold(self, settings: StorageSettings, stream: StreamSpec) -> AsyncGenerator[None, None]:
        async with self._orders(settings) as orders, orders.database.client.start_session() as session:
            await session.start_transaction()
            await orders.insert_one({"customer": "held", "code": "x"}, session=session)
            yield
            await session.commit_transaction()

    async def set_out_of_band(
        self, settings: StorageSettings, stream: StreamSpec, group: str, id: str, value: Any
    ) -> None:
        async with self._orders(settings) as orders:
            document = {"customer": group, "code": id, **value}
            await orders.replace_one({"customer": group, "code": id}, document, upsert=True)

    async def delete_out_of_band(self, settings: StorageSettings, stream: StreamSpec, group: str, id: str) -> None:
        async with self._orders(settings) as orders:
            await orders.delete_one({"customer": group, "code": id})

    async def move_out_of_band(
        self, settings: StorageSettings, stream: StreamSpec, group: str, id: str, to: str
    ) -> None:
        async with self._orders(settings) as orders:
            await orders.update_one({"customer": group, "code": id}, {"$set": {"customer": to}})

    @asynccontextmanager
    async def _orders(self, settings: StorageSettings) -> AsyncGenerator[Any, None]:
        async with self.client() as client:
            yield client.get_database(self.database, write_concern=WriteConcern("majority"))[
                f"orders_{settings.namespace}"
            ]


def _create(database: Any, name: str) -> None:
    database.create_collection(name, changeStreamPreAndPostImages={"enabled": True})
    database[name].create_index([("customer", 1), ("code", 1)], unique=True)


class MongoDBMotor(MongoDB):
    """The same by Motor."""

    name = "mongodb-motor"
    driver = "motor"
