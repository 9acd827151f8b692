"""The contract between motia-core and a storage backend. Read this first, `memory` next.

A backend is a subclass of `Adapter` and an `AdapterPlugin` that describes it. The core
calls it only through what stands here, never knows which one it talks to, and has
already refused bad names, bad values and unsupported options. Clause numbers (A1...)
are those of docs/reference/semantics.md; ``motia_core.testing`` proves them.

**Writing.** `Adapter.write` gets one or more `Write`\\ s to one stream. They happen all or
not at all, in one atomic step with their changes in the stream's log (A7, B1). For each::

    row = what is stored under (write.group, write.id), or None
    write.check(row.version or None)       # raises Conflict: nothing is written
    new = write.resolve(row.json or None)  # the bytes to store; None: remove it

`resolve` is pure, so it may be called again after losing a race. Independent calls may
be coalesced into one round trip, as long as each succeeds or fails alone.

**The log.** Each stream has one order of changes, which every process sees alike (B2).
A `position` names a place in it: an opaque string; of two positions of one stream the
later compares greater, as plain strings. It carries the identity of the store's history,
so that one from a lost history is refused with `PositionExpired` (B4). No entry may ever
appear before one that was already read: take the order at commit, not at the request.

**Reading.** `get` and `list` see at least every write this process has finished. A
`snapshot` is exact: its items are those that all changes up to its position produce,
and no later one. `watch(after)` yields every change after that position, once each.

Cancelling any call must leave the adapter usable (F3); `close` leaves nothing behind
(F4). Driver errors come out as this project's errors, with the original as the cause.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel

from motia_core.errors import PluginError, UnsupportedCapability
from motia_core.model import Batch, Item, Snapshot, StreamSpec, Write, WriteResult

Level = Literal["full", "limited", "unsupported"]


@dataclass(frozen=True, slots=True)
class Support:
    """How far a capability is kept: full, limited (and how), or unsupported (and why)."""

    level: Level
    note: str = ""

    def __post_init__(self) -> None:
        if self.level not in get_args(Level):
            raise PluginError(f"Support: level {self.level!r} is not one of {', '.join(map(repr, get_args(Level)))}")

    def __bool__(self) -> bool:
        return self.level != "unsupported"


FULL = Support("full")


def limited(note: str) -> Support:
    """Kept within a limit, which ``note`` states."""
    return Support("limited", note)


def unsupported(reason: str) -> Support:
    """Not kept, for this reason. The core refuses it before any I/O."""
    return Support("unsupported", reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a backend promises. Everything is declared; nothing has a default to hide behind.

    The suite holds each backend to it both ways: what is declared must pass, what is
    not must be refused by a clear error before any I/O.
    """

    exact_values: Support
    """`get` returns what `set` stored, to the last bit (A1). "limited", for mapped storage: equal
    after the mapping of types that the note names; what it cannot hold raises `InvalidValue`."""
    equal_writes: Support
    """Setting an equal value is a change too, with a version of its own (A2)."""
    any_ids: Support
    """Any text is an id and a group (A9). "limited", for mapped storage: the note names the types
    that ids and groups have there; others raise `InvalidName`."""
    isolation: Support
    """Namespaces and streams keep items apart (A9). "limited": the items are a table of the user's, which
    one stream maps; `Adapter.prepare` refuses a second one, and every namespace sees the same."""
    conditional_writes: Support
    """``expect=`` (A5). Not optional for managed storage."""
    batch: Support
    """Several writes in one atomic step (A7)."""
    ttl: Support
    """``ttl=`` (A10)."""
    custom_events: Support
    """``send`` (B6)."""
    history: Support
    """Each change is seen (B1, B3). "limited": coalesced (B9, see `Adapter.watch`)."""
    ordered_versions: Support
    """Versions grow within an item (A2). "limited": they only compare as equal or not."""
    restore_detection: Support
    """A position of a lost or restored history is refused (B4)."""
    durable: Support
    """Acknowledged writes survive (B3); the note says what a crash of the store may lose."""
    multi_process: Support
    """Several processes may share the store (B2, A4)."""
    foreign_writes: Support
    """Writes of other programs become changes (B5)."""
    max_batch_writes: int
    """Writes in one batch, at most."""
    max_batch_bytes: int
    """Bytes of values in one batch, at most."""
    max_value_bytes: int
    """Bytes of one value that the backend can take, at most."""
    max_position_length: int
    """Characters of a position, at most (F5)."""
    update_attempts: int
    """Attempts after which a contended update gives up with `Conflict` (A4); 1: it never races."""
    expiry_bound: float
    """Seconds within which an expired item's delete is in the log (A10)."""
    notice_bound: float
    """Seconds within which another process's or program's write is seen (B2, B5)."""
    progress_bound: float
    """Seconds within which a quiet watch reaches any head that was read before."""
    tested_items: int
    """Items that the test server can take in one stream (A6)."""

    def __new__(cls, **declared: Any) -> Self:
        """Raises `PluginError` that names what is not declared, or not known."""
        known = cls.__dataclass_fields__
        missing = [name for name in known if name not in declared]
        unknown = [name for name in declared if name not in known]
        if declared and (missing or unknown):  # copies are made without
            said = [f"nothing is declared for {', '.join(map(repr, missing))}"] if missing else []
            said += [f"{', '.join(map(repr, unknown))} is no capability"] if unknown else []
            raise PluginError(f"Capabilities: {'; '.join(said)}; there are: {', '.join(known)}")
        return object.__new__(cls)

    def __post_init__(self) -> None:
        for name, declared in self.__dataclass_fields__.items():
            value = getattr(self, name)
            if declared.type == "Support" and not isinstance(value, Support):
                raise PluginError(f"Capabilities: {name} must be FULL, limited(how) or unsupported(why), not {value!r}")
            if declared.type in ("int", "float") and not _is_amount(value, whole=declared.type == "int"):
                raise PluginError(f"Capabilities: {name} must be a number ({declared.type}), 0 or more, not {value!r}")

    @property
    def is_coalesced(self) -> bool:
        """Whether states are told instead of steps (B9)."""
        return self.history.level == "limited"

    def supports(self) -> dict[str, Support]:
        """The declared levels by name, in the order above."""
        return {name: value for name in self.__slots__ if isinstance(value := getattr(self, name), Support)}


def _is_amount(value: object, *, whole: bool) -> bool:
    kinds = int if whole else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and value >= 0


@dataclass(frozen=True, slots=True)
class Retention:
    """How much log a storage keeps per stream (B7): at most ``count`` changes, and none
    older than ``age`` seconds; ``None``: no such bound."""

    count: int | None = 100_000
    age: float | None = None


@dataclass(frozen=True, slots=True)
class StorageSettings:
    """What every storage type can be told, whatever its adapter."""

    name: str
    """The storage type, as in ``[storage.NAME]``."""
    namespace: str = "motia"
    """Keeps applications that share a server apart (A9)."""
    timeout: float = 5.0
    """Seconds after which a call to an unreachable backend fails (F1)."""
    retention: Retention = field(default_factory=Retention)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing ``doctor`` has to say. ``level`` is "ok", "warning" or "error"."""

    level: Literal["ok", "warning", "error"]
    message: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step that a store needs before it can be used: what to run there, for people to read."""

    name: str
    """Unique among the storage's own; file names are made of it."""
    text: str


class Adapter(ABC):
    """One open storage. All methods run on the event loop that `open` ran on."""

    def __init__(self, settings: StorageSettings) -> None:
        self.settings = settings

    @property
    @abstractmethod
    def address(self) -> str:
        """Where the store is, for messages: never with a password."""

    @abstractmethod
    def capabilities(self, stream: StreamSpec) -> Capabilities:
        """What this adapter promises for ``stream`` (mapped and hidden ones may differ)."""

    @abstractmethod
    async def open(self) -> None:
        """Connect. Raises `BackendUnavailable` (with the remedy) within the timeout."""

    @abstractmethod
    async def close(self) -> None:
        """Free everything. Watches end; calling it twice, or without `open`, is fine."""

    async def prepare(self, stream: StreamSpec) -> None:  # noqa: B027 (nothing to do is the usual case)
        """Called once for each stream before its first use: make or check what it needs."""

    @abstractmethod
    async def write(self, stream: StreamSpec, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        """Do all writes and log their changes, or nothing. ``None``: a delete of nothing.

        Raises whatever `Write.check` and `Write.resolve` raise; `Conflict` when a race
        did not end within the declared attempts; `BackendUnavailable` when nothing was
        written; `OutcomeUnknown` when that is not known.
        """

    @abstractmethod
    async def get(self, stream: StreamSpec, group: str, id: str) -> Item | None:
        """The item, or ``None``. Expired items are invisible."""

    @abstractmethod
    async def list(self, stream: StreamSpec, group: str, *, after: str | None, limit: int | None) -> Sequence[Item]:
        """The group's items by the UTF-8 bytes of their ids, from the first id > ``after``."""

    @abstractmethod
    async def list_groups(self, stream: StreamSpec, *, after: str | None, limit: int | None) -> Sequence[str]:
        """Groups that have items, by UTF-8 bytes, from the first > ``after``."""

    @abstractmethod
    async def snapshot(self, stream: StreamSpec, group: str, id: str | None, *, limit: int | None) -> Snapshot:
        """The group's items (or the one item) and the position up to which they are true.

        At most ``limit`` items are returned; the caller asks for one more than it takes.
        """

    @abstractmethod
    async def head(self, stream: StreamSpec) -> str:
        """A position at or after every change whose write has returned; cheap."""

    @abstractmethod
    async def floor(self, stream: StreamSpec) -> str:
        """The oldest position that `watch` can still start from."""

    @abstractmethod
    def watch(self, stream: StreamSpec, after: str) -> AsyncGenerator[Batch, None]:
        """Yield batches of the changes after position ``after``, for ever.

        The first batch (it may be empty) comes as soon as the watch is established. A
        quiet watch yields empty batches whenever its position moves on, so that it
        passes any `head` read before within ``progress_bound``. Raises
        `PositionExpired` when changes after the position are gone, and
        `BackendUnavailable` when the connection is lost: the caller starts again from
        the last position.

        Where history is coalesced, a batch tells for each item that changed since the batch
        before (or since ``after``) what it is now, once: "create" or "update", or "delete" with
        the last value that is known (both, if it went and came again). An item that came and
        went in between is told as a delete if this process wrote it or has shown it (a snapshot,
        a read, another watch), and may be left out else. Custom events are all told. A batch that
        left out even what was shown, as its reader was too slow, ``leaps``: whoever has a snapshot
        from within it needs another one.
        """

    def resume(self, stream: StreamSpec, after: str) -> AsyncGenerator[Batch, None]:
        """As `watch`, for a reader who was told of ``after`` by another process, or may have been.

        It differs only where history is coalesced. Each process leaves out what came and
        went between two of its own looks, so a reader may have an item from one process
        that the other has never told of. The first batch tells all that is different from
        ``after``, such items' deletes among it, up to a position that every `watch` of this
        process goes on from: the reader may have all that is there, so it counts as shown.
        Whoever has only a part of that batch comes back by `resume`.
        """
        return self.watch(stream, after)

    def migrations(self) -> Sequence[Migration]:
        """What the store needs before `open`, in order, done or not. No I/O; most stores need nothing."""
        return []

    async def migrate(self) -> Sequence[str]:
        """Do those `migrations` that are missing, and return their names. Called without `open`.

        Raises `UnsupportedCapability`, with what to do instead, if the store cannot be changed this way.
        """
        return []

    async def begin_history(self, stream: StreamSpec) -> None:
        """Begin a new history: all positions of the stream expire.

        For a store that was restored in a way that ``restore_detection`` cannot notice. Raises
        `UnsupportedCapability` where there is no such way, or none to do this.
        """
        raise UnsupportedCapability(f"storage {self.settings.name!r}: a new history cannot be begun by hand here")

    async def history_reach(self, stream: StreamSpec) -> float | None:
        """Seconds of a stream's history that there is room for, where the store itself decides that.

        ``None``: it keeps what `StorageSettings.retention` says, or has not run out of room yet.
        """
        return None

    async def diagnose(self) -> Sequence[Finding]:
        """What ``doctor`` reports: reachable, versions, settings that will hurt."""
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterPlugin:
    """How an adapter introduces itself, without importing its driver.

    A plugin returns these from the hook ``motia_register_adapters``.
    """

    name: str
    """As in ``adapter = "redis"``."""
    schemes: tuple[str, ...]
    """URL schemes that choose it, as in ``redis://``."""
    options: type[BaseModel]
    """Its own options, beside the common ones of `StorageSettings`; unknown keys are refused."""
    load: Callable[[], Callable[[StorageSettings, Any], Adapter]]
    """Imports the driver and returns what builds the adapter from settings and options.
    An ``ImportError`` becomes `MissingDependency` with the line that installs ``extra``."""
    from_url: Callable[[str], Mapping[str, Any]]
    """Turns a storage URL into options; raises ``ValueError`` with what is wrong."""
    modes: Mapping[str, Capabilities]
    """Declared capabilities by mode ("managed", "mapped", ...), for the matrix."""
    install: str = ""
    """What to install when the driver is missing, as in ``motia-core[redis]``."""
