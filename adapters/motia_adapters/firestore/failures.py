"""What Firestore's errors mean here: the driver's own do not leave this adapter."""

from __future__ import annotations

import grpc

from motia_core.errors import BackendError, BackendUnavailable, OutcomeUnknown

_Code = grpc.StatusCode

LOST = {_Code.ALREADY_EXISTS, _Code.FAILED_PRECONDITION, _Code.ABORTED}
"""A commit that met another state than it expected, or another commit: nothing was written."""
_UNSURE = {_Code.DEADLINE_EXCEEDED, _Code.UNAVAILABLE, _Code.CANCELLED, _Code.INTERNAL, _Code.UNKNOWN, _Code.DATA_LOSS}
_PASSING = {_Code.UNAVAILABLE, _Code.INTERNAL, _Code.ABORTED}
_UNAVAILABLE = {*_UNSURE, _Code.RESOURCE_EXHAUSTED, _Code.ABORTED}

_REMEDIES = {
    _Code.PERMISSION_DENIED: "give the service account the role roles/datastore.user, and check the project's id",
    _Code.UNAUTHENTICATED: "check the credentials: a service account's key, or `gcloud auth application-default login`",
    _Code.NOT_FOUND: "check project and database, and that the database has been created in Firestore mode",
    _Code.RESOURCE_EXHAUSTED: "the quota is used up: see the project's quotas and billing",
    _Code.DEADLINE_EXCEEDED: "is the network up, and the address right? raise timeout if Firestore is far away",
    _Code.UNAVAILABLE: "is the network up, and the address right?",
    _Code.INVALID_ARGUMENT: (
        "Firestore takes 1 MiB and 40,000 index entries in a document, and 10 MiB in a commit: write less at once, or"
        " exempt large fields from indexing"
    ),
}
_NO_TOKEN = "Getting metadata from plugin failed"
"""How gRPC says that the credentials gave no access token, before anything was sent; its code is UNAVAILABLE."""
_REFUSED_KEY = ("invalid_grant", "invalid_client", "unauthorized_client")
"""How Google's token service refuses a key for good (RFC 6749, 5.2)."""


def _code(error: grpc.aio.AioRpcError) -> grpc.StatusCode:
    said = error.details() or ""
    if _NO_TOKEN in said and any(word in said for word in _REFUSED_KEY):
        return _Code.UNAUTHENTICATED
    if error.code() is _Code.RESOURCE_EXHAUSTED and "message" in said and ("exceeds" in said or "larger than" in said):
        return _Code.INVALID_ARGUMENT  # a message that is too large, not a quota: sending it again is of no use
    return error.code()


def may_pass(error: grpc.aio.AioRpcError) -> bool:
    """Whether a read may be tried again."""
    return _code(error) in _PASSING


def sent_nothing(error: grpc.aio.AioRpcError) -> bool:
    """Whether the call never reached a server."""
    said = f"{error.details()} {error.debug_error_string()}"
    return error.code() is _Code.UNAVAILABLE and ("failed to connect" in said or _NO_TOKEN in said)


def says_nothing(error: BaseException) -> bool:
    """Whether gRPC itself says that a call ended while we wrote to it, in place of the server's reason."""
    return isinstance(error, grpc.aio.AioRpcError) and error.details() == "Internal error from Core"


def is_lost_race(error: grpc.aio.AioRpcError) -> bool:
    """Whether a commit failed because another one came first."""
    said = (error.details() or "").lower()
    return error.code() in LOST and "datastore mode" not in said and "requires an index" not in said


def is_about_content(error: BaseException) -> bool:
    """Whether a commit was refused for what is in it: nothing was written, and nothing will be if it is sent again."""
    cause = error.__cause__
    if not isinstance(cause, grpc.aio.AioRpcError):
        return False
    return _code(cause) is _Code.INVALID_ARGUMENT


def is_out_of_reach(error: BackendError) -> bool:
    """Whether a read failed because Firestore does not remember the time that it was asked about."""
    cause = error.__cause__
    if not isinstance(cause, grpc.aio.AioRpcError):
        return False
    said = (cause.details() or "").lower()
    too_old = "read_time" in said or "read time" in said or "too old" in said
    return cause.code() in (_Code.FAILED_PRECONDITION, _Code.INVALID_ARGUMENT, _Code.OUT_OF_RANGE) and too_old


def read_failed(error: BaseException, address: str, doing: str) -> BackendError:
    """This project's error for a read, or for anything else that writes nothing."""
    return _made(BackendUnavailable if _is_unavailable(error) else BackendError, error, address, doing)


def not_let(code: int, said: str, address: str) -> BackendError:
    """Firestore has ended a listener, with the number of a status code."""
    status = next((known for known in _Code if known.value[0] == code), _Code.UNKNOWN)
    kind = BackendUnavailable if status in _UNAVAILABLE else BackendError
    remedy = _REMEDIES.get(status, "")
    return kind(f"firestore: cannot listen at {address}: {status.name}: {said}" + (f" ({remedy})" if remedy else ""))


def write_failed(error: BaseException, address: str) -> BackendError:
    """This project's error for a commit: whether it was applied may not be known."""
    if isinstance(error, grpc.aio.AioRpcError):
        if error.code() in _UNSURE and not sent_nothing(error):
            return _made(OutcomeUnknown, error, address, "tell whether a write was applied")
        return read_failed(error, address, "write")
    return _made(OutcomeUnknown, error, address, "tell whether a write was applied")


def unreachable(address: str, seconds: float) -> BackendUnavailable:
    """No connection could be made in time."""
    return BackendUnavailable(
        f"firestore: cannot connect to {address} within {seconds:g} s ({_REMEDIES[_Code.UNAVAILABLE]})"
    )


def closed(address: str) -> BackendUnavailable:
    """The error of a call to an adapter that is not open."""
    return BackendUnavailable(f"firestore: the storage at {address} is not open")


def copy_of(error: BackendError) -> BackendError:
    """The same error for another caller, who adds a traceback of its own."""
    made = type(error)(str(error))
    made.__cause__ = error.__cause__
    return made


def _is_unavailable(error: BaseException) -> bool:
    if isinstance(error, grpc.aio.AioRpcError):
        return _code(error) in _UNAVAILABLE
    return isinstance(error, OSError | TimeoutError)


def _made(kind: type[BackendError], error: BaseException, address: str, doing: str) -> BackendError:
    if isinstance(error, grpc.aio.AioRpcError):
        said = f"{_code(error).name}: {error.details()}"
        remedy = _REMEDIES.get(_code(error), "")
        if _NO_TOKEN in said and kind is BackendUnavailable:
            remedy = "the credentials could not be turned into an access token: is the way to Google's accounts open?"
    else:
        said = str(error) or type(error).__name__
        remedy = "check the credentials and the network"
    made = kind(f"firestore: cannot {doing} at {address}: {said}" + (f" ({remedy})" if remedy else ""))
    made.__cause__ = error
    return made
