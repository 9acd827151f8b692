"""What the runner is told, and what it tells: triggers, runs, reports, status."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from motia_core.errors import ConfigError
from motia_core.model import Change, StreamSpec

OrderKey = tuple[str, str | None]
"""What is handled in order: a group and an item of it, or a group alone (its custom events)."""


@dataclass(slots=True)
class RunInfo:
    """Which run of a handler this is; a handler guards its own effects with it."""

    epoch: int
    """Grows whenever the partition changes hands: a greater one was given later."""
    position: str
    """The change's place in its stream."""
    attempt: int
    """1 for the first."""
    partition: int
    uid: str = ""
    """The trigger's, for ``Queue.enqueue(..., origin=(uid, position, number of the call))``."""


Handle = Callable[[Change, RunInfo], Awaitable[object]]
Matches = Callable[[Change], bool | Awaitable[bool]]


def shown(key: tuple[str, ...]) -> str:
    """A trigger's key for people: ``index-document/stream/documents`` (the number is left out while it is 0)."""
    return "/".join(part for part in key if part not in ("", "0"))


def described(change: Change) -> str:
    """A change for people: ``update of workspace-1/doc-123``."""
    where = change.group_id if change.id is None else f"{change.group_id}/{change.id}"
    return f"{change.type} of {where}"


class Schedule(Protocol):
    """When the ticks of a cron trigger are. A tick is its time in UTC, as text that sorts."""

    def tick_at(self, seconds: float) -> str:
        """A time (seconds since the epoch) as text."""
        ...

    def due(self, after: str, now: float) -> tuple[list[str], int]:
        """The ticks to run after one and up to ``now``, and how many others were missed."""
        ...

    def wait(self, after: str, now: float) -> float:
        """Seconds until the next tick after one."""
        ...


def item_key(change: Change) -> OrderKey:
    """The order key of a stream's change."""
    return change.group_id, change.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """One durable trigger. Raises `ConfigError` when its options make no sense."""

    key: tuple[str, ...]
    """What it is known by in the store: step name, kind, source, number among equals."""
    stream: StreamSpec
    """The stream it follows, on the runner's storage."""
    handle: Handle
    """Runs for each change; raising (or the timeout) is a failed attempt."""
    accepts: Callable[[Change], bool] | None = None
    """A plain, cheap, pure test on each change (group, item, kind); it must not raise."""
    matches: Matches | None = None
    """The user's condition, asked when it is the change's turn; raising is a failed attempt."""
    order_key: Callable[[Change], OrderKey] = item_key
    """Changes with the same key are handled one after the other."""
    topic: str | None = None
    """Of a queue trigger (`motia_core.triggers.queues`): the group whose items are its messages."""
    schedule: Schedule | None = None
    """Of a cron trigger (`motia_core.triggers.cron`): when its ticks are."""
    start: Literal["now", "beginning"] = "now"
    """Where a trigger that the store has never seen begins. A queue's beginning is what lies in it."""
    attempts: int = 5
    """Failed attempts after which a change is a dead letter."""
    backoff: float = 1.0
    """Seconds that a first retry may wait; doubles with each, drawn evenly from 0 up."""
    backoff_cap: float = 60.0
    timeout: float | None = 60.0
    """Seconds an attempt may take."""
    concurrency: int = 16
    """Handlers at once, in one process."""
    window: int = 256
    """Runs in one process, at most, whose outcome the store does not know yet."""
    partitions: int = 16
    """For a trigger that the store has never seen; later only `resize` changes it."""
    previous: tuple[str, ...] | None = None
    """The key it was known by before a rename."""

    def __post_init__(self) -> None:
        what = f"trigger {self.name}"
        if not self.key or not all(isinstance(part, str) for part in self.key):
            raise ConfigError("a trigger's key must be a tuple of text")
        if self.start not in ("now", "beginning"):
            raise ConfigError(f"{what}: start must be 'now' or 'beginning', not {self.start!r}")
        for option in ("attempts", "concurrency", "partitions"):
            if not _is_count(getattr(self, option), 1):
                raise ConfigError(f"{what}: {option} must be a whole number, 1 or more")
        if not _is_count(self.window, 2):
            raise ConfigError(f"{what}: window must be a whole number, 2 or more")
        if self.partitions > 65_536:
            raise ConfigError(f"{what}: partitions must be at most 65536")
        for option in ("backoff", "backoff_cap"):
            if not _is_seconds(getattr(self, option), least=0.0):
                raise ConfigError(f"{what}: {option} must be a number of seconds, 0 or more")
        if self.timeout is not None and not (_is_seconds(self.timeout, least=0.0) and self.timeout > 0):
            raise ConfigError(f"{what}: timeout must be a number of seconds above 0, or None")

    @property
    def name(self) -> str:
        """For messages: see `shown`."""
        return shown(self.key)


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_seconds(value: object, *, least: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value < 1e9


ReportKind = Literal["gap", "dead", "stuck", "limit", "unknown", "fenced", "reset", "trouble"]


@dataclass(frozen=True, slots=True)
class Report:
    """Something that somebody should know. Each is logged too.

    ``kind``: "gap" (changes were lost before they were read), "dead" (a change went to
    the dead letters), "stuck" (a handler ignores its cancellation; its key waits),
    "limit" (too much is parked, reading stops), "unknown" (the store holds a trigger that
    no step declares), "fenced" (partitions were taken by another process), "reset" (the
    store lost its records), "trouble" (the store cannot be reached or misbehaves).
    """

    kind: ReportKind
    message: str
    trigger: str = ""
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """One partition as the store knows it, with what this process knows if it runs it."""

    partition: int
    owner: str | None
    epoch: int
    cursor: str
    parked: int
    crashes: int
    mine: bool
    waiting: int = 0
    """Changes that were read and are not settled (this process only)."""
    oldest: float | None = None
    """Timestamp (ms) of the oldest of them."""


LAG_COUNTED = 1_000
"""Changes that a status counts, at most."""


@dataclass(frozen=True, slots=True)
class TriggerStatus:
    """One trigger, for ``motia-core triggers``."""

    name: str
    key: tuple[str, ...]
    uid: str
    declared: bool
    """Whether this process has a step for it."""
    behind: int | None
    """Changes that no partition has settled, as far as they were counted; ``None``: gone before they were read."""
    since: float | None
    """Timestamp (ms) of the oldest of them."""
    partitions: tuple[PartitionStatus, ...]
    workers: tuple[str, ...]
    """Live workers that declare it."""
    last_error: str | None = None
