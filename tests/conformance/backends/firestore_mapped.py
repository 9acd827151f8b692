"""Documents of an application's own in Firestore, which another program writes with the plain driver."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

from google.auth.credentials import AnonymousCredentials
from google.cloud.firestore import AsyncClient
from motia_adapters.firestore.adapter import FirestoreAdapter
from motia_adapters.firestore.mapped.template import parse_template
from motia_adapters.firestore.options import FirestoreOptions, MappedOptions

from motia_core.adapter import Adapter, StorageSettings
from motia_core.model import StreamSpec
from motia_core.testing.proxy import Proxy
from tests.conformance.backends.firestore import PROJECT, Firestore
from tests.standins.firestore import Firestore as Standin


class FirestoreMapped(Firestore):
    """One emulator for the whole session; each test has a path of its own."""

    name = "firestore-mapped"

    def make(self, settings: StorageSettings) -> Adapter:
        adapter = FirestoreAdapter(settings, _mapped(self.breakable, settings))
        self.adapters.append(adapter)
        return adapter

    def maker(self, settings: StorageSettings) -> Callable[[StorageSettings], Adapter]:
        return partial(FirestoreAdapter, options=_mapped(self.options, settings))

    @asynccontextmanager
    async def hold(self, settings: StorageSettings, stream: StreamSpec) -> AsyncGenerator[None, None]:
        """A transaction of another program that has read a document and writes it when the block ends."""
        async with self._outsider() as client:
            reference = _document(client, settings, "held", "x")
            transaction = client.transaction()
            await transaction._begin()
            await reference.get(transaction=transaction)
            transaction.set(reference, {"held": True})
            yield
            await transaction._commit()

    async def set_out_of_band(
        self, settings: StorageSettings, stream: StreamSpec, group: str, id: str, value: Any
    ) -> None:
        async with self._outsider() as client:
            await _document(client, settings, group, id).set(value)

    async def delete_out_of_band(self, settings: StorageSettings, stream: StreamSpec, group: str, id: str) -> None:
        async with self._outsider() as client:
            await _document(client, settings, group, id).delete()

    async def move_out_of_band(
        self, settings: StorageSettings, stream: StreamSpec, group: str, id: str, to: str
    ) -> None:
        """A document cannot move: a batch deletes it here and creates it there."""
        async with self._outsider() as client:
            here = _document(client, settings, group, id)
            batch = client.batch()
            batch.create(_document(client, settings, to, id), (await here.get()).to_dict())
            batch.delete(here)
            await batch.commit()

    @asynccontextmanager
    async def _outsider(self) -> AsyncGenerator[Any, None]:
        with _emulated(self.options.emulator or ""):
            anonymous: Any = AnonymousCredentials
            client = AsyncClient(project=PROJECT, credentials=anonymous())
        try:
            yield client
        finally:
            await client._firestore_api.transport.close()


STANDINS: list[Standin] = []
"""The stand-in of this session, for one emulator."""


def build(settings: StorageSettings, options: FirestoreOptions) -> FirestoreAdapter:
    """An adapter that takes what it is connected to for Google's own service, also in another process."""
    adapter = FirestoreAdapter(settings, options)
    adapter._connection.is_emulated = False
    return adapter


class FirestoreDeltas(FirestoreMapped):
    """The same documents behind a stand-in that listens as Google's own service does."""

    name = "firestore-deltas"

    async def start(self) -> None:
        await super().start()
        if not STANDINS:
            STANDINS.append(Standin(self.server.url.removeprefix("http://")))
            STANDINS[0].start()
        await self.proxy.__aexit__()
        self.proxy = await Proxy(STANDINS[0].port, "127.0.0.1").__aenter__()

    @property
    def options(self) -> FirestoreOptions:
        return FirestoreOptions(project=PROJECT, emulator=f"127.0.0.1:{STANDINS[0].port}")

    def make(self, settings: StorageSettings) -> Adapter:
        adapter = build(settings, _mapped(self.breakable, settings))
        self.adapters.append(adapter)
        return adapter

    def maker(self, settings: StorageSettings) -> Callable[[StorageSettings], Adapter]:
        return partial(build, options=_mapped(self.options, settings))


def stop_standins() -> None:
    """Stop what this session started."""
    for standin in STANDINS:
        standin.stop()
    STANDINS.clear()


def _mapped(options: FirestoreOptions, settings: StorageSettings) -> FirestoreOptions:
    path = f"apps/{settings.namespace}/workspaces/{{group}}/documents_{settings.namespace}/{{id}}"
    return options.model_copy(update={"mapped": MappedOptions(path=path)})


def _document(client: Any, settings: StorageSettings, group: str, id: str) -> Any:
    mapped = _mapped(FirestoreOptions(), settings).mapped
    assert mapped is not None
    return client.document(*parse_template(mapped.path).path(group, id).split("/"))


@contextmanager
def _emulated(address: str) -> Generator[None, None, None]:
    """What the plain driver is told to use the emulator by."""
    before = os.environ.get("FIRESTORE_EMULATOR_HOST")
    os.environ["FIRESTORE_EMULATOR_HOST"] = address
    try:
        yield
    finally:
        del os.environ["FIRESTORE_EMULATOR_HOST"]
        if before is not None:
            os.environ["FIRESTORE_EMULATOR_HOST"] = before
