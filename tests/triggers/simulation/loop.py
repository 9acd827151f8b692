"""An event loop with virtual time, in which several processes live: each can be frozen, or die.

Which process a callback belongs to is told by its context. Within a process callbacks
run in order, as asyncio promises; which process is next is drawn from a seed.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import Any


class Host:
    """What callbacks belong to: a process, or (the first) the world around them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready: deque[Handle] = deque()
        self.dead = False
        self.paused = False


HOST: ContextVar[Host] = ContextVar("host")


class Handle:
    """A callback that was asked for."""

    __slots__ = ("_cancelled", "_when", "args", "callback", "context")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None) -> None:
        self.callback = callback
        self.args = args
        self.context = context if context is not None else copy_context()
        self._cancelled = False
        self._when = 0.0

    def cancel(self) -> None:
        self._cancelled = True

    def cancelled(self) -> bool:
        return self._cancelled

    def when(self) -> float:
        return self._when


class VirtualLoop(asyncio.AbstractEventLoop):
    """Runs until one coroutine is done. Time passes only when nobody has anything to do."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.now = 1_000.0
        self.world = Host("world")
        self.hosts: list[Host] = [self.world]
        self.errors: list[dict[str, Any]] = []
        self._timers: list[tuple[float, int, Handle]] = []
        self._numbers = count()
        self._closed = False
        self._generators: list[Any] = []

    def host(self, name: str) -> Host:
        """A new process."""
        host = Host(name)
        self.hosts.append(host)
        return host

    def start_on(self, host: Host, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine as part of a process."""
        context = copy_context()
        context.run(HOST.set, host)
        return asyncio.Task(work, loop=self, context=context)

    # -- what asyncio asks ------------------------------------------------------------

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> Any:  # type: ignore[override]
        handle = Handle(callback, args, context)
        handle.context.get(HOST, self.world).ready.append(handle)
        return handle

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> Any:  # type: ignore[override]
        handle = Handle(callback, args, context)
        handle._when = when
        heappush(self._timers, (when, next(self._numbers), handle))
        return handle

    def call_later(self, delay: float, callback: Any, *args: Any, context: Context | None = None) -> Any:  # type: ignore[override]
        return self.call_at(self.now + delay, callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self, name=name, context=context)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return self._closed

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.errors.append(context)

    def run_until_complete(self, future: Any) -> Any:
        task = self.start_on(self.world, future)
        asyncio._set_running_loop(self)
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(finalizer=lambda generator: None)
        try:
            while not task.done():
                if not self._step():
                    raise RuntimeError("nobody has anything left to do: a deadlock")
        finally:
            sys.set_asyncgen_hooks(*hooks)
            asyncio._set_running_loop(None)
        return task.result()

    def close(self) -> None:
        self._closed = True
        self._timers.clear()

    def _step(self) -> bool:
        hosts = [host for host in self.hosts if host.ready and not host.paused and not host.dead]
        if not hosts:
            if not self._timers:
                return False
            when, _, handle = heappop(self._timers)
            self.now = max(self.now, when)
            if not handle._cancelled:
                handle.context.get(HOST, self.world).ready.append(handle)
            return True
        host = hosts[0] if len(hosts) == 1 else self.rng.choice(hosts)
        handle = host.ready.popleft()
        if not handle._cancelled:
            handle.context.run(handle.callback, *handle.args)
        return True
