"""Items, groups and exact snapshots of managed storage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bson import MaxKey

from motia_adapters.mongodb.documents import ALIVE, FIELDS, json_of, key_of, state_of, version_of
from motia_adapters.mongodb.history import History
from motia_adapters.mongodb.link import READ_MAJORITY, Link
from motia_adapters.mongodb.places import end
from motia_adapters.mongodb.rooms import Room
from motia_core.model import Item, Snapshot

_ITEM = {"v": 1, "c": 1, "r": 1, "x": 1}
_FEW, _MANY = 50, 1_000


async def get(link: Link, room: Room, group: str, id: str) -> Item | None:
    """The item, or ``None``."""
    command = {"find": room.collection, "filter": {"_id": key_of(group, id)}, "projection": FIELDS, "limit": 1,
               "singleBatch": True, "readConcern": READ_MAJORITY}  # fmt: skip
    found = (await link.run(command))["cursor"]["firstBatch"]
    state = state_of(found[0] if found else None)
    if state.json is None or state.version is None:
        return None
    return Item(group, id, state.json, state.version, state.deadline)


async def list_items(link: Link, room: Room, group: str, after: str | None, limit: int | None) -> Sequence[Item]:
    """A group's items in the order of their ids."""
    documents, _ = await link.read_all({**_of_group(room, group, after, limit), "readConcern": READ_MAJORITY})
    return [_item(document) for document in documents]


async def list_groups(link: Link, room: Room, after: str | None, limit: int | None) -> Sequence[str]:
    """Groups that have items: the index is read on, and skipped over where a group is large."""
    groups: list[str] = []
    size = _FEW
    while limit is None or len(groups) < limit:
        command = {"find": room.collection, "filter": {"g": {"$gt": after or ""}}, "projection": {"_id": 0, "g": 1},
                   "sort": {"g": 1}, "hint": "groups", "limit": size, "batchSize": size, "singleBatch": True,
                   "readConcern": READ_MAJORITY}  # fmt: skip
        found = [document["g"] for document in (await link.run(command))["cursor"]["firstBatch"]]
        new = list(dict.fromkeys(found))
        groups += new
        if len(found) < size:
            break
        after = new[-1]
        size = min(_MANY, size * 4) if len(new) * 2 > size else max(1, size // 4)
    return groups if limit is None else groups[:limit]


async def snapshot(link: Link, history: History, room: Room, group: str, id: str | None, limit: int | None) -> Snapshot:
    """Items at one cluster time, which is their position."""
    if id is None:
        command = _of_group(room, group, None, limit)
    else:
        filter = {"_id": key_of(group, id), **ALIVE}
        command = {"find": room.collection, "filter": filter, "projection": _ITEM, "limit": 1}
    documents, cursor = await link.read_all({**command, "readConcern": {"level": "snapshot"}})
    place = end(cursor["atClusterTime"])
    items = tuple(_item(document) for document in documents)
    return Snapshot(items, place.position(room.identity), await history.timestamp(place))


def _of_group(room: Room, group: str, after: str | None, limit: int | None) -> dict[str, Any]:
    keys = {"$gt": key_of(group, after or ""), "$lt": {"g": group, "i": MaxKey()}}
    command: dict[str, Any] = {"find": room.collection, "filter": {"_id": keys, **ALIVE}, "projection": _ITEM,
                               "sort": {"_id": 1}, "batchSize": min(limit or _MANY, 10_000)}  # fmt: skip
    if limit is not None:
        command["limit"] = limit
    return command


def _item(document: Mapping[str, Any]) -> Item:
    key = document["_id"]
    version = version_of(document["c"], document["r"])
    return Item(key["g"], key["i"], json_of(document["v"]), version, "x" in document)
