"""Writing to one stream: one call of the function at a time, which carries whatever waits."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from motia_adapters.postgresql.capabilities import UPDATE_ATTEMPTS
from motia_adapters.postgresql.database import Database
from motia_adapters.postgresql.failures import Raced, closed
from motia_adapters.postgresql.places import Place
from motia_adapters.postgresql.units import (
    NOTHING,
    Asked,
    Key,
    Known,
    State,
    Unit,
    compose,
    results_of,
    spell_json,
    state_at,
)
from motia_core.adapter import StorageSettings
from motia_core.errors import BackendError, BackendUnavailable, Conflict, MotiaError, OutcomeUnknown
from motia_core.model import ABSENT, StreamSpec, Write, WriteResult

MAX_UNITS = 64
"""Calls of `write` that share one call of the function, at most."""
MAX_BYTES = 2 * 2**20
"""Bytes of new values after which a call takes no more."""
READ_STATES = 50
"""Items whose state is read at once."""
RACES = 10
"""Attempts of a call that a deadlock with other programs has undone."""
_PAUSE = 0.001  # seconds that the winner of a race waits, for each race of late
_MOST_RACES = 20.0


class Writer:
    """Writes to one stream, for all callers of this process."""

    function = "write"
    one_function: str | None = "write_one"
    """The same for one plain write, if there is such."""

    def __init__(
        self,
        database: Database,
        namespace: str,
        stream: StreamSpec,
        settings: StorageSettings,
        name: str | None = None,
    ) -> None:
        self._database = database
        self._namespace = namespace
        self._name = name or stream.name
        self._logged = stream.log
        self._timeout = settings.timeout
        self._queue: deque[Unit] = deque()
        self._running: Sequence[Unit] = ()
        self._known = Known()
        self._races = 0.0
        self._task: asyncio.Task[None] | None = None

    async def write(self, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        """Do all writes, or nothing. Raises as `Adapter.write` does."""
        if not self._database.is_open:
            raise closed(self._database.name, self._database.address)
        loop = asyncio.get_running_loop()
        size = sum(len(write.json or b"") for write in writes)
        unit = Unit(writes, loop.create_future(), loop.time() + self._timeout, size)
        self._queue.append(unit)
        if self._task is None:
            self._task = loop.create_task(self._run(), name=f"motia-{self._database.name}-writer-{self._name}")
        return await unit.future

    async def close(self) -> None:
        """Finish what was asked for, as far as the timeout lets us."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=self._timeout)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        who, address = self._database.name, self._database.address
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
            _fail(self._running, OutcomeUnknown(f"{who}: a write to {address} was cut off by closing"))
            _fail(self._queue, closed(who, address))
            raise
        except Exception as error:  # a defect of ours must not leave callers waiting
            said = f"{who}: writing to {address} failed unexpectedly: {error!r}"
            for units, failure in (
                (self._running, OutcomeUnknown(f"{said}; it may have happened all the same")),
                (self._queue, BackendError(said)),
            ):
                failure.__cause__ = error
                _fail(units, failure)
            self._queue.clear()
        finally:
            self._running = ()
            self._task = None

    def _take(self) -> list[Unit]:
        """The units of the next call, without those whose callers have gone or waited too long."""
        now = asyncio.get_running_loop().time()
        taken: list[Unit] = []
        size = 0
        while self._queue and len(taken) < MAX_UNITS and size < MAX_BYTES:
            unit = self._queue[0]
            if taken and size + unit.size > MAX_BYTES:
                break
            self._queue.popleft()
            if unit.future.done():
                continue
            if now > unit.deadline:
                late = f"{self._database.name}: a write to {self._database.address} was not sent within"
                _fail([unit], BackendUnavailable(f"{late} {self._timeout:g} s"))
                continue
            taken.append(unit)
            size += unit.size
        return taken

    async def _perform(self, units: Sequence[Unit]) -> None:
        if not units:
            return
        states = await self._read_states(units)
        units = [unit for unit in units if not unit.future.done()]
        if not units:
            return
        asked = compose(units, states, self.spell)
        replies = await self._ask(asked)
        again: list[Unit] = []
        raced = False
        for unit, sent, reply in zip(units, asked, replies, strict=True):
            if "r" in reply:
                if unit.error is not None:
                    _fail([unit], unit.error)
                    continue
                results = self.results(unit, reply["r"])
                self._learn(unit, results)
                if not unit.future.done():
                    unit.future.set_result(results)
            elif "c" in reply:
                raced = True
                at, epoch, seq, raw = reply["c"]
                write = next(w for w in unit.writes if (w.group, w.id) == (sent[at]["g"], sent[at]["i"]))
                found = None if epoch is None else (epoch, seq, self.decoded(write, raw))
                self._lost(unit, write, found, again)
            else:
                await self.refused(unit, reply, again)
        self._queue.extendleft(reversed(again))
        if raced and again:
            self._races = min(_MOST_RACES, self._races + 1)

    async def _ask(self, asked: list[list[Asked]]) -> Any:
        for attempt in range(1, RACES):
            try:
                return await self._call(asked)
            except Raced:
                await asyncio.sleep(random.uniform(0, 0.01 * attempt))
        return await self._call(asked)

    async def _call(self, asked: list[list[Asked]]) -> Any:
        if self.one_function is not None and self._logged and len(asked) == 1 == len(asked[0]):
            (one,) = asked[0]
            if one["k"] in "sud" and "t" not in one:
                replies = await self._database.rpc(
                    self.one_function,
                    writes=True,
                    p_namespace=self._namespace,
                    p_stream=self._name,
                    p_kind=one["k"],
                    p_group=one["g"],
                    p_id=one["i"],
                    p_value=one.get("v"),
                    p_expect=one.get("e"),
                )
                if replies is not None:
                    return replies
        return await self._database.rpc(
            self.function,
            writes=True,
            p_namespace=self._namespace,
            p_stream=self._name,
            p_logged=self._logged,
            p_units=orjson.dumps(asked).decode(),
        )

    def spell(self, write: Write, value: bytes, old: State | None) -> Mapping[str, Any]:
        """How a value to store is told to the function, given what it was worked out from."""
        return spell_json(write, value, old)

    def results(self, unit: Unit, replies: Sequence[Any]) -> Sequence[WriteResult | None]:
        """What the writes of a unit did."""
        return results_of(unit, replies)

    def decoded(self, write: Write, raw: str) -> bytes:
        """A value as the function gives it, as encoded JSON."""
        return raw.encode()

    def fail(self, unit: Unit, error: MotiaError) -> None:
        """Tell a unit's caller."""
        _fail([unit], error)

    async def refused(self, unit: Unit, reply: Mapping[str, Any], again: list[Unit]) -> None:
        """An answer that is neither results nor a conflict."""
        raise BackendError(f"{self._database.name}: {self._database.address} answered a write with {str(reply)[:200]}")

    async def _read_states(self, units: Sequence[Unit]) -> dict[Key, State]:
        """What is stored of each item that is updated, as far as it is known, or else read now."""
        states: dict[Key, State] = {}
        missing: dict[Key, None] = {}
        for unit in units:
            for key, write in unit.updated():
                state = self._known.get(key)
                if state is None or write.expect is not None:
                    missing[key] = None
                else:
                    states[key] = state
        keys = list(missing)
        for at in range(0, len(keys), READ_STATES):
            part = keys[at : at + READ_STATES]
            states.update(zip(part, await asyncio.gather(*(self._read_state(key) for key in part)), strict=True))
        if missing:
            for unit in units:
                _check_expected(unit, states)
        return states

    async def _read_state(self, key: Key) -> State:
        row = await self._database.rpc(
            "get", p_namespace=self._namespace, p_stream=self._name, p_group=key[0], p_id=key[1]
        )
        return NOTHING if row is None else state_at(row[2], row[3], row[1].encode())

    def _lost(self, unit: Unit, write: Write, found: tuple[int, int, bytes] | None, again: list[Unit]) -> None:
        """The function found another state than the one that ``write`` was to find."""
        assert write.id is not None
        self._known.put((write.group, write.id), NOTHING if found is None else state_at(*found))
        try:
            write.check(None if found is None else Place(found[0], found[1]).position)
        except Conflict as conflict:
            _fail([unit], conflict)
            return
        self._retry(unit, write, again)

    def _retry(self, unit: Unit, write: Write, again: list[Unit]) -> None:
        unit.attempts += 1
        if unit.attempts < UPDATE_ATTEMPTS:
            again.append(unit)
            return
        lost = f"item {write.id!r} of group {write.group!r} lost {unit.attempts} races to other processes"
        _fail([unit], Conflict(lost))

    def _learn(self, unit: Unit, results: Sequence[WriteResult | None]) -> None:
        """Keep what updates left; other writes only where the item is kept already."""
        for write, result in zip(unit.writes, results, strict=True):
            if write.id is None or write.kind == "event":
                continue
            key = (write.group, write.id)
            if write.ttl is not None:
                self._known.drop(key)
                continue
            state = NOTHING
            if result is not None and result.type != "delete":
                epoch, _, seq = result.version.partition("-")
                state = State(f"{int(epoch, 16)}-{int(seq, 16)}", result.new_json)
            if write.kind == "update":
                self._known.put(key, state)
            else:
                self._known.replace(key, state)


def _check_expected(unit: Unit, states: dict[Key, State]) -> None:
    """Fail a unit whose condition does not hold for what was just read."""
    for key, write in unit.updated():
        if write.expect is None:
            continue
        expect = states[key].expect
        place = None if expect == "-" else Place(*map(int, expect.split("-"))).position
        try:
            write.check(place)
        except Conflict as conflict:
            if write.expect != ABSENT:
                _fail([unit], conflict)
            return


def _fail(units: Sequence[Unit] | deque[Unit], error: MotiaError) -> None:
    """Tell the callers: each gets an error of its own, as each adds its own traceback."""
    for unit in units:
        if not unit.future.done():
            own = type(error)(str(error)) if len(units) > 1 else error
            own.__cause__ = error.__cause__
            unit.future.set_exception(own)
