"""What MongoDB's errors mean here: none of PyMongo's errors leaves this adapter."""

from __future__ import annotations

from pymongo.errors import (
    AutoReconnect,
    ConfigurationError,
    ConnectionFailure,
    DocumentTooLarge,
    ExecutionTimeout,
    InvalidOperation,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
    WriteConcernError,
)

from motia_core.errors import BackendError, BackendUnavailable, InvalidValue, MotiaError, OutcomeUnknown

HISTORY_LOST = frozenset({286, 136, 280, 260})
"""ChangeStreamHistoryLost, CappedPositionLost, ChangeStreamFatalError, InvalidResumeToken."""
DUPLICATE = 11000
WRITE_CONFLICTS = frozenset({112, 24, 251, 246, 11000})
"""WriteConflict, LockTimeout, NoSuchTransaction, SnapshotUnavailable, DuplicateKey: the transaction is tried again."""

_STATE = {91, 189, 10107, 11600, 11602, 13435, 13436, 10058}
"""The server changes its state, and has refused or undone the command."""
_REFUSED = {
    13: "the user lacks a permission: the adapter's README lists what it needs",
    18: "check user name, password and authSource",
    8000: "check user name, password and authSource",
    20: "change streams and transactions need a replica set: start mongod with --replSet rs0 and call rs.initiate()",
    40573: "change streams need a replica set: start mongod with --replSet rs0 and call rs.initiate()",
    26: "the collection is not there",
}
_TOO_LARGE = {10334, 17280, 17419, 17420}


def code_of(error: BaseException) -> int:
    """The server's code, or 0."""
    return int(getattr(error, "code", None) or 0)


def is_conflict(error: BaseException) -> bool:
    """Whether a transaction lost a race and may be tried again: nothing of it was written."""
    return (
        isinstance(error, OperationFailure)
        and (code_of(error) in WRITE_CONFLICTS or error.has_error_label("TransientTransactionError"))
        and code_of(error) not in _STATE
    )


def is_reply(error: BaseException) -> bool:
    """Whether a server that is and stays the primary said it."""
    return (
        isinstance(error, OperationFailure) and code_of(error) not in _STATE and not isinstance(error, NotPrimaryError)
    )


def unreachable(what: str, address: str) -> BackendUnavailable:
    """The error of a call that never reached the server."""
    return BackendUnavailable(f"mongodb: {what}, at {address}; is the server running, and the address right?")


def failure(error: BaseException, address: str, *, write: bool, committing: bool = False) -> MotiaError:
    """The project's error for one of the driver's. ``write``: the call may have changed something."""
    known: MotiaError
    said = _said(error)
    code = code_of(error)
    if isinstance(error, MotiaError):
        return error
    if isinstance(error, WriteConcernError):
        known = OutcomeUnknown(f"mongodb: no majority confirmed a write ({said}), at {address}; it may have happened")
    elif isinstance(error, DocumentTooLarge):
        known = InvalidValue(f"too large for a document of MongoDB: {said}")
    elif isinstance(error, (ServerSelectionTimeoutError, WaitQueueTimeoutError)):
        known = unreachable(f"no primary can be reached ({said})", address)
    elif isinstance(error, (NotPrimaryError,)) or code in _STATE:
        if committing:
            known = OutcomeUnknown(f"mongodb: the primary changed during a commit, at {address}")
        else:
            known = BackendUnavailable(f"mongodb: the primary is changing ({said}), at {address}; try again")
    elif isinstance(error, (NetworkTimeout, AutoReconnect, ConnectionFailure, TimeoutError)):
        if write:
            known = OutcomeUnknown(f"mongodb: no reply to a write ({said}), at {address}; it may have happened")
        else:
            known = unreachable(f"no reply ({said})", address)
    elif isinstance(error, ExecutionTimeout):
        known = BackendUnavailable(f"mongodb: the server took too long ({said}), at {address}")
    elif isinstance(error, OperationFailure) and code in _TOO_LARGE:
        known = InvalidValue(f"too large for a document of MongoDB: {said}")
    elif isinstance(error, OperationFailure):
        remedy = _REFUSED.get(code, "")
        known = BackendError(f"mongodb: {said} (code {code}), at {address}" + (f"; {remedy}" if remedy else ""))
    elif isinstance(error, InvalidOperation):
        known = BackendUnavailable(f"mongodb: the client is closed, at {address}")
    elif isinstance(error, (ConfigurationError, PyMongoError)):
        known = BackendError(f"mongodb: {said}, at {address}")
    else:
        known = BackendError(f"mongodb: {type(error).__name__}: {said}, at {address}")
    known.__cause__ = error
    return known


def _said(error: BaseException) -> str:
    details = getattr(error, "details", None)
    text = details.get("errmsg") if isinstance(details, dict) else None
    first = str(text or error or type(error).__name__).partition(", Timeout:")[0]
    return first if len(first) <= 300 else f"{first[:300]}..."
