"""`Motia`: puts the rooms together, opens them and closes them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from motia_core.access import Access, Authenticate
from motia_core.adapter import Adapter
from motia_core.config import Settings
from motia_core.definitions import AuthContext, StreamConfig
from motia_core.errors import ConfigError
from motia_core.hub import Hub
from motia_core.model import Change, StreamSpec, Write
from motia_core.plugins import Plugins
from motia_core.schema import Check, compile_schema
from motia_core.states import STATE, State
from motia_core.steps import Context, Step, Streams, TriggerInfo
from motia_core.steps.context import new_trace
from motia_core.steps.enqueueing import Enqueuer
from motia_core.steps.running import DurableSteps
from motia_core.steps.web import HttpSteps
from motia_core.streams import BeforeWrite, Stream
from motia_core.triggers import CRON, QUEUE, Queue

log = logging.getLogger("motia")

LAST_CHANGES = 5.0
"""Seconds at the end in which observers of changes may take what has come."""
LAST_HOOKS = 1.0
"""Seconds for the hooks that a shutdown itself causes."""


class Connection(Protocol):
    """A connected client, as far as `Motia.revoke` knows it."""

    @property
    def auth_context(self) -> AuthContext:
        """Who it is."""

    async def revoke(self) -> None:
        """End its admission: nothing more is sent to it."""

    def shut_down(self) -> None:
        """Say that the server goes down, and close."""


class Motia:
    """A project: its streams and steps on their storages.

    >>> async with Motia(streams=[documents], storage={"default": "sqlite:///app.db"}) as motia:
    ...     await motia.streams["documents"].set("workspace-1", "doc-123", {"title": "Proposal"})

    ``storage`` maps storage types to URLs or mappings; without it everything lives in
    SQLite under ``data/``. What does not fit together raises `ConfigError` here, before
    anything is opened; entering it raises `BackendUnavailable` if a storage is down.
    """

    def __init__(
        self,
        *,
        streams: Iterable[StreamConfig] = (),
        steps: Iterable[Step] = (),
        storage: Mapping[str, str | Mapping[str, Any]] | None = None,
        authenticate: Authenticate | None = None,
        plugins: Iterable[object] | Plugins = (),
        settings: Settings | None = None,
        run_triggers: bool = True,
    ) -> None:
        if settings is not None and storage is not None:
            raise ConfigError("give Motia either storage= or settings=, not both")
        if settings is not None and not isinstance(settings, Settings):
            raise ConfigError(f"settings must be made by Settings.build() or load(), not {type(settings).__name__}")
        self.plugins = plugins if isinstance(plugins, Plugins) else Plugins.load(extra=plugins)
        self.settings = settings or Settings.build(storage=storage, plugins=self.plugins)
        self.run_triggers = run_triggers
        self.stream_configs = _by_name(streams)
        self.steps = tuple(steps)
        _check_steps(self.steps)
        self._schemas: dict[str, Check | None] = {}
        for name, config in self.stream_configs.items():
            self.settings.storage_for(name, config.storage_type)
            self._schemas[name] = compile_schema(f"stream {name!r}", config.schema)
        self.settings.room("state")
        self.http_steps = HttpSteps(self.steps, self.context)
        self.homes = {name: config.storage_type for name, config in self.stream_configs.items()}
        """The storage type of each stream, and of ``$state``, ``$queue`` and ``$cron``."""
        self.homes[STATE.name] = self.settings.state.storage
        self.homes[QUEUE.name] = self.settings.queue.storage
        self.homes[CRON.name] = self.settings.cron.storage
        self.enqueuer = Enqueuer(self.steps)
        if self.enqueuer.is_used:
            self.settings.room("queue")
        self.durable_steps = DurableSteps(self.steps, self.homes, self._durable_context, self.plugins)
        self.access = Access(
            self.stream_configs,
            authenticate=authenticate,
            plugins=self.plugins,
            make_context=lambda: self.context("join", TriggerInfo("join")),
            auth_timeout=self.settings.server.auth_timeout,
            join_timeout=self.settings.server.join_timeout,
        )
        self.storages: dict[str, Adapter] = {}
        self.hubs: dict[str, Hub] = {}
        self.connections: set[Connection] = set()
        self._streams: Streams | None = None
        self._state: State | None = None
        self._exit = AsyncExitStack()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._entered = False

    @classmethod
    def from_project(cls, path: str | Path = ".", *, run_triggers: bool = True) -> Motia:
        """The project in a folder: its ``motia.toml``, streams, steps and ``auth.py``."""
        from motia_core.discovery import find  # projects only: a library needs no files

        project = find(path)
        plugins = Plugins.load()
        return cls(
            streams=project.streams,
            steps=project.steps,
            authenticate=project.authenticate,
            plugins=plugins,
            settings=Settings.load(project.path, plugins=plugins),
            run_triggers=run_triggers,
        )

    @property
    def is_open(self) -> bool:
        """Whether it has been entered and not left."""
        return self._streams is not None and not self._stopping

    @property
    def streams(self) -> Streams:
        """The project's streams, by name. Raises ``RuntimeError`` unless it is open."""
        if self._streams is None:
            raise RuntimeError("Motia is not open: use it inside 'async with'")
        return self._streams

    @property
    def state(self) -> State:
        """Key-value state. Raises ``RuntimeError`` unless it is open."""
        if self._state is None:
            raise RuntimeError("Motia is not open: use it inside 'async with'")
        return self._state

    def context(self, name: str, trigger: TriggerInfo) -> Context:
        """The ``ctx`` for one run of a step or hook."""
        return Context(self.streams, self.state, trigger, new_trace(), name, self.enqueuer)

    def _durable_context(self, step: Step, trigger: TriggerInfo, origin: tuple[str, str] | None) -> Context:
        return Context(self.streams, self.state, trigger, new_trace(), step.name, self.enqueuer, origin)

    async def enqueue(self, message: Mapping[str, Any]) -> str:
        """Put a message on a topic, as ``ctx.enqueue`` does in a step."""
        return await self.enqueuer.put(message)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something that may outlive its connection: leaving waits for it (``shutdown_timeout`` at most)."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def revoke(self, predicate: Callable[[AuthContext], bool]) -> int:
        """End the admission of this process's clients whose auth context fits; returns how many.

        A predicate that raises counts as a yes: access ends rather than goes on.
        """
        ended = [connection for connection in list(self.connections) if _applies(predicate, connection)]
        await asyncio.gather(*(connection.revoke() for connection in ended))
        return len(ended)

    async def __aenter__(self) -> Self:
        if self._entered:
            raise RuntimeError("Motia is open already: enter it once, and again only after it was left")
        self._entered = True
        try:
            async with AsyncExitStack() as stack:
                await self._open(stack)
                self._exit = stack.pop_all()
        except BaseException:
            self._forget()  # a later attempt opens everything anew
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        try:
            await self._finish()
        finally:
            self._stopping = False
            self._streams = self._state = None
            try:
                await self._exit.aclose()
            finally:
                self._forget()

    def _forget(self) -> None:
        """Nothing is open any more."""
        self.storages.clear()
        self.hubs.clear()
        self._entered = False

    async def _finish(self) -> None:
        """Tell the clients that are left, then wait for what they leave behind: ``on_leave`` needs the storages."""
        for connection in list(self.connections):
            connection.shut_down()
        await self.durable_steps.stop()
        loop = asyncio.get_running_loop()
        until = loop.time() + self.settings.server.shutdown_timeout
        while self._tasks and loop.time() < until:
            await asyncio.wait(self._tasks, timeout=until - loop.time())
        if late := list(self._tasks):
            log.warning("%d hooks or joins took longer than the shutdown may and are cancelled", len(late))
            for task in late:
                task.cancel()
            await asyncio.wait(late)
            if self._tasks:  # an admission that was cut short has an ``on_leave``
                await asyncio.wait(self._tasks, timeout=LAST_HOOKS)

    async def _open(self, stack: AsyncExitStack) -> None:
        before_write = self._before_write()
        observer = _Observer(self.plugins) if self.plugins.implements("motia_on_change") else None
        if observer:
            stack.push_async_callback(observer.close)
        streams: dict[str, Stream[dict[str, Any]]] = {}
        for name, config in self.stream_configs.items():
            adapter = await self._storage(config.storage_type, stack)
            streams[name] = await self._stream(StreamSpec(name), adapter, config.storage_type, before_write, observer)
            stack.push_async_callback(self.hubs[name].close)
            if observer:
                await self.hubs[name].start()
        self.settings.room("state")
        home = self.settings.state.storage
        state = await self._stream(STATE, await self._storage(home, stack), home, None, None)
        stack.push_async_callback(self.hubs[STATE.name].close)
        self._streams, self._state = Streams(streams), State(state)
        if self.enqueuer.is_used:
            home = self.settings.queue.storage
            queue = await self._storage(home, stack)
            await queue.prepare(QUEUE)
            self.enqueuer.queue = Queue(queue, max_value_bytes=self.settings.storage[home].max_value_bytes)
        if self.run_triggers:
            for remark in self.enqueuer.remarks:
                log.warning("%s", remark)
            for home in self.durable_steps.triggers:
                await self._storage(home, stack)
            stack.push_async_callback(self.durable_steps.stop)
            await self.durable_steps.start(self.storages)

    async def _storage(self, storage_type: str, stack: AsyncExitStack) -> Adapter:
        if storage_type not in self.storages:
            adapter = self.settings.storage[storage_type].build()
            stack.push_async_callback(adapter.close)
            await adapter.open()
            self.storages[storage_type] = adapter
        return self.storages[storage_type]

    async def _stream(
        self,
        spec: StreamSpec,
        adapter: Adapter,
        storage_type: str,
        before_write: BeforeWrite | None,
        observer: _Observer | None,
    ) -> Stream[dict[str, Any]]:
        await adapter.prepare(spec)
        limits = self.settings.server
        entry = self.settings.storage[storage_type]
        capabilities = entry.capabilities(adapter, spec)
        hub = self.hubs[spec.name] = Hub(
            adapter,
            spec,
            max_sync_items=limits.max_sync_items,
            max_sync_bytes=limits.max_sync_bytes,
            observe=observer.push if observer else None,
        )
        return Stream(
            spec,
            adapter,
            hub,
            schema=self._schemas.get(spec.name),
            max_value_bytes=min(entry.max_value_bytes, capabilities.max_value_bytes),
            before_write=before_write,
        )

    def _before_write(self) -> BeforeWrite | None:
        if not self.plugins.implements("motia_before_write"):
            return None

        async def ask(stream: str, write: Write) -> None:
            # A copy: what was validated is what is written.
            await self.plugins.call("motia_before_write", stream=stream, write=replace(write))

        return ask


class _Observer:
    """Feeds ``motia_on_change`` without holding up the hub; bounded, and says when it drops."""

    LIMIT = 10_000

    def __init__(self, plugins: Plugins) -> None:
        self._plugins = plugins
        self._queue: deque[Change] = deque()
        self._bell = asyncio.Event()
        self._closing = False
        self._task = asyncio.create_task(self._run(), name="motia-observers")

    def push(self, change: Change) -> None:
        if len(self._queue) >= self.LIMIT:
            log.error("observers of motia_on_change are too slow: %d changes dropped", len(self._queue))
            self._queue.clear()
        self._queue.append(change)
        self._bell.set()

    async def close(self) -> None:
        """Hand out what has come, for some seconds at most."""
        self._closing = True
        self._bell.set()
        await asyncio.wait([self._task], timeout=LAST_CHANGES)
        if not self._task.done():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            log.error("observers of motia_on_change are too slow: %d changes dropped at the end", len(self._queue) + 1)

    async def _run(self) -> None:
        while self._queue or not self._closing:
            await self._bell.wait()
            self._bell.clear()
            while self._queue:
                await self._plugins.notify("motia_on_change", change=self._queue.popleft())


def _by_name(streams: Iterable[StreamConfig]) -> dict[str, StreamConfig]:
    named: dict[str, StreamConfig] = {}
    if not isinstance(streams, Iterable):
        raise ConfigError(f"streams must be a list of StreamConfig objects, not {type(streams).__name__}")
    for config in streams:
        if not isinstance(config, StreamConfig):
            raise ConfigError(f"streams must be StreamConfig objects, not {type(config).__name__}")
        if config.name in named:
            raise ConfigError(f"two streams are called {config.name!r}")
        named[config.name] = config
    return named


def _check_steps(steps: tuple[Step, ...]) -> None:
    names: dict[str, Step] = {}
    for step in steps:
        if not isinstance(step, Step):
            raise ConfigError(f"steps must be made by step(), not {type(step).__name__}")
        if step.handler is None:
            raise ConfigError(f"step {step.name!r} has no handler")
        if step.name in names:
            raise ConfigError(f"two steps are called {step.name!r}: {names[step.name].where} and {step.where}")
        names[step.name] = step
    for step in steps:
        if step.previous in names:
            raise ConfigError(
                f"{step.where}: its 'previous' name {step.previous!r} is that of {names[step.previous].where}"
            )


def _applies(predicate: Callable[[AuthContext], bool], connection: Connection) -> bool:
    try:
        return bool(predicate(connection.auth_context))
    except Exception:
        log.exception("revoke: the predicate failed; the client's access ends")
        return True
