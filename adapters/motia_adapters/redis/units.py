"""Calls of the writer: what they want, how the script is asked for it, and what it answered.

A call of `write` is one *unit*. Sets, deletes and events go to the script as they are. An
update is worked out here, from the item's last known state, and guarded by that state's
version; several updates of one item that wait together are worked out one from the other
(each guarded by "what the one before left"), so that they need one call of the script.
"""

from __future__ import annotations

from asyncio import Future
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from motia_adapters.redis.items import json_of, version_of
from motia_adapters.redis.link import Argument
from motia_core.errors import MotiaError
from motia_core.model import ABSENT, ChangeType, Write, WriteResult

Key = tuple[str, str]

KNOWN_ITEMS = 256
"""Updated items whose last state is kept."""
KNOWN_BYTES = 65_536
"""Size up to which a value is kept."""

_KINDS = {"set": "s", "update": "u", "delete": "d"}
_TYPES: dict[bytes, ChangeType] = {b"c": "create", b"u": "update", b"d": "delete", b"e": "event", b"n": "event"}


class State(NamedTuple):
    """What is (or will be) stored: how the script is told to expect it, and its value."""

    expect: str
    json: bytes | None


NOTHING = State("-", None)


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
    """Why it does not apply to the state it was worked out from: true if the script finds that state."""

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

    def clear(self) -> None:
        """Forget everything."""
        self._states.clear()


def stored_state(raw: bytes | None) -> State:
    """The state that a stored item is in."""
    return NOTHING if raw is None else State(version_of(raw), json_of(raw))


def compose(units: Sequence[Unit], states: dict[Key, State]) -> list[Argument]:
    """The script's arguments for some units. ``states`` has what is stored of each item that is updated."""
    arguments: list[Argument] = []
    number = 0
    for unit in units:
        unit.values, unit.error = [], None
        writes: list[Argument] = []
        touched: dict[Key, State] = {}
        for place, write in enumerate(unit.writes, number + 1):
            if write.id is None or write.kind == "event":
                kind = "n" if write.id is None else "e"
                writes += (kind, write.group, write.id or "", "", write.json or b"", "", write.event_type or "")
                unit.values.append(None)
                continue
            key = (write.group, write.id)
            expect, value = _expected(write), write.json
            if write.kind == "update":
                state = NOTHING if write.expect == ABSENT else states[key]
                expect = expect or state.expect
                try:
                    value = write.resolve(state.json)
                except MotiaError as error:
                    unit.error = error
                    writes += ("c", write.group, write.id, expect, b"", "", "")
                    break
            ttl = "" if write.ttl is None else max(1, round(write.ttl * 1_000_000))
            writes += (_KINDS[write.kind], write.group, write.id, expect, value or b"", ttl, "")
            unit.values.append(value)
            touched[key] = State(f"#{place}", value)
        if unit.error is not None:  # nothing is written: only what the error was found from is checked
            writes[::7] = ["c" if kind not in ("e", "n") else kind for kind in writes[::7]]
            writes = [part for at in range(0, len(writes), 7) if writes[at] == "c" for part in writes[at : at + 7]]
        else:
            states.update(touched)
        count = len(writes) // 7
        arguments.append(count)
        arguments += writes
        number += count
    return arguments


def results_of(unit: Unit, replies: Sequence[Any]) -> list[WriteResult | None]:
    """What the writes of a unit did."""
    results: list[WriteResult | None] = []
    for write, value, reply in zip(unit.writes, unit.values, replies, strict=True):
        if reply is None:
            results.append(None)
            continue
        kind, place, stamp, raw = reply
        type, position = _TYPES[kind], place.decode()
        old = None if raw is None else json_of(raw)
        version = "" if type == "event" else position
        new = None if type in ("delete", "event") else value
        results.append(WriteResult(type, write.group, write.id, old, new, version, position, stamp / 1000))
    return results


def _expected(write: Write) -> str:
    """The caller's own condition, as the script takes it: one that cannot be a version never holds."""
    if write.expect is None:
        return ""
    if write.expect == ABSENT:
        return "-"
    return write.expect if len(write.expect) == 29 else "!"
