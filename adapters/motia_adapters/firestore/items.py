"""What is stored of an item, and the last known states of items that are written often."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, NamedTuple

from motia_adapters.firestore.names import Paths
from motia_adapters.firestore.wire import micros, plain, removed, stored
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
    fields: Any = None
    """The document's own fields, where they are another program's."""


NOTHING = State(None, None, 0, None)


def version_at(updated: Any) -> str:
    """The version of an item whose versions are the times of its changes."""
    return f"{micros(updated):016x}"


class Layout(ABC):
    """Where items are, and what their documents hold."""

    keeps_log: bool
    """Whether every change is in the log, which then is their order, and proves what is known of items."""
    tells_equal: bool
    """Whether setting an equal value is a change."""

    @abstractmethod
    def name(self, key: Key) -> str:
        """The full name of an item's document."""

    @abstractmethod
    def state(self, document: Any) -> State:
        """The state that a document holds; ``None``: there is none."""

    @abstractmethod
    def message(self, key: Key, before: State, after: State, now: int) -> Any:
        """The write that brings an item from one state to the other, and fails if it is in neither."""

    @abstractmethod
    def deadline(self, key: Key, expires: int) -> Any:
        """The write that keeps (or with 0 removes) the record of an item's deadline."""

    def fields(self, key: Key, before: State, json: bytes) -> Any:
        """The document's own fields for a new value, where they are another program's. Raises `InvalidValue`."""
        return None

    def position(self, at: int, left: int = 0, name: str = "") -> str:
        """The position of a change where times are the order: that of its commit (µs), and how many follow in it.

        ``name`` is its document's; events have none.
        """
        return f"{at:016x}"

    def rank(self, name: str) -> str:
        """What the documents of one commit are told in the order of."""
        return name

    def alike(self, key: Key, before: State, json: bytes) -> bool:
        """Whether a new value is what is stored already, to the last bit."""
        return False


class ManagedLayout(Layout):
    """Items in managed storage: the value is one text."""

    tells_equal = True

    def __init__(self, paths: Paths, *, log: bool) -> None:
        self._paths = paths
        self.keeps_log = log

    def name(self, key: Key) -> str:
        """See `Paths.item`."""
        return self._paths.item(*key)

    def state(self, document: Any) -> State:
        """Without a log the version is the time of change."""
        if document is None:
            return NOTHING
        fields = document.fields
        expires = plain(fields["expires"]) if "expires" in fields else 0
        version = fields["version"].string_value if self.keeps_log else version_at(document.update_time)
        return State(version, fields["json"].string_value.encode(), expires, document.update_time)

    def message(self, key: Key, before: State, after: State, now: int) -> Any:
        """Guarded by the time of the last change."""
        if after.json is None:
            return removed(self.name(key), after=before.updated)
        # Where versions are times an equal value would change nothing: the nonce makes it differ.
        version = after.version or f"{now:x}-{secrets.token_hex(3)}"
        fields: dict[str, str | int] = {"group": key[0], "id": key[1], "version": version, "json": after.json.decode()}
        if after.expires:
            fields["expires"] = after.expires
        return stored(self.name(key), fields, after=before.updated, fresh=before.updated is None)

    def deadline(self, key: Key, expires: int) -> Any:
        """A document beside the items, which the sweeper can search without an index of its own."""
        name = self._paths.deadline(*key)
        if not expires:
            return removed(name)
        return stored(name, {"group": key[0], "id": key[1], "at": expires})

    def item(self, document: Any, now: int) -> Item | None:
        """The item in a document; ``None`` if it has expired at ``now`` (µs)."""
        state = self.state(document)
        if state.expires and state.expires <= now:
            return None
        fields = document.fields
        group, id = fields["group"].string_value, fields["id"].string_value
        return Item(group, id, state.json or b"", state.version or "", state.expires != 0)


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
