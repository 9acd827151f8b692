"""What a backend's author fills in, so that the suite can prove the backend.

A `Harness` makes adapters of one store, and does to the store what happens to stores:
restarts, wipes, trimmed histories, commits that are held open. Powers that a harness
lacks raise `Cannot`, and the tests that need them are skipped with that reason.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from typing import Any

from motia_core.adapter import Adapter, Retention, StorageSettings
from motia_core.adapter_checks import check_adapter_class
from motia_core.hub import Hub
from motia_core.model import Change, StreamSpec
from motia_core.schema import compile_schema
from motia_core.streams import Stream

DEADLINE = float(os.environ.get("MOTIA_TEST_DEADLINE", "30"))
"""Seconds after which a test that waits for a condition has failed (``MOTIA_TEST_DEADLINE``)."""


class Cannot(Exception):
    """The harness has no way to do this; the message says why."""


@dataclass(frozen=True, slots=True)
class ExpectedFailure:
    """A test of the suite that a backend is known to fail, stated by the backend's author.

    ``test`` is the test's name, with its parameter if it has one:
    ``"test_A6_pages_by_the_bytes_of_ids"``, ``"test_A9_bad_ids_are_refused[x]"``.
    """

    test: str
    reason: str
    raises: type[BaseException] | tuple[type[BaseException], ...] = AssertionError
    """What it fails with; anything else is a failure that nobody expected."""


class Harness(ABC):
    """One store for one test. Fill in `make`, and as many powers as the store has."""

    name = "backend"
    """Begins the ids of the tests."""

    expected_failures: Sequence[ExpectedFailure] = ()
    """What the backend is known not to keep. One that passes after all is an error too."""

    @abstractmethod
    def make(self, settings: StorageSettings) -> Adapter:
        """A new adapter on the store, not open: each plays another process."""

    def maker(self, settings: StorageSettings) -> Callable[[StorageSettings], Adapter]:
        """What makes an adapter on the store in *another process*: it must survive pickling."""
        raise Cannot("no other process can reach this store")

    async def start(self) -> None:  # noqa: B027 (most need nothing)
        """Make the store ready."""

    async def stop(self) -> None:  # noqa: B027
        """Take it away again."""

    async def restart(self) -> None:
        """Stop the store and start it again, with what it keeps; adapters may be open."""
        raise Cannot("this store cannot be restarted by its harness")

    async def wipe(self) -> None:
        """Empty the store behind the adapters' backs: a new history begins."""
        raise Cannot("this store cannot be wiped by its harness")

    async def backup(self) -> Any:
        """Copy the store as it is; `restore` gets what this returns. No adapter is open."""
        raise Cannot("this store cannot be copied by its harness")

    async def restore(self, backup: Any) -> None:
        """Put an earlier copy back. No adapter is open."""
        raise Cannot("this store cannot be restored by its harness")

    async def lose_reply(self) -> None:
        """Let the next write happen and its reply be lost on the way, as a broken connection does."""
        raise Cannot("no reply of this store can be lost")

    async def cut(self) -> None:
        """Break every connection that an adapter has to the store, without a word; new ones can be made."""
        raise Cannot("connections to this store cannot be broken by its harness")

    def away(self) -> AbstractAsyncContextManager[None]:
        """Take the store away, as a server that is down or does not answer, until the block ends; it keeps its data."""
        raise Cannot("this store cannot be taken away by its harness")

    def hold(self, settings: StorageSettings, stream: StreamSpec) -> AbstractAsyncContextManager[None]:
        """Keep a write open that has begun and not committed, until the block ends; then it commits."""
        raise Cannot("nothing can hold a write of this store open")

    async def set_out_of_band(
        self, settings: StorageSettings, stream: StreamSpec, group: str, id: str, value: Any
    ) -> None:
        """Create or replace an item as another program would, past the adapter (B5)."""
        raise Cannot("nothing but the adapter writes to this store")

    async def delete_out_of_band(self, settings: StorageSettings, stream: StreamSpec, group: str, id: str) -> None:
        """Remove an item as another program would, past the adapter (B5)."""
        raise Cannot("nothing but the adapter writes to this store")

    async def move_out_of_band(
        self, settings: StorageSettings, stream: StreamSpec, group: str, id: str, to: str
    ) -> None:
        """Give an item another group, in one write of another program (B5)."""
        raise Cannot("items of this store cannot change their group")


class World:
    """What a test gets: adapters, streams and other "processes" on the harness's store.

    Each world has a namespace of its own, so that tests may share a server.
    """

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.namespace = f"t{secrets.token_hex(6)}"
        self._adapters: list[Adapter] = []
        self._hubs: list[Hub] = []

    def settings(self, *, retention: Retention | None = None, namespace: str | None = None) -> StorageSettings:
        """Settings for an adapter of this world."""
        return StorageSettings(
            "default",
            namespace=namespace or self.namespace,
            timeout=5.0,
            retention=retention or Retention(),
        )

    async def adapter(self, *, retention: Retention | None = None, namespace: str | None = None) -> Adapter:
        """An open adapter, as a process of its own would have. Raises `PluginError` if it is none."""
        adapter = self.harness.make(self.settings(retention=retention, namespace=namespace))
        check_adapter_class(type(adapter))
        await adapter.open()
        self._adapters.append(adapter)
        return adapter

    async def stream(
        self,
        name: str = "documents",
        *,
        adapter: Adapter | None = None,
        schema: Any = None,
        max_value_bytes: int = 1_000_000,
        wrap: Callable[[Adapter], Adapter] | None = None,
        **hub_options: Any,
    ) -> Stream[dict[str, Any]]:
        """A stream with a hub of its own, on a new adapter unless one is given."""
        adapter = adapter or await self.adapter()
        if wrap:
            adapter = wrap(adapter)
        spec = StreamSpec(name)
        await adapter.prepare(spec)
        hub = Hub(adapter, spec, **hub_options)
        self._hubs.append(hub)
        return Stream(
            spec, adapter, hub, schema=compile_schema(f"stream {name!r}", schema), max_value_bytes=max_value_bytes
        )

    async def close(self, adapter: Adapter) -> None:
        """Close one adapter, as at the end of its process."""
        await asyncio.gather(*(hub.close() for hub in self._hubs if hub.adapter is adapter))
        await adapter.close()
        if adapter in self._adapters:
            self._adapters.remove(adapter)

    async def end(self) -> None:
        """Close everything."""
        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(*(hub.close() for hub in self._hubs))
            await asyncio.gather(*(adapter.close() for adapter in self._adapters))
        self._adapters.clear()
        self._hubs.clear()


async def read_log(adapter: Adapter, stream: StreamSpec, after: str, *, until: str | None = None) -> list[Change]:
    """All changes after a position, up to ``until`` (or to the head as it is now)."""
    end = until or await adapter.head(stream)
    changes: list[Change] = []
    async with asyncio.timeout(DEADLINE), aclosing(adapter.watch(stream, after)) as batches:
        async for batch in batches:
            changes += batch.changes
            if batch.position >= end:
                break
    return [change for change in changes if change.position <= end]


class Reader:
    """Reads an asynchronous generator in the background, so that a test can wait for what it wants."""

    def __init__(self, source: Any) -> None:
        self.seen: list[Any] = []
        self._source = source
        self._news = asyncio.Condition()
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async with aclosing(self._source) as source:
                async for entry in source:
                    async with self._news:
                        self.seen.append(entry)
                        self._news.notify_all()
        finally:
            async with self._news:
                self._news.notify_all()

    async def until(self, done: Callable[[list[Any]], bool]) -> list[Any]:
        """Wait until ``done(seen)``; the reader's own error is raised, a late answer fails."""
        try:
            async with asyncio.timeout(DEADLINE), self._news:
                while not done(self.seen):
                    if self._task.done():
                        self._task.result()
                        raise AssertionError(f"the subscription ended after {self.seen}")
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"waited {DEADLINE} s in vain; seen: {self.seen[-20:]}") from None
        return self.seen

    async def count(self, number: int) -> list[Any]:
        """Wait until at least ``number`` entries have come."""
        return await self.until(lambda seen: len(seen) >= number)

    async def stop(self) -> None:
        """End the subscription."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def eventually(check: Callable[[], Coroutine[Any, Any, bool]], what: str) -> None:
    """Wait until ``check`` is true; fail with ``what`` after the deadline."""
    try:
        async with asyncio.timeout(DEADLINE):
            while not await check():  # noqa: ASYNC110 (what is awaited is outside this process)
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"waited {DEADLINE} s in vain for: {what}") from None


def ends_at(position: str) -> Callable[[list[Any]], bool]:
    """At a write's position; where states are told a subscriber's goes on with its hub's mark."""
    return lambda seen: bool(seen) and seen[-1].position.startswith(position)
