"""How managed storage keeps an item: one document, of which the oplog is the log.

```
_id: {g: group, i: id}
g:   the group, only while the item is there (index: groups)
v:   12 random hex digits, then the value as JSON text; no number is ever interpreted
o:   the last v, once the item was deleted (a tombstone, purged later)
p:   the v of an expired item that this write replaced: two changes in one
t:   what the write was: "c" create, "u" update, "d" delete
c:   counts the writes; begins at microseconds since the epoch
r:   the random digits of the last write: with c the version
x:   the deadline (index: expiry)
d:   when the item was deleted (index: purge)
```

Every write changes ``v`` (or makes ``o``), ``c`` and ``r``, so that a change event holds all that
a change needs, without looking at the document as it is by then.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bson import Int64, MaxKey

from motia_core.model import ChangeType, Write

NONCE = 12
INDEXES: Final = [
    {"key": {"g": 1}, "name": "groups", "sparse": True},
    {"key": {"x": 1}, "name": "expiry", "sparse": True},
    {"key": {"d": 1}, "name": "purge", "sparse": True},
]
FIELDS: Final = {
    "v": 1, "c": 1, "r": 1, "x": 1,
    "z": {"$and": ["$x", {"$lte": ["$x", "$$NOW"]}]},
}  # fmt: skip
"""What a read projects: ``z`` tells whether the item has expired, by the server's clock."""
ALIVE: Final = {"v": {"$exists": True}, "$expr": {"$gt": [{"$ifNull": ["$x", {"$literal": MaxKey()}]}, "$$NOW"]}}
REMOVE: Final = "$$REMOVE"


@dataclass(frozen=True, slots=True)
class State:
    """What is stored under a key: ``exists`` also of a tombstone."""

    exists: bool = False
    count: int = 0
    nonce: str = ""
    stored: str | None = None
    """``v`` of an item that is there."""
    expired: str | None = None
    """``v`` of one that is there no more."""
    deadline: bool = False

    @property
    def json(self) -> bytes | None:
        """The value."""
        return None if self.stored is None else json_of(self.stored)

    @property
    def version(self) -> str | None:
        """The version of an item that is there."""
        return None if self.stored is None else version_of(self.count, self.nonce)


NOTHING = State()


@dataclass(frozen=True, slots=True)
class Told:
    """One change as a document tells it."""

    type: ChangeType
    group: str
    id: str | None
    json: bytes | None
    version: str | None
    half: int = 0
    event_type: str | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """A change of which it cannot be told what it was."""

    why: str
    half: int = 0


def key_of(group: str, id: str) -> dict[str, str]:
    """The ``_id``."""
    return {"g": group, "i": id}


def json_of(stored: str) -> bytes:
    """The value in a ``v``, ``o`` or ``p``."""
    return stored[NONCE:].encode()


def version_of(count: int, nonce: str) -> str:
    """An item's version: grows with the count, and never comes again."""
    return f"{count:014x}{nonce}"


def parse_version(version: str) -> tuple[int, str] | None:
    """The count and the nonce in a version; ``None`` if it is none of ours."""
    if len(version) != 14 + NONCE:
        return None
    try:
        count = int(version[:14], 16)
    except ValueError:
        return None
    return (count, version[14:]) if version_of(count, version[14:]) == version else None


def state_of(document: Mapping[str, Any] | None) -> State:
    """The state in a document as it was read (`FIELDS`)."""
    if document is None:
        return NOTHING
    stored = document.get("v")
    gone = bool(document.get("z"))
    return State(
        True, document["c"], document["r"], None if gone else stored, stored if gone else None, "x" in document
    )


def new_nonce() -> str:
    """Digits that no other write has."""
    return secrets.token_hex(NONCE // 2)


def first_count() -> int:
    """Where an item that was never there begins to count: past any earlier one that was purged."""
    return time.time_ns() // 1000


def plain_set(write: Write, nonce: str) -> dict[str, Any]:
    """Replace an item that is there and carries no deadline: what `blind_set` does to it, without a pipeline."""
    assert write.json is not None
    return {"$set": {"v": nonce + write.json.decode(), "r": nonce}, "$inc": {"c": Int64(1)}}


def blind_set(write: Write, nonce: str, seed: int) -> list[dict[str, Any]]:
    """Create or replace an item that carries no deadline, whatever it is."""
    assert write.json is not None
    return [
        {
            "$set": {
                "t": {"$cond": [{"$eq": [{"$type": "$v"}, "missing"]}, "c", "u"]},
                "g": {"$literal": write.group},
                "v": nonce + write.json.decode(),
                "c": {"$add": [{"$ifNull": ["$c", Int64(seed - 1)]}, 1]},
                "r": nonce,
                "o": REMOVE,
                "p": REMOVE,
                "d": REMOVE,
                "x": REMOVE,
            }
        }
    ]


def guard(write: Write, state: State) -> dict[str, Any]:
    """The filter that finds the item in this state only."""
    assert write.id is not None
    key = {"_id": key_of(write.group, write.id)}
    if not state.exists:
        return {**key, "c": {"$exists": False}}
    return {**key, "c": Int64(state.count), "r": state.nonce}


def store(write: Write, state: State, json: bytes, nonce: str) -> tuple[list[dict[str, Any]], State]:
    """Store a value over a known state, and the state then."""
    stored = nonce + json.decode()
    count = state.count + 1 if state.exists else first_count()
    fields: dict[str, Any] = {
        "t": "u" if state.stored is not None else "c",
        "g": {"$literal": write.group},
        "v": stored,
        "c": Int64(count),
        "r": nonce,
        "o": REMOVE,
        "d": REMOVE,
        "p": REMOVE if state.expired is None else state.expired,
    }
    keeps = write.kind == "update" and state.stored is not None
    if write.ttl is not None:
        fields["x"] = {"$add": ["$$NOW", max(1, round(write.ttl * 1000))]}
    elif not keeps:
        fields["x"] = REMOVE
    deadline = write.ttl is not None or (keeps and state.deadline)
    return [{"$set": fields}], State(True, count, nonce, stored, None, deadline)


def remove(nonce: str) -> list[dict[str, Any]]:
    """Make a tombstone of an item."""
    return [
        {
            "$set": {
                "t": "d",
                "o": "$v",
                "c": {"$add": ["$c", 1]},
                "r": nonce,
                "d": "$$NOW",
                "g": REMOVE,
                "v": REMOVE,
                "x": REMOVE,
                "p": REMOVE,
            }
        }
    ]


def changes(event: Mapping[str, Any]) -> Iterator[Told]:
    """The changes in an event of a stream's collection: one, two, or none if it is ours to ignore."""
    kind = event["operationType"]
    if kind == "update":
        fields = event["updateDescription"]["updatedFields"]
    elif kind in ("insert", "replace"):
        fields = event["fullDocument"]
    else:
        return
    key = event["documentKey"]["_id"]
    if "c" not in fields or "r" not in fields or not isinstance(key, dict):  # somebody else's
        return
    group, id, version = key["g"], key["i"], version_of(fields["c"], fields["r"])
    if "v" not in fields:
        if "o" in fields:
            yield Told("delete", group, id, json_of(fields["o"]), version)
        return
    json = json_of(fields["v"])
    if "p" in fields:
        gone = fields["p"]
        yield Told("delete", group, id, json_of(gone), version_of(fields["c"] - 1, gone[:NONCE]))
        yield Told("create", group, id, json, version, 1)
    elif fields.get("t", "u") == "c":
        yield Told("create", group, id, json, version)
    else:
        yield Told("update", group, id, json, version)


def event_document(stream: str, write: Write) -> dict[str, Any]:
    """A custom event."""
    from datetime import UTC, datetime

    return {"s": stream, "g": write.group, "i": write.id, "t": write.event_type, "j": (write.json or b"null").decode(),
            "at": datetime.now(UTC)}  # fmt: skip


def custom_event(document: Mapping[str, Any]) -> Told:
    """The change that a custom event is."""
    return Told("event", document["g"], document["i"], document["j"].encode(), None, 0, document["t"])
