"""The world of a simulation: one store behind a network that loses replies, and processes that die or freeze."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

from motia_core.adapter import Adapter, Capabilities, Retention, StorageSettings
from motia_core.errors import BackendUnavailable, MotiaError, OutcomeUnknown
from motia_core.memory import MemoryAdapter, MemoryStore
from motia_core.model import Batch, Item, Snapshot, StreamSpec, Write, WriteResult
from motia_core.triggers import Runner

from .loop import HOST, Host, VirtualLoop

Fault = Literal["kill", "pause", "lost request", "lost reply", "late"]
FAULTS: tuple[Fault, ...] = ("kill", "pause", "lost request", "lost reply", "late")

LEASE = 5.0


@dataclass(slots=True)
class Plan:
    """Which faults come, and how slow the network is."""

    at: dict[int, Fault] = field(default_factory=dict)
    """By the number of the gate: every await of an adapter call has one before and one after."""
    chance: float = 0.0
    most: int = 0
    until: float = 40.0
    """Seconds into the run, after which nothing more breaks."""
    latency: float = 0.02
    jitter: float = 0.0


class Process:
    """One operating system process with a runner in it."""

    def __init__(self, world: World, host: Host, rate: float, offset: float) -> None:
        self.world = world
        self.host = host
        self.rate = rate
        self.offset = offset
        self.hurt = False
        """Paused or cut off at some time: what it ran then may overlap with others' runs."""
        self.adapter = ProcessAdapter(self)
        self.runner: Runner | None = None
        self.stopped = False

    # its clock

    def monotonic(self) -> float:
        return self.offset + self.world.loop.time() * self.rate

    def time(self) -> float:
        return 1.7e9 + self.offset * 1000 + self.world.loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self.rate)

    # its fate

    def kill(self) -> None:
        self.host.dead = True
        self.world.died(self)

    def pause(self, seconds: float) -> None:
        self.hurt = True
        self.host.paused = True
        self.world.loop.call_later(seconds, self._go_on, context=self.world.context)

    def _go_on(self) -> None:
        self.host.paused = False


class World:
    """The store, the network, and everything that lives."""

    def __init__(self, loop: VirtualLoop, rng: Random, plan: Plan, retention: int | None = None) -> None:
        self.loop = loop
        self.rng = rng
        self.plan = plan
        self.began = loop.time()
        self.context = copy_context()
        self.context.run(HOST.set, loop.world)
        self.store = MemoryStore(clock=lambda: 1.8e9 + loop.time())
        self.store.identity = "s"
        self.server = MemoryAdapter(StorageSettings("default", retention=Retention(count=retention)), self.store)
        self.processes: list[Process] = []
        self.gates = 0
        self.faults: list[tuple[int, Fault, str]] = []
        self.landed: Callable[[Process, StreamSpec, Sequence[Write]], None] = lambda process, stream, writes: None
        """Called before a write of a process takes effect: raises when it must not."""
        self.died: Callable[[Process], None] = lambda process: None
        self.watched: Process | None = None
        """Only this one's awaits are gates; ``None``: everybody's."""

    def process(self) -> Process:
        rate = self.rng.uniform(0.8, 1.25) if self.plan.jitter else 1.0
        process = Process(self, self.loop.host(f"p{len(self.processes)}"), rate, self.rng.uniform(0, 1000))
        self.processes.append(process)
        return process

    def on_server(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Something that no process's death stops."""
        return asyncio.Task(work, loop=self.loop, context=self.context.copy())

    async def travel(self) -> None:
        jitter = self.plan.jitter
        slow = jitter and self.rng.random() < 0.05
        await asyncio.sleep(self.plan.latency + (self.rng.random() * jitter * (20 if slow else 1) if jitter else 0))

    def fault(self, process: Process, what: str) -> Fault | None:
        """What breaks at this gate."""
        if self.watched is not None and process is not self.watched:
            return None
        self.gates += 1
        fault = self.plan.at.get(self.gates)
        may_break = self.loop.time() - self.began < self.plan.until and len(self.faults) < self.plan.most
        if fault is None and may_break and self.rng.random() < self.plan.chance:
            fault = self.rng.choice(FAULTS)
        if fault is not None:
            self.faults.append((self.gates, fault, f"{process.host.name} {what}"))
        return fault


class ProcessAdapter(Adapter):
    """A process's way to the store: every call passes a gate on its way out and on its way back."""

    def __init__(self, process: Process) -> None:
        super().__init__(process.world.server.settings)
        self._process = process
        self._world = process.world
        self._server = process.world.server

    @property
    def address(self) -> str:
        return "simulated"

    def capabilities(self, stream: StreamSpec) -> Capabilities:
        return self._server.capabilities(stream)

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def write(self, stream: StreamSpec, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        process, world = self._process, self._world
        fault = await self._gate("write", lossy=True)
        if fault in ("lost request", "lost reply", "late"):
            process.hurt = True
        delay = 0.0
        if fault == "lost request":
            await world.travel()
            raise OutcomeUnknown("the request was lost")
        if fault == "late":
            delay = world.rng.choice([0.1, 1.0, 6.0, 15.0]) * world.rng.random()

        async def land() -> Sequence[WriteResult | None]:
            await world.travel()
            await asyncio.sleep(delay)
            return await self._apply(stream, writes)

        request = world.on_server(land())
        if fault == "late":
            request.add_done_callback(_heard, context=world.context)
            raise OutcomeUnknown("the reply was lost, and the request is still on its way")
        request.add_done_callback(_heard, context=world.context)
        results: Sequence[WriteResult | None] = await asyncio.shield(request)
        if fault == "lost reply":
            raise OutcomeUnknown("the reply was lost")
        await self._gate("written")
        return results

    async def _apply(self, stream: StreamSpec, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        """On the server: one atomic step, seen by the checks."""
        for write in writes:
            state = self._world.store.stream(self.settings.namespace, stream.name)
            row = state.groups.get(write.group, {}).get(write.id or "")
            write.check(row.version if row else None)
        self._world.landed(self._process, stream, writes)
        work = self._server.write(stream, writes)
        # No turn for others between the checks and the effect.
        work.send(None)
        try:
            work.send(None)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        raise AssertionError("a write to memory takes one turn")

    async def _read(self, what: str, call: Callable[[], Awaitable[Any]]) -> Any:
        world = self._world
        fault = await self._gate(what)
        if fault is not None:
            self._process.hurt = True
            await world.travel()
            raise BackendUnavailable("the connection was lost")

        async def answer() -> Any:
            await world.travel()
            result = await call()
            await world.travel()
            return result

        result = await world.on_server(answer())
        await self._gate(f"{what} answered")
        return result

    async def _gate(self, what: str, *, lossy: bool = False) -> Fault | None:
        fault = self._world.fault(self._process, what)
        if fault == "kill":
            self._process.kill()
            await asyncio.sleep(0)  # and never again
        elif fault == "pause":
            self._process.pause(LEASE * self._world.rng.uniform(0.5, 3.0))
            await asyncio.sleep(0)
        else:
            return fault
        return None

    async def get(self, stream: StreamSpec, group: str, id: str) -> Item | None:
        return await self._read("get", lambda: self._server.get(stream, group, id))  # type: ignore[no-any-return]

    async def list(self, stream: StreamSpec, group: str, *, after: str | None, limit: int | None) -> Sequence[Item]:
        return await self._read("list", lambda: self._server.list(stream, group, after=after, limit=limit))  # type: ignore[no-any-return]

    async def list_groups(self, stream: StreamSpec, *, after: str | None, limit: int | None) -> Sequence[str]:
        return await self._read("groups", lambda: self._server.list_groups(stream, after=after, limit=limit))  # type: ignore[no-any-return]

    async def snapshot(self, stream: StreamSpec, group: str, id: str | None, *, limit: int | None) -> Snapshot:
        return await self._read("snapshot", lambda: self._server.snapshot(stream, group, id, limit=limit))  # type: ignore[no-any-return]

    async def head(self, stream: StreamSpec) -> str:
        return await self._read("head", lambda: self._server.head(stream))  # type: ignore[no-any-return]

    async def floor(self, stream: StreamSpec) -> str:
        return await self._read("floor", lambda: self._server.floor(stream))  # type: ignore[no-any-return]

    async def watch(self, stream: StreamSpec, after: str) -> AsyncGenerator[Batch, None]:
        async for batch in self._server.watch(stream, after):
            await asyncio.sleep(self._world.plan.latency)
            if await self._gate("watch") is not None:
                self._process.hurt = True
                raise BackendUnavailable("the watch was cut")
            yield batch


def _heard(request: asyncio.Task[Any]) -> None:
    """Nobody may be left to hear of its error."""
    if not request.cancelled():
        request.exception()


class Violated(AssertionError):
    """A promise was broken."""


__all__ = ["FAULTS", "Fault", "MotiaError", "Plan", "Process", "Violated", "World"]
