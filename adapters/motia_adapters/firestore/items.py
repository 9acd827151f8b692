"""What is stored of an item, and the last known states of items that are written often."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, NamedTuple

from motia_adapters.firestore.wire import micros, plain
from motia_core.model import Item

Key = tuple[str, str]
KNOWN_ITEMS = 2_000
"""Items whose last state is kept, at most."""
KNOWN_BYTES = 8_000_000
"""Bytes of their values, at most."""


class State(NamedTuple):
    """What is (or will be) stored of an item. ``updated`` is when Firestore last changed its document."""

    version: str | None
    json: bytes | None
    expires: int
    """µs since the epoch; 0: never."""
    updated: Any
    """``None``: there is no document."""


NOTHING = State(None, None, 0, None)


def state_of(document: Any, *, log: bool) -> State:
    """The state that a document holds (``None``: there is none). Without a log the version is the time of change."""
    if document is None:
        return NOTHING
    fields = document.fields
    expires = plain(fields["expires"]) if "expires" in fields else 0
    version = fields["version"].string_value if log else version_at(document.update_time)
    return State(version, fields["json"].string_value.encode(), expires, document.update_time)


def version_at(updated: Any) -> str:
    """The version of an item of a stream without a log."""
    return f"{micros(updated):016x}"


def fields_of(group: str, id: str, state: State, nonce: str) -> dict[str, str | int]:
    """What is stored of an item."""
    fields: dict[str, str | int] = {
        "group": group,
        "id": id,
        "version": state.version or nonce,
        "json": (state.json or b"").decode(),
    }
    if state.expires:
        fields["expires"] = state.expires
    return fields


def item_of(document: Any, now: int, *, log: bool) -> Item | None:
    """The item in a document; ``None`` if it has expired at ``now`` (µs)."""
    state = state_of(document, log=log)
    if state.expires and state.expires <= now:
        return None
    fields = document.fields
    return Item(
        fields["group"].string_value,
        fields["id"].string_value,
        state.json or b"",
        state.version or "",
        state.expires != 0,
    )


class Known:
    """States as of the newest known commit, the least used thrown away first."""

    def __init__(self) -> None:
        self._states: OrderedDict[Key, State] = OrderedDict()
        self._bytes = 0

    def get(self, key: Key) -> State | None:
        """The state, if it is kept."""
        state = self._states.get(key)
        if state is not None:
            self._states.move_to_end(key)
        return state

    def put(self, key: Key, state: State) -> None:
        """Keep a state."""
        self.drop([key])
        self._states[key] = state
        self._bytes += len(state.json or b"")
        while len(self._states) > KNOWN_ITEMS or self._bytes > KNOWN_BYTES:
            _, oldest = self._states.popitem(last=False)
            self._bytes -= len(oldest.json or b"")

    def drop(self, keys: Iterable[Key]) -> None:
        """Forget some."""
        for key in keys:
            state = self._states.pop(key, None)
            if state is not None:
                self._bytes -= len(state.json or b"")

    def clear(self) -> None:
        """Forget everything."""
        self._states.clear()
        self._bytes = 0
