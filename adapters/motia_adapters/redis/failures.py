"""What Redis's errors mean here: neither hiredis's errors nor the system's leave this adapter."""

from __future__ import annotations

import ssl

from motia_core.errors import BackendError, BackendUnavailable

_UNAVAILABLE = {
    "LOADING": "the server is loading its data: wait a little",
    "READONLY": "this is a read-only replica: connect to the primary",
    "MASTERDOWN": "this replica has lost its primary: connect to the primary",
    "MISCONF": "the server cannot save its data, and so refuses writes: look at its log and its disk",
    "OOM": "the server's maxmemory is used up: raise it, keep less history, or remove items",
    "NOREPLICAS": "too few replicas are connected (min-replicas-to-write): bring them back",
    "CLUSTERDOWN": "the cluster has lost nodes: look at CLUSTER INFO",
    "TRYAGAIN": "the cluster is moving this stream's slot: try again when it has",
    "ASK": "the cluster is moving this stream's slot: try again when it has",
    "BUSY": "another program's script keeps the server busy: look at SCRIPT KILL",
    "MAXCLIENTS": "the server has too many clients: raise maxclients",
}
_REFUSED = {
    "NOAUTH": "give a password: redis://:password@host or password = ...",
    "WRONGPASS": "check username and password",
    "NOPERM": "the user needs ~{NAMESPACE:*, &{NAMESPACE:* and the commands that the adapter's README lists",
    "WRONGTYPE": "another program uses this key: remove it, or choose another namespace",
    "NOSCRIPT": "another program runs SCRIPT FLUSH all the time: end it",
    "UNKVERSION": "Redis 6.2 or newer, or Valkey, is needed",
    "EVICTION": "set maxmemory-policy to noeviction, or use another server",
}
_TEXTS = {
    "invalid password": "WRONGPASS",
    "AUTH <password> called without any password": "WRONGPASS",
    "max number of clients reached": "MAXCLIENTS",
    "access a non local key": "TRYAGAIN",
    "unknown command": "UNKVERSION",
}


def code_of(text: str) -> str:
    """The code of an error reply. Redis 6.2 wraps those of scripts in a sentence, so the text is searched."""
    first = text.partition(" ")[0].lstrip("-")
    if first in _UNAVAILABLE or first in _REFUSED or first == "MOVED":
        return first
    for code in (*_UNAVAILABLE, *_REFUSED):
        if f"-{code} " in text or f": {code} " in text:
            return code
    return next((code for part, code in _TEXTS.items() if part in text), first)


def refused(error: BaseException | str, address: str, doing: str) -> BackendError:
    """This project's error for an error reply: nothing was done."""
    code = code_of(str(error))
    remedy = _UNAVAILABLE.get(code) or _REFUSED.get(code)
    kind = BackendUnavailable if code in _UNAVAILABLE else BackendError
    return _made(kind, f"redis: cannot {doing} at {address}: {error}" + (f" ({remedy})" if remedy else ""), error)


def unreachable(error: BaseException | str, address: str, doing: str) -> BackendUnavailable:
    """The error of a call that reached no server, or of a read without a reply."""
    remedy = "is the server running, and are host and port right?"
    if isinstance(error, ssl.SSLError):
        remedy = "check tls, tls_ca_file and the server's certificate"
    said = "timed out" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
    made = _made(BackendUnavailable, f"redis: cannot {doing} at {address}: {said} ({remedy})", error)
    assert isinstance(made, BackendUnavailable)
    return made


def closed(address: str) -> BackendUnavailable:
    """The error of a call to an adapter that is not open."""
    return BackendUnavailable(f"redis: the storage at {address} is not open")


def _made(kind: type[BackendError], message: str, cause: BaseException | str) -> BackendError:
    error = kind(message)
    if isinstance(cause, BaseException):
        error.__cause__ = cause
    return error
