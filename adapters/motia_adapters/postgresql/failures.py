"""What PostgreSQL's errors mean here, by SQLSTATE; no driver's error leaves an adapter as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from motia_core.errors import BackendError, BackendUnavailable, InvalidValue, MotiaError, OutcomeUnknown

MIGRATE = "run: motia-core migrate apply (or apply what motia-core migrate print shows)"
"""The remedy for a database without our objects."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What a driver's error says.

    ``unreachable``: nothing was sent. ``lost``: it was sent, and what became of it is not
    known. ``refused``: the server answered with an error, and did nothing.
    """

    kind: Literal["unreachable", "lost", "refused"]
    message: str
    code: str = ""
    """The SQLSTATE, PostgREST's own code, or the HTTP status of what stands before it."""
    detail: str = ""


class Raced(BackendUnavailable):
    """Other transactions were in the way (a deadlock, mostly); nothing was written, so that it may be tried again."""


_UNAVAILABLE = {
    "57014": "the statement was cancelled, by statement_timeout or by hand; nothing was written. Raise timeout,"
    " or look for long transactions in pg_stat_activity",
    "55P03": "another transaction holds the lock for too long: look at pg_locks",
    "53300": "the server has no connection left: raise max_connections, lower pool_size, or use a pooler",
    "53100": "the server's disk is full",
    "53200": "the server is out of memory",
    "25006": "this server takes no writes (a replica, or default_transaction_read_only): connect to the primary",
    "57P01": "the server is shutting down",
    "57P02": "the server has crashed and restarts",
    "57P03": "the server is starting up: wait a little",
    "40001": "other transactions were in the way; nothing was written: try again",
    "40P01": "it was in a deadlock with another transaction; nothing was written: try again",
    "PGRST000": "the REST side cannot reach the database",
    "PGRST002": "the REST side cannot read the database's schema: wait a little",
    "PGRST003": "the REST side has no connection left",
    "429": "too many requests: wait a little",
}
POOLER = "pooler"
"""In the place of an SQLSTATE: something in between does not do what the server would."""
_POOLED = "a transaction pooler (PgBouncer, Supavisor) stands between: set pooler = true, or connect past it"
_REFUSED = {
    POOLER: _POOLED,
    "26000": _POOLED,  # prepared on another connection
    "42P05": _POOLED,  # prepared there already
    "3F000": MIGRATE,
    "42883": MIGRATE,
    "42P01": MIGRATE,
    "PGRST202": f"{MIGRATE}; after that the REST side needs a moment to see it",
    "PGRST106": "the schema is not exposed: add it to the exposed schemas of the API (Supabase: Settings, API; or"
    " api.schemas in config.toml)",
    "42501": "the role lacks rights: GRANT USAGE ON SCHEMA and EXECUTE ON ALL FUNCTIONS IN SCHEMA to it"
    " (Supabase: use the service key)",
    "MO002": MIGRATE,
    "MO003": "only read committed will do: ALTER ROLE ... SET default_transaction_isolation = 'read committed'",
    "28P01": "check user and password",
    "28000": "check user, password and pg_hba.conf",
    "3D000": "there is no such database: create it, or correct its name",
    "PGRST301": "the key is not valid, or has expired: take the current service key",
    "PGRST302": "a key is needed: take the current service key",
    "401": "take the current service key",
    "403": "take the current service key",
    "404": "is the address the project's API?",
    "PGRST303": "the key has expired, or its claims are not valid: take the current service key",
}
_RACED = ("40001", "40P01")
_UNFIT = ("22P05", "22021")  # text that PostgreSQL cannot hold


def failure(trouble: Trouble, who: str, address: str, doing: str, *, writes: bool, cause: BaseException) -> MotiaError:
    """This project's error. ``who`` is the adapter's name; ``writes``: whether it was a write."""
    at = f"{who}: cannot {doing} at {address}: {trouble.message}"
    error: MotiaError
    if trouble.kind == "unreachable":
        error = BackendUnavailable(f"{at} (is the server running, and is the address right?)")
    elif trouble.kind == "lost" and writes:
        error = OutcomeUnknown(f"{at}; it may have happened all the same")
    elif trouble.kind == "lost":
        error = BackendUnavailable(at)
    elif trouble.code in _UNFIT:
        error = InvalidValue(f"{who}: PostgreSQL cannot hold this text (U+0000): {trouble.message}")
    elif trouble.code in _RACED:
        error = Raced(f"{at} ({_UNAVAILABLE[trouble.code]})")
    elif trouble.code in _UNAVAILABLE or trouble.code[:2] in ("53", "08"):
        remedy = _UNAVAILABLE.get(trouble.code)
        error = BackendUnavailable(at + (f" ({remedy})" if remedy else ""))
    else:
        remedy = _REFUSED.get(trouble.code)
        error = BackendError(at + (f" ({remedy})" if remedy else ""))
    error.__cause__ = cause
    return error


def closed(who: str, address: str) -> BackendUnavailable:
    """The error of a call to an adapter that is not open."""
    return BackendUnavailable(f"{who}: the storage at {address} is not open")
