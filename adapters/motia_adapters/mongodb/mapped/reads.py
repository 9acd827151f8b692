"""Items out of the user's collection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bson import ObjectId

from motia_adapters.mongodb.documents import Lost, Told
from motia_adapters.mongodb.history import History
from motia_adapters.mongodb.link import READ_MAJORITY, Link
from motia_adapters.mongodb.mapped.groups import first_object_id
from motia_adapters.mongodb.mapped.mapping import BSON_TYPES, GONE, Collection, Found
from motia_adapters.mongodb.mapped.values import SIMPLE
from motia_adapters.mongodb.places import end
from motia_adapters.mongodb.rooms import Room
from motia_core.errors import InvalidName
from motia_core.model import Item, Snapshot

CUT = "motiaCut"
"""The field of an event of which the pre-image was cut down to the fields that name the item."""
IMAGES = 15_000_000
"""Bytes of both images of an event, at most; with more the pre-image is cut."""


async def get(link: Link, mapping: Collection, group: str, id: str) -> Item | None:
    """The item, or ``None``."""
    items, _ = await _find(link, mapping, group, id, None, None, READ_MAJORITY)
    return items[0] if items else None


async def list_items(
    link: Link, mapping: Collection, group: str, after: str | None, limit: int | None
) -> Sequence[Item]:
    """A group's items in the order of their ids."""
    items, _ = await _find(link, mapping, group, None, after, limit, READ_MAJORITY)
    return items


async def snapshot(
    link: Link, history: History, mapping: Collection, room: Room, group: str, id: str | None, limit: int | None
) -> Snapshot:
    """Items at one cluster time, which is their position."""
    items, time = await _find(link, mapping, group, id, None, limit, {"level": "snapshot"})
    place = end(time)
    return Snapshot(tuple(items), place.position(room.identity), await history.timestamp(place))


async def _find(
    link: Link,
    mapping: Collection,
    group: str,
    id: str | None,
    after: str | None,
    limit: int | None,
    concern: Mapping[str, Any],
) -> tuple[list[Item], Any]:
    """Items by the text of their ids, and the time at which they were so, if that is the concern.

    The server's order is that of the text for texts and for ObjectIds, each among themselves: a page of both
    is made of a page of each. The order of integers is not: they are all read.
    """
    native, own = mapping.names(group, id)
    base: dict[str, Any] = {**mapping.where(), mapping.group: {"$eq": native, **mapping.of_type(mapping.group)}}
    if own is not None:
        return await _take(link, mapping, {**base, mapping.id: own}, after, None, concern, sort=False)
    if mapping.options.id_type == "int" or (limit is None and after is None):
        items, time = await _take(link, mapping, base, after, None, concern)
    else:
        items, time = [], None
        for type in BSON_TYPES[mapping.options.id_type]:
            bound = {} if after is None else _bound(mapping, after, type)
            if bound is None:
                continue
            at = concern if time is None else {**concern, "atClusterTime": time}
            found, time = await _take(link, mapping, {**base, mapping.id: {"$type": type, **bound}}, after, limit, at)
            items += found
    items.sort(key=lambda item: item.id)
    return (items if limit is None else items[:limit]), time


async def _take(
    link: Link,
    mapping: Collection,
    wanted: Mapping[str, Any],
    after: str | None,
    page: int | None,
    concern: Mapping[str, Any],
    *,
    sort: bool = True,
) -> tuple[list[Item], Any]:
    """What the server finds and is an item: a page of them, or all."""
    items: list[Item] = []
    command: dict[str, Any] = {"find": mapping.collection, "filter": wanted, "readConcern": concern,
                               "collation": SIMPLE, "batchSize": min(page or 1_000, 10_000)}  # fmt: skip
    if sort:
        command["sort"] = {mapping.id: 1}
    if page is not None:
        command["limit"] = page
    seen = 0

    def take(documents: list[Any]) -> bool:
        nonlocal seen
        for document in documents[seen:]:
            found = mapping.found(document)
            if found is not None and (after is None or found.id > after):
                items.append(Item(found.group, found.id, found.json, found.version))
        seen = len(documents)
        return page is not None and len(items) >= page

    documents, cursor = await link.read_all(command)
    if not take(documents) and seen == command.pop("limit", 0):  # some were no items: a page must be full all the same
        del items[:]
        seen = 0
        documents, cursor = await link.read_all(command, enough=take)
        take(documents)
    return items, cursor.get("atClusterTime")


def _bound(mapping: Collection, after: str, type: str) -> dict[str, Any] | None:
    """The condition for what comes behind a text; ``None``: nothing does."""
    if type != "objectId":
        return {"$gt": after}
    if mapping.options.id_type == "objectid":
        try:
            return {"$gt": ObjectId(after)}
        except Exception:
            raise InvalidName(f"after {after!r} must be the 24 hex digits of an ObjectId") from None
    least = first_object_id(after)
    return None if least is None else {"$gte": least}


def trimming(mapping: Collection) -> list[dict[str, Any]]:
    """Stages of a change stream that keep an event within the size of a document (else the server ends the stream).

    What was changed is not needed; what the document was only as far as that tells which item it was,
    if it is large together with what it is (`CUT`).
    """
    ours = {"$eq": ["$ns.coll", {"$literal": mapping.collection}]}
    sizes = {"$add": [{"$bsonSize": "$fullDocument"}, {"$bsonSize": "$fullDocumentBeforeChange"}]}
    names = [mapping.group, mapping.id, *mapping.options.filter]
    member = {"$in": ["$$this.k", {"$literal": names}]}
    few = {"$filter": {"input": {"$objectToArray": "$fullDocumentBeforeChange"}, "cond": member}}
    return [
        {
            "$set": {
                CUT: {"$and": [ours, {"$gt": [sizes, IMAGES]}]},
                "updateDescription": {"$cond": [ours, "$$REMOVE", "$updateDescription"]},
            }
        },
        {
            "$set": {
                "fullDocumentBeforeChange": {"$cond": [f"${CUT}", {"$arrayToObject": few}, "$fullDocumentBeforeChange"]}
            }
        },
    ]


def changes(mapping: Collection, event: Mapping[str, Any]) -> Iterator[Told | Lost]:
    """The changes in an event of the user's collection: what the document was, and what it is."""
    kind = event["operationType"]
    if kind not in ("insert", "update", "replace", "delete"):
        return
    before, after = event.get("fullDocumentBeforeChange"), event.get("fullDocument")
    if (kind != "insert" and before is None) or (kind != "delete" and after is None):
        yield Lost("there is no pre- or post-image of a change (any more)")
        return
    try:
        old = None if kind == "insert" else mapping.found(before)
        new = None if kind == "delete" else mapping.found(after)
    except Exception as error:  # one document of somebody's must not end the stream of all
        yield Lost(f"a document cannot be shown ({error!r})")
        return
    if event.get(CUT) and old is not None:
        if new is not None and (old.group, old.id) == (new.group, new.id):
            yield Told("update", new.group, new.id, new.json, new.version)
        else:
            yield Lost("a document was too large to be told before and after its change at once")
        return
    yield from differences(old, new)


def differences(old: Found | None, new: Found | None) -> Iterator[Told]:
    """The changes between two states of a document."""
    if old is not None and new is not None and (old.group, old.id) == (new.group, new.id):
        if old.json != new.json:
            yield Told("update", new.group, new.id, new.json, new.version)
        return
    if old is not None:
        yield Told("delete", old.group, old.id, old.json, GONE)
    if new is not None:
        yield Told("create", new.group, new.id, new.json, new.version, 0 if old is None else 1)
