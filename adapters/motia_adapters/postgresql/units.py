"""Calls of the writer: what they want, how the SQL function is asked for it, and what it answered.

A call of `write` is one *unit*. Sets, deletes and events go to the function as they are. An
update is worked out here, from the item's last known state, and guarded by that state's
version; several updates of one item that wait together are worked out one from the other
(each guarded by "what the one before left"), so that they need one call.
"""

from __future__ import annotations

from asyncio import Future
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from motia_adapters.postgresql.places import Place, parse_position
from motia_core.errors import MotiaError
from motia_core.model import ABSENT, Write, WriteResult

Key = tuple[str, str]

KNOWN_ITEMS = 256
"""Updated items whose last state is kept."""
KNOWN_BYTES = 65_536
"""Size up to which a value is kept."""

_KINDS = {"set": "s", "update": "u", "delete": "d"}


class State(NamedTuple):
    """What is (or will be) stored: how the function is told to expect it, and its value."""

    expect: str
    json: bytes | None


NOTHING = State("-", None)


def state_at(epoch: int, seq: int, json: bytes) -> State:
    """The state of an item whose last change has this place."""
    return State(f"{epoch}-{seq}", json)


@dataclass(slots=True, eq=False)
class Unit:
    """One call of `write`, until ``future`` has its results."""

    writes: Sequence[Write]
    future: Future[Sequence[WriteResult | None]]
    deadline: float
    """On the loop's clock."""
    size: int
    attempts: int = 0
    values: list[bytes | None] = field(default_factory=list)
    """What each write was worked out to store."""
    error: MotiaError | None = None
    """Why it does not apply to the state it was worked out from: true if the function finds that state."""

    def updated(self) -> list[tuple[Key, Write]]:
        """The updates whose outcome depends on what is stored."""
        return [
            ((write.group, write.id), write)
            for write in self.writes
            if write.kind == "update" and write.id is not None and write.expect != ABSENT
        ]


class Known:
    """The last known state of items that are updated often."""

    def __init__(self) -> None:
        self._states: OrderedDict[Key, State] = OrderedDict()

    def get(self, key: Key) -> State | None:
        """The state, if it is kept."""
        state = self._states.get(key)
        if state is not None:
            self._states.move_to_end(key)
        return state

    def put(self, key: Key, state: State) -> None:
        """Keep a state, unless it is large."""
        if state.json is not None and len(state.json) > KNOWN_BYTES:
            self._states.pop(key, None)
            return
        self._states[key] = state
        self._states.move_to_end(key)
        if len(self._states) > KNOWN_ITEMS:
            self._states.popitem(last=False)

    def replace(self, key: Key, state: State) -> None:
        """Keep a state if one of the item is kept already."""
        if key in self._states:
            self.put(key, state)

    def drop(self, key: Key) -> None:
        """Forget a state."""
        self._states.pop(key, None)


Asked = dict[str, Any]
"""One write, as the function takes it."""
Spell = Callable[[Write, bytes, State | None], Mapping[str, Any]]
"""How a value to store is told to the function, given the write and the state it was worked out from, if any."""


def spell_json(write: Write, value: bytes, old: State | None) -> Mapping[str, Any]:
    """In managed storage: as text."""
    return {"v": value.decode()}


def compose(units: Sequence[Unit], states: dict[Key, State], spell: Spell = spell_json) -> list[list[Asked]]:
    """What the function is asked for some units. ``states`` has what is stored of each item that is updated."""
    composed: list[list[Asked]] = []
    number = 0
    for unit in units:
        unit.values, unit.error = [], None
        asked: list[Asked] = []
        touched: dict[Key, State] = {}
        for place, write in enumerate(unit.writes, number + 1):
            try:
                asked.append(_ask(unit, write, place, states, touched, spell))
            except MotiaError as error:
                unit.error = error
                if write.kind == "update" and write.id is not None:
                    # What it was worked out from may be out of date: the function says.
                    expect = _expected(write) or states[write.group, write.id].expect
                    asked.append({"g": write.group, "i": write.id, "e": expect})
                break
        if unit.error is not None:  # nothing is written: only what the error was found from is checked
            asked = [{**one, "k": "c"} for one in asked if "e" in one]
        else:
            states.update(touched)
        composed.append(asked)
        number += len(asked)
    return composed


def _ask(
    unit: Unit, write: Write, place: int, states: dict[Key, State], touched: dict[Key, State], spell: Spell
) -> Asked:
    asked: Asked = {"k": "n", "g": write.group}
    if write.id is None or write.kind == "event":
        if write.id is not None:
            asked |= {"k": "e", "i": write.id}
        if write.json is not None:
            asked["v"] = write.json.decode()
        unit.values.append(None)
        return asked | {"n": write.event_type}
    key = (write.group, write.id)
    state: State | None = None
    expect, value = _expected(write), write.json
    if write.kind == "update":
        state = NOTHING if write.expect == ABSENT else states[key]
        expect = expect or state.expect
        value = write.resolve(state.json)
    asked |= {"k": _KINDS[write.kind], "i": write.id}
    if expect:
        asked["e"] = expect
    if value is not None and write.kind != "delete":
        asked |= spell(write, value, state)
    if write.ttl is not None:
        asked["t"] = max(1, round(write.ttl * 1_000_000))
    unit.values.append(None if write.kind == "delete" else value)
    touched[key] = State(f"#{place}", None if write.kind == "delete" else value)
    return asked


def results_of(unit: Unit, replies: Sequence[Any]) -> list[WriteResult | None]:
    """What the writes of a unit did."""
    results: list[WriteResult | None] = []
    for write, value, reply in zip(unit.writes, unit.values, replies, strict=True):
        if reply is None:
            results.append(None)
            continue
        type, epoch, seq, ts, raw = reply
        position = Place(epoch, seq).position
        old = None if raw is None else raw.encode()
        version = "" if type == "event" else position
        new = None if type in ("delete", "event") else value
        results.append(WriteResult(type, write.group, write.id, old, new, version, position, ts / 1000))
    return results


def _expected(write: Write) -> str:
    """The caller's own condition, as the function takes it: one that cannot be a version never holds."""
    if write.expect is None:
        return ""
    if write.expect == ABSENT:
        return "-"
    place = parse_position(write.expect)
    return f"{place.epoch}-{place.seq}" if place else "!"
