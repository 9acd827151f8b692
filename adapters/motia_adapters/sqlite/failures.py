"""What SQLite's errors mean here: no ``sqlite3.Error`` leaves this adapter."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from motia_core.errors import BackendError, BackendUnavailable, ConfigError

_REMEDIES = {
    sqlite3.SQLITE_BUSY: "another program holds a transaction open: end it, or raise the storage's timeout",
    sqlite3.SQLITE_LOCKED: "another program holds a transaction open: end it, or raise the storage's timeout",
    sqlite3.SQLITE_CANTOPEN: "check that the path is a file in a folder that this user may write to",
    sqlite3.SQLITE_READONLY: "this user must be able to write the file and its folder",
    sqlite3.SQLITE_PERM: "this user must be able to write the file and its folder",
    sqlite3.SQLITE_AUTH: "this user must be able to write the file and its folder",
    sqlite3.SQLITE_FULL: "free some space on the disk",
    sqlite3.SQLITE_IOERR: "check the disk and its free space",
    sqlite3.SQLITE_PROTOCOL: "check that the file is on a local disk, not on a network file system",
    sqlite3.SQLITE_CORRUPT: "restore the file from a backup, or salvage it with sqlite3's .recover",
    sqlite3.SQLITE_NOTADB: "choose another path, or move that file away",
}
_UNAVAILABLE = frozenset(_REMEDIES) - {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def primary_code(error: BaseException) -> int:
    """SQLite's primary result code of an error, or 0."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_busy(error: BaseException) -> bool:
    """Whether somebody else held a lock."""
    return primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def translate(error: Exception, path: Path, doing: str) -> BackendError:
    """This project's error for one of SQLite's or the file system's, which becomes its cause."""
    code = primary_code(error)
    unavailable = code in _UNAVAILABLE or isinstance(error, OSError)
    message = f"sqlite: cannot {doing} {path}: {error}{remedy(error)}"
    translated = (BackendUnavailable if unavailable else BackendError)(message)
    translated.__cause__ = error
    return translated


def remedy(error: Exception) -> str:
    """What helps, in brackets and with a space before, or nothing."""
    text = _REMEDIES.get(
        primary_code(error), "check the path and its permissions" if isinstance(error, OSError) else ""
    )
    return f" ({text})" if text else ""


def explain(cause: Exception, path: Path, doing: str) -> BackendError:
    """This project's error for whatever went wrong: a new one each time, as each goes to another caller."""
    if isinstance(cause, (sqlite3.Error, OSError)):
        return translate(cause, path, doing)
    if isinstance(cause, BackendError):
        error = type(cause)(str(cause))
        error.__cause__ = cause.__cause__
        return error
    if isinstance(cause, ConfigError):  # of a mapped table that has changed meanwhile
        error = BackendError(str(cause))
        error.__cause__ = cause
        return error
    error = BackendError(f"sqlite: cannot {doing} {path}: {cause}")
    error.__cause__ = cause
    return error


def closed(path: Path) -> BackendUnavailable:
    """The error of a call to an adapter that is not open."""
    return BackendUnavailable(f"sqlite: the storage at {path} is not open")
