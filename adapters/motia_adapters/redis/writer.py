"""Writing to one stream: one call of the script at a time, which carries whatever waits."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Sequence
from typing import Any

from hiredis import ReplyError

from motia_adapters.redis.capabilities import UPDATE_ATTEMPTS
from motia_adapters.redis.connection import Connection
from motia_adapters.redis.failures import closed, refused, unreachable
from motia_adapters.redis.items import version_of
from motia_adapters.redis.keys import Keys
from motia_adapters.redis.link import Lost
from motia_adapters.redis.scripts import WRITE
from motia_adapters.redis.units import Key, Known, State, Unit, compose, results_of, stored_state
from motia_core.adapter import StorageSettings
from motia_core.errors import Conflict, MotiaError, OutcomeUnknown
from motia_core.model import ABSENT, StreamSpec, Write, WriteResult

MAX_UNITS = 64
"""Calls that share one run of the script, at most."""
AT_ONCE = 2
"""Calls on their way: the server runs one while we compose the other, each with half of what there is to do."""
MAX_BYTES = 2 * 2**20
"""Bytes of new values after which a run takes no more calls."""
SWEEP = 10
"""Expired items that a run removes on its way, at most..."""
SWEEP_EVERY = 0.1
"""...and seconds between two runs that do."""
_PAUSE = 0.0005  # seconds that the winner of a race waits, for each race of late
_MOST_RACES = 20.0


class Writer:
    """Writes to one stream, for all callers of this process."""

    def __init__(self, connection: Connection, keys: Keys, stream: StreamSpec, settings: StorageSettings) -> None:
        self._connection = connection
        self._keys = keys
        self._stream = stream
        self._settings = settings
        self._queue: deque[Unit] = deque()
        self._running: Sequence[Unit] = ()
        self._known = Known()
        self._races = 0.0
        self._next_sweep = 0.0
        self._task: asyncio.Task[None] | None = None
        self._posted: deque[tuple[asyncio.Future[Any], Sequence[Unit]]] = deque()
        self._stranded: list[Unit] = []  # sent, and did not run: once nothing is on its way, a task takes them on
        self._closing = False

    async def write(self, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        """Do all writes, or nothing. Raises as `Adapter.write` does."""
        self._connection.check_open()
        if self._closing:
            raise closed(self._connection.address)
        loop = asyncio.get_running_loop()
        size = sum(len(write.json or b"") for write in writes)
        unit = Unit(writes, loop.create_future(), loop.time() + self._settings.timeout, size)
        self._queue.append(unit)
        self._post()
        return await unit.future

    async def close(self) -> None:
        """Finish what was asked for, as far as the timeout lets us, and take nothing more."""
        self._closing = True
        end = asyncio.get_running_loop().time() + self._settings.timeout
        while (busy := self._task or (self._posted[-1][0] if self._posted else None)) is not None:
            left = end - asyncio.get_running_loop().time()
            if left <= 0 or not (await asyncio.wait([busy], timeout=left))[0]:
                break
            await asyncio.sleep(0)  # what was to follow is begun
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def maintain(self, *, sweep: int = 0, begin: bool = False) -> int:
        """Remove expired items (how many is returned), or ``begin`` a new history."""
        # Nobody's write: no replica has to confirm it.
        _, swept, _ = await self._connection.write(
            self._keys, WRITE, self._arguments([], sweep, begin), confirmed=False
        )
        return int(swept)

    def _post(self) -> None:
        """Send what waits without a task, as long as nothing has to be read, and nobody to be waited for, first."""
        while self._queue and self._task is None and not self._stranded and len(self._posted) < AT_ONCE:
            on_the_way = sum(len(units) for _, units in self._posted)
            units = self._take(max(1, (len(self._queue) + on_the_way + 1) // AT_ONCE))
            if not units:
                return
            posted = None
            if self._races < 1 and not any(unit.updated() for unit in units):
                posted = self._connection.post(self._keys, WRITE, self._arguments(compose(units, {}), self._sweep()))
            if posted is not None:
                self._posted.append((posted, units))
                posted.add_done_callback(self._answered)
            elif self._posted:
                self._queue.extendleft(reversed(units))
                return  # until those on their way are answered
            else:
                self._begin(units)

    def _answered(self, answer: asyncio.Future[Any]) -> None:
        """The reply to a call has come, or has not."""
        # The oldest one's, unless the stream has moved to another node in between.
        sent = next(sent for sent in self._posted if sent[0] is answer)
        self._posted.remove(sent)
        _, units = sent
        error = answer.exception()
        if isinstance(error, Lost):
            _fail(units, self._connection.unknown(self._keys, error))
        elif isinstance(error, ReplyError):
            if (refusal := self._connection.refusal(self._keys, error)) is None:
                self._stranded += units
            else:
                _fail(units, refusal)
        else:
            try:
                self._distribute(units, answer.result()[2])
            except Exception as defect:
                _fail(units, _unexpected(defect))
        if not self._connection.is_open:
            _fail([*self._stranded, *self._queue], closed(self._connection.address))
            self._stranded.clear()
            self._queue.clear()
        elif self._stranded and not self._posted:
            units, self._stranded = self._stranded, []
            self._begin(units)
        else:
            self._post()

    def _begin(self, units: Sequence[Unit]) -> None:
        self._queue.extendleft(reversed(units))
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"motia-redis-writer-{self._stream.name}")

    async def _run(self) -> None:
        try:
            while self._queue:
                self._running = self._take()
                try:
                    await self._perform(self._running)
                except MotiaError as error:
                    _fail(self._running, error)
                if self._races >= 1:
                    await asyncio.sleep(random.uniform(0, _PAUSE * self._races))
                    self._races *= 0.9
        except asyncio.CancelledError:
            _fail(self._running, OutcomeUnknown(f"redis: a write to {self._connection.address} was cut off by closing"))
            _fail(self._queue, closed(self._connection.address))
            raise
        except Exception as error:
            _fail([*self._running, *self._queue], _unexpected(error))
            self._queue.clear()
        finally:
            self._running = ()
            self._task = None

    def _take(self, most: int = MAX_UNITS) -> list[Unit]:
        """The units of the next call, without those whose callers have gone or waited too long."""
        most = min(most, MAX_UNITS)
        now = asyncio.get_running_loop().time()
        taken: list[Unit] = []
        size = 0
        while self._queue and len(taken) < most and size < MAX_BYTES:
            unit = self._queue[0]
            if taken and size + unit.size > MAX_BYTES:
                break
            self._queue.popleft()
            if unit.future.done():
                continue
            if now > unit.deadline:
                late = f"not sent within {self._settings.timeout:g} s"
                _fail([unit], unreachable(late, self._connection.address, "write"))
                continue
            taken.append(unit)
            size += unit.size
        return taken

    async def _perform(self, units: Sequence[Unit]) -> None:
        if not units:
            return
        states = await self._read_states(units)
        units = [unit for unit in units if not unit.future.done()]
        replies = (await self._call(compose(units, states), self._sweep()))[2] if units else ()
        self._distribute(units, replies)

    def _distribute(self, units: Sequence[Unit], replies: Sequence[Any]) -> None:
        """Give the callers their results, or put them back into the queue."""
        again: list[Unit] = []
        raced = False
        for unit, reply in zip(units, replies, strict=True):
            if isinstance(reply, ReplyError):
                _fail([unit], refused(reply, self._connection.address, "write"))
            elif reply and reply[0] == b"!":
                raced = True
                self._lost(unit, reply[1], reply[2], again)
            elif unit.error is not None:
                if not unit.future.done():
                    unit.future.set_exception(unit.error)
            else:
                results = results_of(unit, reply)
                self._learn(unit, results)
                if not unit.future.done():
                    unit.future.set_result(results)
        self._queue.extendleft(reversed(again))
        if raced and again:
            self._races = min(_MOST_RACES, self._races + 1)

    def _sweep(self) -> int:
        """How many expired items the next run removes."""
        now = asyncio.get_running_loop().time()
        if now < self._next_sweep:
            return 0
        self._next_sweep = now + SWEEP_EVERY
        return SWEEP

    async def _call(self, units: list[Any], sweep: int) -> Any:
        return await self._connection.write(self._keys, WRITE, self._arguments(units, sweep))

    def _arguments(self, units: list[Any], sweep: int, begin: bool = False) -> list[Any]:
        keep = self._settings.retention.count
        return [
            self._keys.prefix,
            "",  # the run id of the server that will get it
            self._keys.channel,
            "1" if self._stream.log else "0",
            "" if keep is None else keep,
            sweep,
            "1" if begin else "0",
            *units,
        ]

    async def _read_states(self, units: Sequence[Unit]) -> dict[Key, State]:
        """What is stored of each item that is updated, as far as it is known, or else read now."""
        states: dict[Key, State] = {}
        missing: dict[Key, None] = {}
        for unit in units:
            for key, write in unit.updated():
                state = self._known.get(key)
                if state is None or (write.expect is not None and write.expect != state.expect):
                    missing[key] = None
                else:
                    states[key] = state
        if missing:
            commands = [("HGET", self._keys.items(group), id) for group, id in missing]
            raws = await self._connection.read(self._keys, *commands)
            states.update(zip(missing, map(stored_state, raws), strict=True))
            for unit in units:
                _check_expected(unit, states)
        return states

    def _lost(self, unit: Unit, at: int, raw: bytes | None, again: list[Unit]) -> None:
        """The script found another state than the one that write ``at`` was to find."""
        # Of a unit that does not apply, no events were sent: only what it was found from.
        sent = unit.writes if unit.error is None else [write for write in unit.writes if write.kind != "event"]
        write = sent[at]
        assert write.id is not None
        key = (write.group, write.id)
        self._known.put(key, stored_state(raw))
        try:
            write.check(None if raw is None else version_of(raw))
        except Conflict as conflict:
            _fail([unit], conflict)
            return
        unit.attempts += 1
        if unit.attempts < UPDATE_ATTEMPTS:
            again.append(unit)
        else:
            _fail(
                [unit],
                Conflict(f"item {write.id!r} of group {write.group!r} lost {unit.attempts} races to other processes"),
            )

    def _learn(self, unit: Unit, results: Sequence[WriteResult | None]) -> None:
        """Keep what updates left; other writes only where the item is kept already."""
        for write, result in zip(unit.writes, results, strict=True):
            if write.id is None or write.kind == "event":
                continue
            key = (write.group, write.id)
            gone = result is None or result.type == "delete"
            state = State("-", None) if gone or result is None else State(result.version, result.new_json)
            if write.kind == "update":
                self._known.put(key, state)
            else:
                self._known.replace(key, state)


def _check_expected(unit: Unit, states: dict[Key, State]) -> None:
    """Fail a unit whose condition does not hold for what was just read."""
    for key, write in unit.updated():
        if write.expect is None:
            continue
        state = states[key]
        try:
            write.check(None if state.expect == "-" else state.expect)
        except Conflict as conflict:
            if write.expect != ABSENT:
                _fail([unit], conflict)
            return


def _unexpected(defect: Exception) -> OutcomeUnknown:
    """A defect of ours must not leave callers waiting, nor say that what was sent has not happened."""
    failure = OutcomeUnknown(f"redis: writing failed unexpectedly: {defect!r}")
    failure.__cause__ = defect
    return failure


def _fail(units: Sequence[Unit] | deque[Unit], error: MotiaError) -> None:
    """Tell the callers: each gets an error of its own, as each adds its own traceback."""
    for unit in units:
        if not unit.future.done():
            own = type(error)(str(error)) if len(units) > 1 else error
            own.__cause__ = error.__cause__
            unit.future.set_exception(own)
