"""Every error this project raises, in one tree.

    MotiaError
    ├── InvalidName            a stream, group or item id that no backend may hold
    ├── InvalidValue           a value that JSON, or the limits, cannot hold
    │   └── SchemaError        a value that its stream's schema refuses
    ├── UpdateError            update operations that are malformed or do not apply
    ├── Conflict               the item is not at the version the caller expected
    ├── AccessDenied           a client that may not connect, or not listen
    ├── GroupTooLarge          a group too large to be sent as one snapshot
    ├── PositionExpired        the history after a position is gone
    ├── UnsupportedCapability  the backend declares that it cannot do this
    ├── BackendError           the backend refused or failed
    │   ├── BackendUnavailable it cannot be reached, or not in time
    │   └── OutcomeUnknown     a write may or may not have happened
    ├── ConfigError            configuration, streams or steps that do not fit together
    │   └── MissingDependency  an adapter's driver is not installed
    └── PluginError            a plugin that cannot be loaded or misbehaves

A driver's own error is always kept as ``__cause__``. No message holds a password
or a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class MotiaError(Exception):
    """Base of all errors of this project."""


class InvalidName(MotiaError, ValueError):
    """A stream name, group id or item id outside the rules (SEMANTICS A9)."""


class InvalidValue(MotiaError, ValueError):
    """A value that cannot be stored (SEMANTICS A1, A9).

    ``path`` is where in the value, as in ``$.items[3].price``.
    """

    def __init__(self, message: str, *, path: str = "$") -> None:
        super().__init__(f"{path}: {message}")
        self.path = path


class SchemaError(InvalidValue):
    """A value that does not fit its stream's schema (SEMANTICS A8)."""


@dataclass(frozen=True, slots=True)
class OperationProblem:
    """What is wrong with one update operation: its index, a stable code, a sentence."""

    index: int
    code: str
    message: str


class UpdateError(MotiaError, ValueError):
    """Update operations that are malformed, or the first that does not apply (A3).

    ``problems`` lists every malformed operation; ``index`` and ``code`` are those of
    the first. Nothing was written.
    """

    def __init__(self, problems: Sequence[OperationProblem]) -> None:
        self.problems = tuple(problems)
        self.index = self.problems[0].index
        self.code = self.problems[0].code
        super().__init__("; ".join(f"operation {p.index}: {p.message} [{p.code}]" for p in self.problems))


class Conflict(MotiaError):
    """A conditional write met another version, or contention did not end (A4, A5).

    ``actual`` is the version that was found (``None``: no item), where it is known.
    Nothing was written.
    """

    def __init__(
        self,
        message: str,
        *,
        expected: str | None = None,
        actual: str | None = None,
    ) -> None:
        super().__init__(message)
        self.expected = expected
        self.actual = actual


class AccessDenied(MotiaError):
    """Authentication or a join hook said no, failed, or took too long (E1).

    ``reason`` is for logs; the message is what the client may read.
    """

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class GroupTooLarge(MotiaError):
    """A group holds more than one snapshot may carry (C2): read it in pages with ``list``."""


class PositionExpired(MotiaError):
    """The history after a position is gone, or was never this store's (B4).

    ``floor`` is the oldest position that a watch can start from, if known.
    """

    def __init__(self, message: str, *, position: str | None = None, floor: str | None = None) -> None:
        super().__init__(message)
        self.position = position
        self.floor = floor


class UnsupportedCapability(MotiaError):
    """The backend declares that it does not support what was asked; nothing was sent to it."""


class BackendError(MotiaError):
    """The backend answered with an error; the driver's own is the ``__cause__``."""


class BackendUnavailable(BackendError):
    """The backend cannot be reached, or did not answer in time; a write was not applied."""


class OutcomeUnknown(BackendError):
    """A write was sent and its fate is not known: it may have landed, or may still land (F2).

    It is never retried here. Settle it by reading, or by repeating it with ``expect=``.
    """


class ConfigError(MotiaError):
    """Configuration, streams or steps that do not fit together; names the file and the key."""


class MissingDependency(ConfigError):
    """An adapter's driver is not installed; the message holds the command that installs it."""


class PluginError(MotiaError):
    """A plugin that cannot be loaded, collides with another, or breaks the contract."""
