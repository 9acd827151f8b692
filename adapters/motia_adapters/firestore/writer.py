"""Writing to one stream: one commit at a time, which carries whatever waits."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from motia_adapters.firestore.capabilities import UPDATE_ATTEMPTS
from motia_adapters.firestore.connection import Connection, LostRace
from motia_adapters.firestore.failures import closed, copy_of, is_about_content, unreachable
from motia_adapters.firestore.history import Entry
from motia_adapters.firestore.items import Key, Known, Layout, State
from motia_adapters.firestore.log import Log
from motia_adapters.firestore.names import Paths
from motia_adapters.firestore.rounds import Round, Unit
from motia_core.errors import BackendError, BackendUnavailable, Conflict, MotiaError, OutcomeUnknown
from motia_core.model import Write, WriteResult

MAX_WRITES = 250
"""Writes of independent calls that share a commit, at most."""
RUN = 20
"""Commits one behind the other after which another process gets a chance."""
_MOST_RACES = 8.0


class Writer:
    """Writes to one stream, for all callers of this process."""

    def __init__(self, connection: Connection, paths: Paths, layout: Layout, log: Log, name: str) -> None:
        self._connection = connection
        self._paths = paths
        self._layout = layout
        self._name = name
        self._log = log
        self._queue: deque[Unit] = deque()
        self._running: Sequence[Unit] = ()
        self._known = Known()
        self._head: Entry | None = None
        self._races = 0.0
        self._took = 0.0
        self._task: asyncio.Task[None] | None = None
        self.committing = asyncio.Lock()
        """Held from when a commit is sent until `on_commit` knows of it."""
        self.on_commit: Callable[[Round], None] | None = None
        """Told of each commit before its callers are."""
        self.written = 0
        """Changes that this process has written."""
        self._deadline = 0

    async def write(self, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        """Do all writes, or nothing. Raises as `Adapter.write` does."""
        return await self._enqueue(Unit(writes, asyncio.get_running_loop().create_future(), 0.0))

    async def _enqueue(self, unit: Unit) -> Sequence[WriteResult | None]:
        self._connection.check_open()
        loop = asyncio.get_running_loop()
        unit.deadline = loop.time() + self._connection.timeout
        self._queue.append(unit)
        if self._task is None:
            self._task = loop.create_task(self._run(), name=f"motia-firestore-writer-{self._name}")
        return await unit.future

    async def expire(self, keys: Sequence[Key]) -> None:
        """Remove those of these items that have expired, in as many commits as their sizes ask for."""
        start, size = 0, len(keys)
        while start < len(keys):
            sweep = tuple(keys[start : start + size])
            unit = Unit((), asyncio.get_running_loop().create_future(), 0.0, sweep=sweep)
            await self._enqueue(unit)
            done = len(sweep) - unit.unswept
            start, size = start + done, max(2, 2 * done)

    def take_deadline(self) -> int:
        """The earliest deadline that was written since this was last asked (µs); 0: none."""
        deadline, self._deadline = self._deadline, 0
        return deadline

    async def close(self) -> None:
        """Finish what was asked for, as far as the timeout lets us."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=self._connection.timeout)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        run = 0
        try:
            while self._queue:
                self._running = self._take()
                try:
                    await self._perform(self._running)
                except MotiaError as error:
                    self._forget()
                    if len(self._running) > 1 and is_about_content(error):
                        self._part(self._running)  # one of them is refused; the others are not to fail with it
                    else:
                        _fail(self._running, error)
                run += 1
                await self._give_way(run)
        except asyncio.CancelledError:
            _fail(self._running, OutcomeUnknown(f"firestore: a write to {self._connection.address} was cut by closing"))
            _fail(self._queue, closed(self._connection.address))
            self._queue.clear()
            raise
        except Exception as error:  # a defect of ours must not leave callers waiting
            self._forget()
            failure = OutcomeUnknown(f"firestore: writing failed unexpectedly: {error!r}")
            failure.__cause__ = error
            _fail([*self._running, *self._queue], failure)
            self._queue.clear()
        finally:
            self._running = ()
            self._task = None

    async def _give_way(self, run: int) -> None:
        """A writer at full speed would win every race: others need the time of three calls now and then."""
        if not self._queue or not self._layout.keeps_log:
            return
        if self._races >= 1:
            await asyncio.sleep(random.uniform(0, self._took * self._races))
            self._races *= 0.8
        elif run % RUN == 0:
            await asyncio.sleep(3 * self._took)

    def _take(self) -> list[Unit]:
        """The units of the next commit, without those whose callers have gone or waited too long."""
        now = asyncio.get_running_loop().time()
        taken: list[Unit] = []
        count = 0
        while self._queue:
            unit = self._queue[0]
            # After races in which all lost for one item, each goes its own way.
            apart = unit.alone or (unit.attempts > 2 and not self._layout.keeps_log)
            if taken and (apart or taken[-1].alone or count + len(unit.writes) > MAX_WRITES):
                break
            self._queue.popleft()
            if unit.future.done():
                continue
            if now > unit.deadline:
                _fail([unit], self._late(unit))
                continue
            taken.append(unit)
            count += len(unit.writes)
        return taken

    def _late(self, unit: Unit) -> MotiaError:
        if unit.attempts > 1:
            return _lost(unit)
        if unit.attempts:  # one race in all that time: it was the server that took it
            return BackendUnavailable(
                f"firestore: a write was not done at {self._connection.address} within"
                f" {self._connection.timeout:g} s, as the server was away or slow (nothing was written: try again)"
            )
        return unreachable(self._connection.address, self._connection.timeout)

    async def _perform(self, units: Sequence[Unit]) -> None:
        if not units:
            return
        keys = dict.fromkeys(key for unit in units for key in unit.keys)
        before, fresh = await self._read(keys)
        round = Round(self._paths, self._layout, before, self._connection.now())
        round.take(units)
        self._queue.extendleft(reversed(round.left))
        self._running = [unit for unit in units if unit not in round.left]
        if round.changes:
            if round.logged and self._head is None:
                self._head = await self._log.newest_or_begin()
            messages = round.messages(self._head)
            started = asyncio.get_running_loop().time()
            try:
                async with self.committing:
                    reply = await self._connection.commit(messages)
                    self._learn(round, round.finish(reply))
            except LostRace:
                self._lose(self._running)
                return
            self._took = asyncio.get_running_loop().time() - started
        elif not fresh:
            # What was known from before may be out of date: nothing has proved it.
            self._known.drop(keys)
            self._queue.extendleft(reversed(self._running))
            return
        for unit, results in round.results():
            if not unit.future.done():
                unit.future.set_result(results)
        for unit, error in round.failed:
            if not unit.future.done():
                unit.future.set_exception(error)

    async def _read(self, keys: Iterable[Key]) -> tuple[dict[Key, State], bool]:
        """What is stored of the items, and whether all of it was read just now; the head too, if it is not known."""
        states: dict[Key, State] = {}
        missing: list[Key] = []
        for key in keys:
            state = self._known.get(key)
            if state is None:
                missing.append(key)
            else:
                states[key] = state
        fresh = not states
        if self._layout.keeps_log and self._head is None:
            self._head = await self._log.newest_or_begin()
        if missing:
            documents, _ = await self._connection.get([self._layout.name(key) for key in missing])
            for key, document in zip(missing, documents, strict=True):
                states[key] = self._layout.state(document)
        return states, fresh

    def _learn(self, round: Round, head: Entry | None) -> None:
        self._head = head or self._head
        self.written += len(round.changes)
        if self._layout.keeps_log:  # else nothing tells when it is out of date
            for key, state in (round.before | round.after).items():
                self._known.put(key, state)
        if self.on_commit is not None:
            self.on_commit(round)
        for state in round.after.values():
            if state.expires and (not self._deadline or state.expires < self._deadline):
                self._deadline = state.expires

    def _lose(self, units: Sequence[Unit]) -> None:
        """Another process came first: what was known is out of date."""
        self._forget()
        self._races = min(_MOST_RACES, self._races + 1)
        again: list[Unit] = []
        for unit in units:
            unit.attempts += 1
            if unit.attempts < UPDATE_ATTEMPTS:
                again.append(unit)
            else:
                _fail([unit], _lost(unit))
        self._queue.extendleft(reversed(again))

    def _part(self, units: Sequence[Unit]) -> None:
        for unit in units:
            unit.alone = True
        self._queue.extendleft(reversed(units))

    def _forget(self) -> None:
        self._head = None
        self._known.clear()


def _lost(unit: Unit) -> Conflict:
    named = ", ".join(repr(id) for _, id in unit.keys[:3])
    return Conflict(f"firestore: a write (of {named}) lost {unit.attempts} races to other processes: try again later")


def _fail(units: Iterable[Unit], error: MotiaError) -> None:
    """Tell the callers: each gets an error of its own, as each adds its own traceback."""
    for number, unit in enumerate(list(units)):
        if not unit.future.done():
            own = copy_of(error) if number and isinstance(error, BackendError) else error
            unit.future.set_exception(own)
