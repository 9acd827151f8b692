"""Groups of the user's collection that have items."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from bson import ObjectId

from motia_adapters.mongodb.link import READ_MAJORITY, Link
from motia_adapters.mongodb.mapped.mapping import BSON_TYPES, Collection, to_text
from motia_adapters.mongodb.mapped.values import SIMPLE


async def list_groups(link: Link, mapping: Collection, after: str | None, limit: int | None) -> Sequence[str]:
    """Groups that have items: all of them by one look at the whole collection, a page by a look at each.

    The order of integers is not that of their text: a page of those is cut from all.
    """
    kind = mapping.options.group_type
    if limit is None or kind == "int":
        groups = sorted(group for group in await _all_groups(link, mapping) if after is None or group > after)
        return groups if limit is None else groups[:limit]
    ways = [_groups_of_type(link, mapping, type, after) for type in BSON_TYPES[kind]]
    try:
        heads = {way: group for way in ways if (group := await anext(way, None)) is not None}
        groups = []
        while heads and len(groups) < limit:
            first = min(heads, key=lambda way: heads[way])
            groups.append(heads.pop(first))
            if (following := await anext(first, None)) is not None:
                heads[first] = following
        return groups
    finally:
        for way in ways:
            await way.aclose()


async def _all_groups(link: Link, mapping: Collection) -> set[str]:
    last = {"$last": f"${mapping.id}"}
    command = {
        "aggregate": mapping.collection,
        "pipeline": [{"$match": mapping.where()}, {"$group": {"_id": f"${mapping.group}", "id": last}}],
        "cursor": {"batchSize": 10_000},
        "collation": SIMPLE,
        "readConcern": READ_MAJORITY,
    }
    found, _ = await link.read_all(command)
    groups: set[str] = set()
    for entry in found:
        group = to_text(entry["_id"], mapping.options.group_type)
        if group is None:
            continue
        if to_text(entry["id"], mapping.options.id_type) is not None or await _has_items(link, mapping, entry["_id"]):
            groups.add(group)
    return groups


async def _groups_of_type(link: Link, mapping: Collection, type: str, after: str | None) -> AsyncGenerator[str, None]:
    """Groups of one BSON type, which the server orders as their text is ordered; an index's step for each."""
    bound: Any = {"$gt": after} if after is not None else {}
    last = after or ""
    if type == "objectId" and after is not None:
        least = first_object_id(after)
        if least is None:
            return
        bound = {"$gte": least}
    while True:
        command = {
            "find": mapping.collection,
            "filter": {**mapping.where(), mapping.group: {"$type": type, "$not": {"$type": "array"}, **bound}},
            "projection": {mapping.group: 1, mapping.id: 1},
            "sort": {mapping.group: 1},
            "limit": 1,
            "collation": SIMPLE,
            "readConcern": READ_MAJORITY,
        }
        found, _ = await link.read_all(command)
        if not found:
            return
        native = found[0][mapping.group]
        if isinstance(native, str) and "\ufffd" in native:  # perhaps no text in truth, and then no bound
            for other in sorted(await _all_groups(link, mapping)):
                if other > last and isinstance(mapping.names(other, None)[0], str):
                    yield other
            return
        group = to_text(native, mapping.options.group_type)
        fits = to_text(found[0][mapping.id], mapping.options.id_type) is not None
        if group is not None and (fits or await _has_items(link, mapping, native)):
            last = group
            yield group
        bound = {"$gt": native}


async def _has_items(link: Link, mapping: Collection, native: Any) -> bool:
    """Whether any document of a group is an item."""

    def any_fits(documents: list[Any]) -> bool:
        return any(to_text(found[mapping.id], mapping.options.id_type) is not None for found in documents)

    command = {
        "find": mapping.collection,
        "filter": {**mapping.where(), mapping.group: {"$eq": native, **mapping.of_type(mapping.group)}},
        "projection": {mapping.id: 1},
        "batchSize": 100,
        "collation": SIMPLE,
        "readConcern": READ_MAJORITY,
    }
    documents, _ = await link.read_all(command, enough=any_fits)
    return any_fits(documents)


def first_object_id(after: str) -> ObjectId | None:
    """The least ObjectId whose text comes behind ``after``; ``None``: there is none."""
    digits = "0123456789abcdef"
    head = after[:24]
    known = next((place for place, letter in enumerate(head) if letter not in digits), len(head))
    prefix = head[:known]
    if known < len(head):  # a letter that is no digit: the next digit behind it, if there is one
        behind = next((digit for digit in digits if digit > head[known]), None)
        if behind is not None:
            return ObjectId((prefix + behind).ljust(24, "0"))
    elif known < 24:
        return ObjectId(prefix.ljust(24, "0"))
    number = int(prefix or "0", 16) + 1
    if not prefix or number >= 16 ** len(prefix):
        return None
    return ObjectId(f"{number:0{len(prefix)}x}".ljust(24, "0"))
