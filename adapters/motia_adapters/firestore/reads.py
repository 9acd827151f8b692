"""Reading items: one, pages, groups, and snapshots that are exact."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from motia_adapters.firestore.connection import Connection
from motia_adapters.firestore.history import Entry
from motia_adapters.firestore.items import ManagedLayout
from motia_adapters.firestore.log import Log
from motia_adapters.firestore.names import ITEMS, Paths, group_of
from motia_adapters.firestore.paging import groups_from, items_behind
from motia_adapters.firestore.wire import GREATER_OR_EQUAL, micros, query_of
from motia_core.model import Item, Snapshot

EMULATOR_TRIES = 50
"""Snapshots that are read, at most, until one is whole."""
EMULATOR_LAG = 0.01
"""Seconds between them. Google's emulator shows the documents of one commit one by one: for a
moment a read as of a time lacks items of a commit whose entry in the log was seen at that time."""


class Reads:
    """What is read of one stream's items."""

    def __init__(self, connection: Connection, paths: Paths, layout: ManagedLayout, log: Log) -> None:
        self._connection = connection
        self._paths = paths
        self._layout = layout
        self._log = log

    async def get(self, group: str, id: str, at: Any = None) -> Item | None:
        """The item, unless it has expired by the server's clock. One billed read."""
        (document,), read_time = await self._connection.get([self._paths.item(group, id)], at)
        return None if document is None else self._layout.item(document, micros(read_time))

    async def list_items(self, group: str, after: str | None, limit: int | None, at: Any = None) -> Sequence[Item]:
        """A group's items in the order of their ids, all as of one time. A read is billed for each."""
        cursor = None if after is None else self._paths.item(group, after)
        parent = self._paths.group(group)
        return await items_behind(self._connection, parent, ITEMS, cursor, limit, at, self._layout.item)

    async def list_groups(self, after: str | None, limit: int | None) -> Sequence[str]:
        """See `groups_from`."""
        start = "" if after is None else self._paths.after_group(after)

        def behind(name: str, group: str | None) -> str:
            return self._paths.after_group(group or "")

        return await groups_from(start, limit, self._page, group_of, behind)

    async def _page(self, start: str, size: int, at: Any) -> tuple[Sequence[Any], Any]:
        where = [("__name__", GREATER_OR_EQUAL, start)] if start else []
        query = query_of(ITEMS, "__name__", where=where, limit=size, below=True, names_only=True)
        return await self._connection.query(self._paths.stream, query, at)

    async def snapshot(self, group: str, id: str | None, limit: int | None) -> Snapshot:
        """Items and the position up to which they are true: both are read as of one time."""
        tries = EMULATOR_TRIES if self._connection.is_emulated else 1
        while True:
            tries -= 1
            entry, at = await self._log.newest()
            if entry is None:
                await self._log.newest_or_begin()
                continue
            if id is None:
                items = await self.list_items(group, None, limit, at)
            else:
                item = await self.get(group, id, at)
                items = [item] if item else []
            snapshot = Snapshot(tuple(items), entry.end.position, entry.timestamp)
            if tries <= 0 or _is_whole(snapshot, entry, micros(at), group, id, limit):
                return snapshot
            await asyncio.sleep(EMULATOR_LAG)


def _is_whole(snapshot: Snapshot, entry: Entry, now: int, group: str, id: str | None, limit: int | None) -> bool:
    """Whether a snapshot is as of ``now`` (µs) what the newest entry of the log left, and has nothing newer."""
    shown = {item.id: item.version for item in snapshot.items}
    if any(version is not None and version > snapshot.position for version in shown.values()):
        return False
    left: dict[str, str | None] = {}
    for index, change in enumerate(entry.changes, 1):
        if change.group == group and change.id is not None and change.type != "e" and id in (None, change.id):
            gone = change.type == "d" or 0 < change.expires <= now
            left[change.id] = None if gone else entry.place(index).position
    cut = limit is not None and id is None and len(shown) >= limit  # who is missing may stand behind the cut
    return all(shown.get(name) == version or (cut and name not in shown) for name, version in left.items())
