"""The words of the project, as types: items, writes, changes, snapshots.

Stored values are held as compact UTF-8 JSON bytes (``json``); ``value``/``data`` decode
them afresh at each use, so no two readers share a mutable object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from motia_core.errors import Conflict
from motia_core.operations import Operations
from motia_core.values import decode

ABSENT: Final = "absent"
"""As ``expect=``: the item must not exist."""

WriteKind = Literal["set", "update", "delete", "event"]
ChangeType = Literal["create", "update", "delete", "event"]


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """What an adapter must know of a stream.

    ``hidden`` streams are the project's own (triggers, state, queues): their names begin
    with ``$``, which no user's name can, and they are always *managed*, also on a
    storage that maps a user's table. ``log=False``: nobody will watch it, so no change
    needs to be recorded.
    """

    name: str
    hidden: bool = False
    log: bool = True


@dataclass(frozen=True, slots=True)
class Item:
    """One stored item. ``expires`` tells that it carries a deadline (A10)."""

    group: str
    id: str
    json: bytes
    version: str
    expires: bool = False

    @property
    def value(self) -> dict[str, Any]:
        """The item, decoded afresh."""
        return decode(self.json)  # type: ignore[no-any-return]


@dataclass(slots=True)
class Write:
    """One write, already validated by the core.

    An adapter reads the item, calls `check` with its version and `resolve` with its
    value, and stores what that returns, all in one atomic step with the change.
    """

    kind: WriteKind
    group: str
    id: str | None
    json: bytes | None = None
    """``set``: the new value. ``event``: its data."""
    expect: str | None = None
    """A version, `ABSENT`, or ``None`` for unconditional."""
    ttl: float | None = None
    """``set`` only: seconds to live. A ``set`` without it ends an earlier deadline; an
    ``update`` keeps it."""
    event_type: str | None = None
    operations: Operations | None = None
    """``update``: for adapters with a native fast path; others use `resolve`."""
    finish: Callable[[Mapping[str, Any]], bytes] | None = field(default=None, repr=False)
    """``update``: encodes the result; raises if the schema or a limit refuses it."""

    def check(self, version: str | None) -> None:
        """Raise `Conflict` unless ``version`` (``None``: no item) is the expected one."""
        if self.expect is None:
            return
        if self.expect == ABSENT:
            if version is not None:
                raise Conflict(
                    f"item {self.id!r} of group {self.group!r} exists already", expected=ABSENT, actual=version
                )
        elif version != self.expect:
            found = "does not exist" if version is None else "has changed"
            raise Conflict(
                f"item {self.id!r} of group {self.group!r} {found} (another version was expected)",
                expected=self.expect,
                actual=version,
            )

    def resolve(self, old: bytes | None) -> bytes | None:
        """The value to store (``None``: remove it), given the one that is there.

        Pure. Raises `UpdateError`, `SchemaError` or `InvalidValue` if an update does not
        apply; nothing may then be written.
        """
        if self.kind == "set":
            return self.json
        if self.kind == "update":
            assert self.operations is not None
            assert self.finish is not None
            return self.finish(self.operations.apply(decode(old) if old is not None else {}))
        return None


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What a write did. ``type`` is "create", "update", "delete" or "event"."""

    type: ChangeType
    group: str
    id: str | None
    old_json: bytes | None
    new_json: bytes | None
    version: str
    """The item's version now (after a delete: that of the delete; of an event, which changes no item: empty)."""
    position: str
    timestamp: float
    """Milliseconds since the epoch, strictly rising along the stream."""

    @property
    def old_value(self) -> Any:
        """The value before, or ``None``."""
        return None if self.old_json is None else decode(self.old_json)

    @property
    def new_value(self) -> Any:
        """The value now, or ``None``."""
        return None if self.new_json is None else decode(self.new_json)


@dataclass(slots=True)
class Change:
    """One entry of a stream's log: a create, update, delete or custom event.

    ``json`` is the new value; of a delete the old one; of an event its data.
    """

    type: ChangeType
    stream: str
    group_id: str
    id: str | None
    json: bytes | None
    timestamp: float
    version: str | None
    position: str
    event_type: str | None = None

    @property
    def data(self) -> Any:
        """The value, decoded afresh at each use."""
        return None if self.json is None else decode(self.json)


@dataclass(frozen=True, slots=True)
class Batch:
    """What a watch yields: changes in order, and the position up to which it has read.

    An empty batch is *progress*: the stream is quiet, the cursor moves all the same.
    """

    changes: tuple[Change, ...]
    position: str
    leaps: bool = False
    """Whether nothing is to be gone on from a place within it but what it tells itself (see `Adapter.watch`)."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The items of a group (or one item) with the position up to which they are true."""

    items: tuple[Item, ...]
    position: str
    timestamp: float
    """At or after all it contains, before all that follows (B10)."""
    frames: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)
    """Kept here by the server: the snapshot as encoded for the wire, once for everybody."""
