"""What the tests of the Firestore adapter share: one emulator, and adapters behind a gateway."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from motia_adapters.firestore.adapter import FirestoreAdapter
from motia_adapters.firestore.options import FirestoreOptions, MappedOptions

from motia_core.adapter import Retention, StorageSettings
from motia_core.hub import Hub
from motia_core.model import StreamSpec
from motia_core.schema import compile_schema
from motia_core.streams import Stream
from motia_core.testing.harness import eventually
from motia_core.testing.servers import Firestore, start_or_skip
from tests.adapters.firestore.gateway import Gateway, gateway
from tests.conformance.backends.firestore_mapped import build
from tests.standins.firestore import Firestore as Standin

DOCS = StreamSpec("docs")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One event loop for all: a gateway is a gRPC server in this process, and outlives its loop by a moment."""
    for item in items:
        here = item.path.is_relative_to(Path(__file__).parent)
        if here and isinstance(item, pytest.Function) and asyncio.iscoroutinefunction(item.obj):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest.fixture(scope="module")
def emulator() -> Generator[Firestore, None, None]:
    server = Firestore()
    asyncio.run(start_or_skip(server))
    yield server
    asyncio.run(server.kill())
    asyncio.run(server.stop())


def _stream_on(adapter: Any, stack: AsyncExitStack) -> Stream[dict[str, Any]]:
    hub = Hub(adapter, DOCS)
    stack.push_async_callback(hub.close)
    return Stream(DOCS, adapter, hub, schema=compile_schema("stream 'docs'", None), max_value_bytes=1_000_000)


class Lab:
    """A gateway, and adapters and streams that reach the emulator through it."""

    docs = DOCS

    def __init__(self, stack: AsyncExitStack, gateway: Gateway, server: Firestore) -> None:
        self._stack = stack
        self.gateway = gateway
        self.server = server
        self.namespace = f"t{secrets.token_hex(6)}"

    async def connect(self, *, timeout: float = 5.0, retention: Retention | None = None, **options: Any) -> Any:
        """An open adapter. Its own looks are an hour apart: what it tells, its listener has told it."""
        settings = StorageSettings(
            "default", namespace=self.namespace, timeout=timeout, retention=retention or Retention()
        )
        options = {"project": "demo-motia", "emulator": f"127.0.0.1:{self.gateway.port}", "poll": 3_600.0, **options}
        adapter = FirestoreAdapter(settings, FirestoreOptions(**options))
        self._stack.push_async_callback(adapter.close)
        await adapter.open()
        await adapter.prepare(DOCS)
        return adapter

    async def stream(self, adapter: Any = None, **options: Any) -> Stream[dict[str, Any]]:
        """A stream with a hub of its own."""
        return _stream_on(adapter or await self.connect(**options), self._stack)


async def upkeep_done(docs: Stream[dict[str, Any]]) -> None:
    """Wait for the adapter's first look for expired items, which is billed: the next one is a minute away."""
    upkeep: Any = docs.hub.adapter._upkeep  # type: ignore[attr-defined]

    async def looked() -> bool:
        return any(seen.swept for seen in upkeep._seen.values())

    await eventually(looked, "the first look for expired items")


async def listening(docs: Stream[dict[str, Any]]) -> None:
    """Wait until the adapter's listener has heard all there was, which is billed: it may be later than a sync."""
    listener: Any = docs.hub.adapter._listener  # type: ignore[attr-defined]

    async def heard() -> bool:
        return bool(listener._targets) and all(target.current for target in listener._targets.values())

    await eventually(heard, "the listener to be up to date")


@pytest_asyncio.fixture(loop_scope="session")
async def lab(emulator: Firestore) -> AsyncGenerator[Lab, None]:
    async with AsyncExitStack() as stack:
        made = await stack.enter_async_context(gateway(emulator.url.removeprefix("http://")))
        yield Lab(stack, made, emulator)


@pytest.fixture(scope="module")
def standin(emulator: Firestore) -> Generator[Standin, None, None]:
    made = Standin(emulator.url.removeprefix("http://"))
    made.start()
    yield made
    made.stop()


class Till:
    """Mapped streams behind the stand-in, and what they cost; their looks are an hour apart."""

    def __init__(self, standin: Standin, stack: AsyncExitStack) -> None:
        self.standin = standin
        self._stack = stack
        self._before: Counter[str] = Counter()
        self._namespace = f"t{secrets.token_hex(6)}"

    async def stream(self, *, poll: float = 3_600.0, timeout: float = 10.0) -> Stream[dict[str, Any]]:
        """One in a process of its own."""
        options = FirestoreOptions(
            project="demo-motia",
            emulator=f"127.0.0.1:{self.standin.port}",
            poll=poll,
            mapped=MappedOptions(path=f"{self._namespace}/{{group}}/documents/{{id}}"),
        )
        adapter = build(StorageSettings("default", namespace=self._namespace, timeout=timeout), options)
        self._stack.push_async_callback(adapter.close)
        await adapter.open()
        await adapter.prepare(DOCS)
        return _stream_on(adapter, self._stack)

    def since(self) -> tuple[int, int, int]:
        """Reads, writes and deletes since the last look."""
        now = Counter(self.standin.billed)
        new = now - self._before
        self._before = now
        return new["reads"], new["writes"], new["deletes"]


@pytest_asyncio.fixture(loop_scope="session")
async def till(standin: Standin) -> AsyncGenerator[Till, None]:
    async with AsyncExitStack() as stack:
        yield Till(standin, stack)
        standin.refuse, standin.memory = None, 3_600.0
