"""Reading a long list by pages: items in the order of their ids, and the groups that have any."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from motia_adapters.firestore.connection import Connection
from motia_adapters.firestore.wire import GREATER, micros, query_of
from motia_core.model import Item

PAGE_ITEMS = 500
"""Documents in one page, at most."""
PAGE_GROUPS = 300
"""Names of documents that are read at once to find groups, at most."""


async def items_behind(
    connection: Connection,
    parent: str,
    collection: str,
    after: str | None,
    limit: int | None,
    at: Any,
    item: Callable[[Any, int], Item | None],
) -> list[Item]:
    """A collection's items behind a document's name, all as of one time. A read is billed for each.

    ``item`` makes an item of a document, if it is one at that time (µs).
    """
    items: list[Item] = []
    while limit is None or len(items) < limit:
        size = PAGE_ITEMS if limit is None else min(PAGE_ITEMS, limit - len(items))
        where = [] if after is None else [("__name__", GREATER, after)]
        query = query_of(collection, "__name__", where=where, limit=size)
        found, read_time = await connection.query(parent, query, at)
        at, now = at or read_time, micros(read_time)
        items += [made for document in found if (made := item(document, now))]
        if len(found) < size:
            break
        after = found[-1].name
    return items


async def groups_from(
    start: str,
    limit: int | None,
    page: Callable[[str, int, Any], Awaitable[tuple[Sequence[Any], Any]]],
    group: Callable[[str], str | None],
    behind: Callable[[str, str | None], str],
) -> list[str]:
    """Groups that have items, in order. A read is billed for each group, and for some items of small groups.

    ``page`` reads so many documents from a name on, as of a time; ``group`` is the group of a
    document's name, if it is an item's; ``behind`` is where to go on after a name and its group.
    """
    groups: list[str] = []
    at: Any = None
    size = 20
    while limit is None or len(groups) < limit:
        found, at = await page(start, size, at)
        met = [group(document.name) for document in found]
        new = dict.fromkeys(name for name in met if name is not None)
        # The last one may be met again: below its items there may be collections of the same name.
        groups += [name for name in new if name not in groups[-1:]]
        if len(found) < size:
            break
        start = behind(found[-1].name, met[-1])
        # Large groups are stepped over; small ones are read by the page.
        size = min(PAGE_GROUPS, size * 2) if len(new) > size // 4 else max(2, size // 4)
    return groups[:limit]
