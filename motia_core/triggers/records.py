"""The records of the control stream: their keys, their encoding, and who falls into which partition."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import orjson

from motia_core.errors import MotiaError
from motia_core.model import Change, Item, StreamSpec
from motia_core.names import MAX_ID_BYTES
from motia_core.triggers.definition import OrderKey

CONTROL = StreamSpec("$control", hidden=True, log=False)
"""The hidden stream that all records lie in, beside the data that the triggers follow."""

NAMES = "names"
WORKERS = "workers"
NOTICE = "!notice"
"""Among the workers: changed by whoever wants the others to look again."""

HASHES = 65_536


def part_group(uid: str) -> str:
    """Where a trigger's partition records lie."""
    return f"part:{uid}"


def parked_group(uid: str) -> str:
    """Where its parked changes lie."""
    return f"parked:{uid}"


def dead_group(uid: str) -> str:
    """Where its dead letters lie."""
    return f"dead:{uid}"


def retry_group(uid: str) -> str:
    """Where requests to retry its dead letters lie."""
    return f"retry:{uid}"


def lost_group(uid: str) -> str:
    """Where its gaps lie."""
    return f"lost:{uid}"


def part_id(partition: int) -> str:
    """A partition record's id; ids sort as the numbers do."""
    return f"{partition:05d}"


def place(hash16: int, position: str) -> str:
    """The id of a parked change or dead letter: one id range holds a partition's, for any P."""
    return f"{hash16:04x}{position}"


def hash_key(key: OrderKey) -> int:
    """16 bits of an order key, alike in every process and for ever."""
    group, id = key
    text = group if id is None else f"{group}\0{id}"
    return int.from_bytes(blake2b(text.encode(), digest_size=2).digest(), "big")


def partition_of(hash16: int, partitions: int) -> int:
    """The partition that a hash falls into."""
    return hash16 * partitions >> 16


def hash_range(partition: int, partitions: int) -> tuple[int, int]:
    """The hashes of a partition: from the first to before the second."""
    return -(-partition * HASHES // partitions), -(-(partition + 1) * HASHES // partitions)


def rank(*parts: str) -> bytes:
    """An order of workers or partitions that all processes agree on."""
    return blake2b("\0".join(parts).encode(), digest_size=8).digest()


def trigger_id(key: tuple[str, ...]) -> str:
    """A trigger key as an item id."""
    text = json.dumps(list(key), separators=(",", ":")).replace("\x7f", "\\u007f")
    if len(text) > MAX_ID_BYTES:
        return "#" + blake2b(text.encode(), digest_size=16).hexdigest()
    return text


@dataclass(slots=True)
class NameRecord:
    """A trigger's entry in ``names``."""

    uid: str
    partitions: int
    start: str
    key: tuple[str, ...]
    stream: str
    topic: str | None = None
    target: int | None = None
    """The number of partitions it is being changed to."""

    def encode(self) -> bytes:
        """As stored."""
        return orjson.dumps(
            {
                "uid": self.uid,
                "P": self.partitions,
                "start": self.start,
                "key": self.key,
                "stream": self.stream,
                "topic": self.topic,
                "target": self.target,
            }
        )

    @classmethod
    def decode(cls, item: Item) -> NameRecord:
        """From the store."""
        v = _object(item)
        return cls(v["uid"], v["P"], v["start"], tuple(v["key"]), v["stream"], v["topic"], v["target"])


@dataclass(slots=True)
class WorkerRecord:
    """A worker's entry in ``workers``."""

    beat: int
    uids: tuple[str, ...]

    def encode(self) -> bytes:
        """As stored."""
        return orjson.dumps({"beat": self.beat, "uids": self.uids})

    @classmethod
    def decode(cls, item: Item) -> WorkerRecord:
        """From the store."""
        v = _object(item)
        return cls(v["beat"], tuple(v["uids"]))


@dataclass(slots=True)
class PartitionRecord:
    """How far one partition of a trigger is, and who moves it."""

    owner: str | None
    epoch: int
    nonce: str
    cursor: str
    done: list[str] = field(default_factory=list)
    crashes: int = 0
    era: int = 0
    """Counts the histories of the stream: positions of different ones do not compare."""
    parked: int = 0
    """Parked changes; -1: not counted."""
    skip: list[tuple[int, int, str]] = field(default_factory=list)
    """After a change of P: hashes from, to, and the position up to which those are settled."""
    fresh: bool = False
    """Of a queue: what lay in it when its trigger was made has not been taken up yet."""

    def encode(self) -> bytes:
        """As stored."""
        return orjson.dumps(
            {
                "owner": self.owner,
                "epoch": self.epoch,
                "nonce": self.nonce,
                "cursor": self.cursor,
                "done": self.done,
                "crashes": self.crashes,
                "era": self.era,
                "parked": self.parked,
                "skip": self.skip,
                "fresh": self.fresh,
            }
        )

    @classmethod
    def decode(cls, item: Item) -> PartitionRecord:
        """From the store."""
        v = _object(item)
        skip = [(low, high, cursor) for low, high, cursor in v["skip"]]
        return cls(
            v["owner"],
            v["epoch"],
            v["nonce"],
            v["cursor"],
            v["done"],
            v["crashes"],
            v["era"],
            v["parked"],
            skip,
            v["fresh"],
        )


def encode_change(change: Change) -> dict[str, Any]:
    """A whole change, to be stored inside a record."""
    return {
        "type": change.type,
        "stream": change.stream,
        "group": change.group_id,
        "id": change.id,
        "data": None if change.json is None else orjson.Fragment(change.json),
        "timestamp": change.timestamp,
        "version": change.version,
        "position": change.position,
        "eventType": change.event_type,
    }


def decode_change(value: dict[str, Any]) -> Change:
    """The change that `encode_change` stored."""
    json_ = None if value["data"] is None and value["type"] != "event" else orjson.dumps(value["data"])
    return Change(
        value["type"],
        value["stream"],
        value["group"],
        value["id"],
        json_,
        value["timestamp"],
        value["version"],
        value["position"],
        value["eventType"],
    )


def encode_parked(change: Change, *, attempts: int, error: str | None, era: int, matched: bool) -> bytes:
    """A parked change, or a dead letter."""
    return orjson.dumps(
        {
            "change": encode_change(change),
            "attempts": attempts,
            "error": error,
            "era": era,
            "matched": matched,
        }
    )


def _object(item: Item) -> dict[str, Any]:
    value = item.value
    if not isinstance(value, dict):
        raise MotiaError(f"the control record {item.id!r} of {item.group!r} was damaged")
    return value
