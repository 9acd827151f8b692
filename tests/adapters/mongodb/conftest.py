"""Servers, adapters and shorthand for the tests of the MongoDB adapter."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from motia_adapters.mongodb.adapter import MongoAdapter
from motia_adapters.mongodb.options import MappedOptions, MongoOptions
from pymongo import AsyncMongoClient

from motia_core.adapter import Retention, StorageSettings
from motia_core.model import StreamSpec, Write, WriteResult
from motia_core.operations import parse
from motia_core.testing.harness import eventually, read_log
from motia_core.testing.servers import MongoDB, start_or_skip
from motia_core.values import encode_object


class Lab:
    """What is made here is closed and stopped at the end of the test."""

    docs = StreamSpec("documents")
    eventually = staticmethod(eventually)

    def __init__(self) -> None:
        self.servers: list[Any] = []
        self.adapters: list[MongoAdapter] = []
        self.clients: list[Any] = []

    async def serve(self, server: Any = None) -> Any:
        """A server of the test's own."""
        server = server or MongoDB()
        await start_or_skip(server)
        self.servers.append(server)
        return server

    async def connect(
        self, url: str, *, timeout: float = 5.0, retention: Retention | None = None, open: bool = True, **options: Any
    ) -> MongoAdapter:
        """An adapter, open unless told otherwise."""
        settings = StorageSettings("default", namespace="test", timeout=timeout, retention=retention or Retention())
        adapter = MongoAdapter(settings, MongoOptions(url=url, database="shop", **options))  # type: ignore[arg-type]
        self.adapters.append(adapter)
        if open:
            await adapter.open()
        return adapter

    def client(self, url: str) -> Any:
        """A plain client: the other program."""
        client: Any = AsyncMongoClient(url)
        self.clients.append(client)
        return client

    async def log(self, adapter: Any, after: str) -> list[Any]:
        """All changes after a position."""
        return await read_log(adapter, self.docs, after)

    async def put(self, adapter: Any, id: str, value: dict[str, Any], group: str = "g", **options: Any) -> WriteResult:
        """Set an item."""
        write = Write("set", group, id, encode_object(value), **options)
        (result,) = await adapter.write(self.docs, [write])
        assert result is not None
        return result  # type: ignore[no-any-return]

    async def map(
        self, *, images: bool = True, server: Any = None, driver: str = "pymongo", **given: Any
    ) -> tuple[MongoAdapter, Any]:
        """An adapter on the collection "orders", and that collection as another program has it."""
        server = server or await self.serve()
        orders = self.client(server.url)["shop"]["orders"]
        if "orders" not in await orders.database.list_collection_names():
            await orders.database.create_collection("orders", changeStreamPreAndPostImages={"enabled": images})
        options: Any = {"collection": "orders", "group_field": "customer", **given}
        return await self.connect(server.url, mapped=MappedOptions(**options), driver=driver), orders

    @staticmethod
    def update(group: str, id: str, *operations: dict[str, Any]) -> Write:
        """An update, as the core makes it."""
        return Write("update", group, id, operations=parse(list(operations)), finish=encode_object)

    async def end(self) -> None:
        """Close and stop everything."""
        for adapter in self.adapters:
            await adapter.close()
        for client in self.clients:
            await client.close()
        for server in self.servers:
            await server.stop()


@pytest.fixture
async def lab() -> AsyncGenerator[Lab, None]:
    lab = Lab()
    yield lab
    await lab.end()
