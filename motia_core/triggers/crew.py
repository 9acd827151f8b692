"""Runs one trigger's handlers in this process: who starts when, how long it may take, when it tries again."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from contextvars import Context, copy_context
from inspect import isawaitable
from random import Random
from types import CoroutineType
from typing import Any

from motia_core.triggers.clock import Alarm, Clock
from motia_core.triggers.definition import OrderKey, Report, RunInfo, Trigger, described
from motia_core.triggers.entries import Entry, State
from motia_core.triggers.partition import Partition
from motia_core.triggers.turn import Turn

log = logging.getLogger("motia.triggers")

SLICE = 64
"""Handlers that may end without awaiting before the event loop gets its turn."""

STUCK_AFTER = 10.0
"""Seconds after its cancellation at which a handler that still runs is reported, and again each minute."""


class Crew:
    """The workers of one trigger. A worker is a task that runs one handler after the other."""

    def __init__(
        self,
        trigger: Trigger,
        *,
        clock: Clock,
        alarm: Alarm,
        rng: Random,
        fresh: Callable[[], bool],
        turn: Turn,
        hurry: Callable[[], None],
        report: Callable[[Report], None],
    ) -> None:
        self.trigger = trigger
        self.uid = ""
        self.count = 0
        """Partitions of the trigger, as the store has it."""
        self.target: int | None = None
        """The number that it is being changed to."""
        self.retired = False
        """Its trigger was renamed or dropped by another process: nothing of it is run here any more."""
        self.parts: dict[int, Partition] = {}
        self.ready: deque[Entry] = deque()
        self.unsaved = 0
        self.finished = 0
        self.last_error: str | None = None
        self.max_attempts = trigger.attempts
        self.window = trigger.window
        self.order_key = trigger.order_key
        self.topic = trigger.topic
        self.turn = turn
        self.hurry = hurry
        self.eased: Callable[[], None] = _nothing
        """Called when entries have been taken off `ready`."""
        self.covered: list[str] = []
        """Of a queue: messages that the store knows to be settled, and that may still be there."""
        self._clock = clock
        self._alarm = alarm
        self._rng = rng
        self._fresh = fresh
        self._report = report
        self._workers: dict[asyncio.Task[None], None] = {}
        self._spare: _Worker | None = None
        self._waiting: dict[_Worker, float] = {}
        """Workers whose handler has not ended, with its deadline; the oldest first."""
        self._armed = False
        self._lingering: dict[OrderKey, tuple[_Worker, list[Entry]]] = {}
        """Keys whose handler runs on for a partition that was taken away."""
        self._closed = False

    # -- what its partitions ask ------------------------------------------------------

    def pump(self) -> None:
        """Start a worker if there is work, and nobody else is about to take it."""
        if self._spare is None and self.ready and len(self._waiting) < self.trigger.concurrency and self._may_start():
            worker = self._spare = _Worker(self)
            task = worker.task = asyncio.create_task(worker.work(), name=f"motia-trigger-{self.trigger.name}")
            self._workers[task] = None
            task.add_done_callback(self._workers.pop)

    def saved(self) -> None:
        """A flush was acknowledged: there is room again."""
        self.pump()
        self.eased()

    def buried(self, entry: Entry) -> None:
        """Its dead letter is stored: somebody should know."""
        message = (
            f"{described(entry.change)} is given up after {entry.attempts} attempts, as a dead letter: {entry.error}"
        )
        self._report(Report("dead", message, self.trigger.name, {"position": entry.position}))

    def cover(self, messages: list[str]) -> None:
        """The store knows that these messages are settled."""
        if self.topic is not None:
            self.covered += messages

    def retry(self, entry: Entry) -> None:
        """Full jitter: anything up to a bound that doubles (rule 14)."""
        trigger = self.trigger
        bound = min(trigger.backoff_cap, trigger.backoff * 2.0 ** (min(entry.attempts, 60) - 1))

        def due() -> None:
            partition = entry.partition
            if entry.state == State.WAITING and not partition.gone:
                entry.state = State.QUEUED
                partition.offer(entry)
                self.pump()

        self._alarm.after(bound * self._rng.random(), due)

    # -- what the runner asks ---------------------------------------------------------

    def forget(self, partition: Partition) -> None:
        """The partition is not ours any more: cancel its handlers; its keys wait until they have ended."""
        partition.forgotten()
        self.parts.pop(partition.number, None)
        self.unsaved -= partition.unsaved
        partition.unsaved = partition.finished = 0
        for entry, cancel in list(partition.running.items()):
            worker = next(worker for worker in self._waiting if worker.entry is entry)
            self._lingering[entry.key] = (worker, [])
            cancel()
        self.pump()

    def interrupt(self) -> None:
        """A shutdown waits no longer."""
        for worker in list(self._waiting):
            worker.cancel("shutdown")

    @property
    def busy(self) -> bool:
        """Whether a handler runs."""
        return bool(self._waiting)

    async def close(self) -> None:
        """End the workers; handlers were asked to end before."""
        self._closed = True
        tasks = list(self._workers)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)

    # -- starting ---------------------------------------------------------------------

    def _may_start(self) -> bool:
        if self._closed or not self._fresh():
            return False
        if self.unsaved >= self.trigger.window:
            self.hurry()
            return False
        return True

    def next(self) -> Entry | None:
        """The next entry that may start now."""
        ready = self.ready
        while ready:
            if not self._may_start():
                return None
            entry = ready.popleft()
            partition = entry.partition
            if partition.gone or entry.state is not State.QUEUED:
                continue
            if partition.closed and entry is not partition.trying:
                partition.held.append(entry)
                continue
            if self._lingering and entry.key in self._lingering:
                self._lingering[entry.key][1].append(entry)
                continue
            partition.started(entry)
            return entry
        return None

    def call(self, entry: Entry) -> Awaitable[object]:
        """The handler's coroutine, with the condition asked first."""
        partition = entry.partition
        attempt = entry.attempts if entry.counted else entry.attempts + 1
        info = RunInfo(partition.epoch, entry.position, attempt, partition.number, self.uid)
        if self.trigger.matches is None or entry.matched:
            return self.trigger.handle(entry.change, info)
        return self._ask_and_call(entry, info)

    async def _ask_and_call(self, entry: Entry, info: RunInfo) -> None:
        assert self.trigger.matches is not None
        answer: Any = self.trigger.matches(entry.change)
        if isawaitable(answer):
            answer = await answer
        if answer:
            entry.matched = True
            await self.trigger.handle(entry.change, info)

    # -- handlers that await something ------------------------------------------------

    def blocked(self, worker: _Worker) -> None:
        """A handler did not end at once: watch over it, and let another worker go on."""
        entry = worker.entry
        assert entry is not None
        entry.partition.running[entry] = worker.fence
        timeout = self.trigger.timeout
        self._waiting[worker] = self._clock.monotonic() + timeout if timeout is not None else float("inf")
        if timeout is not None and not self._armed:
            self._armed = True
            self._alarm.after(timeout, self._overdue)
        if self._spare is worker:
            self._spare = None
        self.pump()

    def unblocked(self, worker: _Worker) -> None:
        """Its handler has ended."""
        entry = worker.entry
        assert entry is not None
        del self._waiting[worker]
        entry.partition.running.pop(entry, None)
        if self._spare is None:
            self._spare = worker
        lingering = self._lingering.get(entry.key)
        if lingering is not None and lingering[0] is worker:
            del self._lingering[entry.key]
            self.ready.extend(lingering[1])
        if entry.partition.draining:
            self.hurry()

    def ended(self, worker: _Worker) -> None:
        """The worker has nothing more to do."""
        if self._spare is worker:
            self._spare = None

    def finish(self, entry: Entry, error: BaseException | None, cancelled: str | None) -> None:
        """A handler's outcome."""
        partition = entry.partition
        if partition.gone:
            return
        if cancelled == "shutdown" and error is not None:
            partition.interrupted(entry)
        elif error is None:
            partition.succeeded(entry)
            if self.finished >= self.window // 2:
                self.hurry()
        else:
            text = "timed out" if cancelled == "timeout" else f"{type(error).__name__}: {error}"
            self.last_error = text
            partition.failed(entry, text[:2_000])
            message = "trigger %s: attempt %d of %d for %s failed: %s"
            where = None if cancelled == "timeout" else error
            log.warning(
                message,
                self.trigger.name,
                entry.attempts,
                self.max_attempts,
                described(entry.change),
                text,
                exc_info=where,
            )

    def _overdue(self) -> None:
        """Cancel the handlers that have had their time; one alarm for all of them."""
        now = self._clock.monotonic()
        self._armed = False
        for worker, deadline in list(self._waiting.items()):
            if worker.cancelled is not None:
                continue
            if deadline > now:
                self._armed = True
                self._alarm.after(deadline - now, self._overdue)
                return
            worker.cancel("timeout")
            if worker.entry is not None:
                worker.entry.partition.overdue(worker.entry)

    def stuck(self, worker: _Worker, entry: Entry, since: float) -> None:
        """Say it, for as long as a cancelled handler does not end (rule 13)."""
        if self._closed or worker.entry is not entry or worker not in self._waiting:
            return
        seconds = self._clock.monotonic() - since
        message = (
            f"a handler ignores its cancellation since {seconds:.0f} s; "
            f"changes of group {entry.key[0]!r}, item {entry.key[1]!r} wait for it"
        )
        self._report(Report("stuck", message, self.trigger.name, {"position": entry.position}))
        self._alarm.after(60.0, lambda: self.stuck(worker, entry, since))

    def watch_over(self, worker: _Worker, entry: Entry) -> None:
        """A handler was cancelled."""
        since = self._clock.monotonic()
        self._alarm.after(STUCK_AFTER, lambda: self.stuck(worker, entry, since))

    async def breathe(self) -> None:
        """Let the event loop have its turn."""
        self.eased()
        await self._clock.sleep(0)


class _Worker:
    """A task that runs handlers; one that ends without awaiting costs no task of its own."""

    def __init__(self, crew: Crew) -> None:
        self.crew = crew
        self.task: asyncio.Task[None] | None = None
        self.entry: Entry | None = None
        self.cancelled: str | None = None

    async def work(self) -> None:
        crew = self.crew
        left = SLICE
        try:
            while (entry := crew.next()) is not None:
                self.entry, self.cancelled = entry, None
                error: BaseException | None = None
                run: _Run | None = None
                try:
                    run = _Run(crew.call(entry), self)
                    await run
                except (Exception, asyncio.CancelledError) as caught:
                    error = caught
                    if self.cancelled is None and isinstance(caught, asyncio.CancelledError) and crew._closed:
                        raise
                finally:
                    if run is not None and run.blocked:
                        crew.unblocked(self)
                if self.cancelled is not None and self.task is not None:
                    self.task.uncancel()
                self.entry = None
                crew.finish(entry, error, self.cancelled)
                left -= 1
                if left <= 0:
                    left = SLICE
                    await crew.breathe()
        finally:
            crew.ended(self)
            crew.eased()

    def cancel(self, why: str) -> None:
        """Cancel the handler that runs."""
        if self.entry is None or self.task is None or self.cancelled is not None:
            return
        self.cancelled = why
        self.task.cancel()
        self.crew.watch_over(self, self.entry)

    def fence(self) -> None:
        """The partition was taken away."""
        self.cancel("fenced")


class _Run:
    """Awaits a handler in a context of its own, as a task would, and tells when it does not end at once."""

    __slots__ = ("blocked", "call", "context", "worker")

    def __init__(self, call: Awaitable[object], worker: _Worker) -> None:
        self.call = call
        self.context: Context = copy_context()
        self.worker = worker
        self.blocked = False

    def __await__(self) -> Generator[Any, Any, None]:
        call = self.call
        steps: Any = call if type(call) is CoroutineType else call.__await__()
        step, argument = steps.send, None
        while True:
            try:
                waits_for = self.context.run(step, argument)
            except StopIteration:
                return
            if not self.blocked:
                self.blocked = True
                self.worker.crew.blocked(self.worker)
            try:
                argument = yield waits_for
                step = steps.send
            except BaseException as error:
                step, argument = steps.throw, error


def _nothing() -> None:
    pass
