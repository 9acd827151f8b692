"""Reading: items, pages, exact snapshots, and the log with its proof that nothing is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from motia_adapters.redis.connection import Connection
from motia_adapters.redis.history import Place, parse_position
from motia_adapters.redis.items import announced, deadline_of, expires_of, place_of, to_change, to_item
from motia_adapters.redis.keys import Keys
from motia_adapters.redis.scripts import PAGE
from motia_core.errors import BackendUnavailable, PositionExpired
from motia_core.model import Batch, Change, Item, Snapshot

PAGE_ITEMS = 1_000
"""Items in one page, at most: they keep the server busy for a few milliseconds."""
PAGE_BYTES = 4 * 2**20
"""Bytes after which a page ends."""
LOG_PAGE = 1_000
"""Entries of the log that are read at once, at most."""
_FIRST_LOG_PAGE = 100
_TRIES = 5


@dataclass(frozen=True, slots=True)
class Page:
    """Some items of a group, and the head at that moment (``None``: the stream has no keys)."""

    items: Sequence[Item]
    head: Place | None
    timestamp: float
    after: str
    """The id to go on after; empty at the end of the group."""


class Reads:
    """What is read of one stream."""

    def __init__(self, connection: Connection, keys: Keys, name: str) -> None:
        self._connection = connection
        self._keys = keys
        self._name = name
        self._entry_bytes = PAGE_BYTES // _FIRST_LOG_PAGE

    async def get(self, group: str, id: str) -> Item | None:
        """The item, unless it has expired by the server's clock."""
        (raw,) = await self._connection.read(self._keys, ("HGET", self._keys.items(group), id))
        if raw is None:
            return None
        deadline = deadline_of(raw)
        if deadline:
            ((seconds, micros),) = await self._connection.read(self._keys, ("TIME",))
            if deadline <= int(seconds) * 1_000_000 + int(micros):
                return None
        return to_item(group, id, raw)

    async def page(self, group: str, *, id: str = "", after: str = "", limit: int = PAGE_ITEMS) -> Page:
        """The next items of a group, or the one item."""
        arguments = (self._keys.prefix, group, id, after, min(limit, PAGE_ITEMS), PAGE_BYTES)
        epoch, seq, stamp, then, found = await self._connection.run(self._keys, PAGE, *arguments)
        items = [to_item(group, name.decode(), raw) for name, raw in zip(found[::2], found[1::2], strict=True)]
        head = None if epoch is None else Place(int(epoch), int(seq))
        return Page(items, head, 0.0 if stamp is None else int(stamp) / 1000, then.decode())

    async def list_items(self, group: str, after: str | None, limit: int | None) -> Sequence[Item]:
        """A group's items in the order of their ids."""
        items: list[Item] = []
        cursor = after or ""
        while limit is None or len(items) < limit:
            page = await self.page(group, after=cursor, limit=PAGE_ITEMS if limit is None else limit - len(items))
            items += page.items
            cursor = page.after
            if not cursor:
                break
        return items

    async def list_groups(self, after: str | None, limit: int | None) -> Sequence[str]:
        """Groups that have items, in order."""
        groups: list[str] = []
        cursor = after or ""
        while limit is None or len(groups) < limit:
            size = PAGE_ITEMS if limit is None else min(PAGE_ITEMS, limit - len(groups))
            start = f"({cursor}" if cursor else "-"
            command = ("ZRANGEBYLEX", self._keys.groups, start, "+", "LIMIT", 0, size)
            (found,) = await self._connection.read(self._keys, command)
            groups += [group.decode() for group in found]
            if len(found) < size:
                break
            cursor = groups[-1]
        return groups

    async def snapshot(self, group: str, id: str | None, limit: int | None) -> Snapshot | None:
        """Items and the position up to which they are true; ``None`` if the stream has no keys yet.

        More than one page is made true to the last page's head by the log since the first one.
        """
        for _ in range(_TRIES):
            page = await self.page(group, id=id or "", limit=PAGE_ITEMS if limit is None else limit)
            if page.head is None:
                return None
            if not page.after or (limit is not None and len(page.items) >= limit):
                return Snapshot(tuple(page.items), page.head.position, page.timestamp)
            try:
                snapshot = await self._long_snapshot(group, page, limit)
            except PositionExpired:  # the log was trimmed, or the store replaced, while we read
                continue
            if snapshot is not None:
                return snapshot
        raise BackendUnavailable(
            f"redis: group {group!r} changes faster than a snapshot can be read: keep more history, or try again"
        )

    async def _long_snapshot(self, group: str, first: Page, limit: int | None) -> Snapshot | None:
        """The rest of the group's pages; ``None`` if the stream's keys went away in between."""
        assert first.head is not None
        items = {item.id: item for item in first.items}
        replayed, page, timestamp = first.head, first, first.timestamp
        while page.after and (limit is None or len(items) < limit):
            cursor = page.after
            page = await self.page(group, after=cursor)
            if page.head is None:
                return None
            items.update((item.id, item) for item in page.items)
            last = page.after
            while replayed < page.head:
                before = replayed
                replayed = await self._replay(group, items, replayed, page.head, last)
                if replayed == before:
                    return None
            timestamp = page.timestamp
        ordered = sorted(items.values(), key=_id)  # by code points, as by UTF-8 bytes
        return Snapshot(tuple(ordered if limit is None else ordered[:limit]), replayed.position, timestamp)

    async def _replay(self, group: str, items: dict[str, Item], after: Place, until: Place, last: str) -> Place:
        """Apply a page of the log, as far as it is about ids up to ``last`` (empty: all of them)."""
        wanted = group.encode()
        entries = await self._entries(after, self._page_size())
        for place, fields in entries:
            if place > until:
                return until
            after = place
            if fields[3] != wanted or fields[1] not in (b"c", b"u", b"d"):
                continue
            id = fields[5].decode()
            if last and id > last:
                continue  # its page comes later
            if fields[1] == b"d":
                items.pop(id, None)
            else:
                items[id] = Item(group, id, fields[15], place.position, expires_of(fields) != 0)
        return after

    async def head(self) -> Place | None:
        """The place of the last change; ``None`` if the stream has no keys."""
        (found,) = await self._connection.read(self._keys, ("HMGET", self._keys.meta, "e", "s"))
        return None if found[0] is None else Place(int(found[0]), int(found[1]))

    async def floor(self) -> Place | None:
        """The place before the first change that is kept; ``None`` if the stream has no keys."""
        found, first = await self._connection.read(
            self._keys,
            ("HMGET", self._keys.meta, "e", "s"),
            ("XRANGE", self._keys.log, "-", "+", "COUNT", 1),
        )
        if found[0] is None:
            return None
        if not first:
            return Place(int(found[0]), int(found[1]))
        place, previous = place_of(first[0])
        return Place(place.epoch if previous is None else previous, place.seq - 1)

    async def changes(self, position: str) -> tuple[Batch, bool]:
        """What follows a position, and whether there may be more. Raises `PositionExpired`."""
        place = parse_position(position)
        if place is None:
            raise await self._expired(position, "is not a place in this store's history")
        count = self._page_size()  # before anything is awaited: other watches change it
        entries = await self._entries(place, count)
        changes = [to_change(self._name, place, fields) for place, fields in entries]
        size = sum(len(change.json or b"") for change in changes)
        if entries:
            self._entry_bytes = max(1, size // len(entries))
        return Batch(tuple(changes), changes[-1].position if changes else position), len(entries) >= count

    def told(self, position: str, news: Sequence[bytes]) -> Batch | None:
        """What announcements say that follows a position; ``None`` if they do not begin right after it."""
        at = parse_position(position)
        if at is None:
            return None
        changes: list[Change] = []
        try:
            for entry in (entry for part in news for entry in announced(part)):
                place, previous = place_of(entry)
                if place <= at:
                    continue
                if not at.leads_to(place, previous):
                    return None
                changes.append(to_change(self._name, place, entry[1]))
                at = place
        except (ValueError, KeyError):  # somebody else's message
            return None
        return Batch(tuple(changes), at.position) if changes else None

    def _page_size(self) -> int:
        """Entries to read at once, such that a page stays small."""
        return max(1, min(LOG_PAGE, PAGE_BYTES // max(1, self._entry_bytes)))

    async def _entries(self, after: Place, count: int) -> list[tuple[Place, list[bytes]]]:
        """The next entries of the log, each proved to follow the one before. Raises `PositionExpired`."""
        for _ in range(_TRIES):
            entries, found = await self._connection.read(
                self._keys,
                ("XRANGE", self._keys.log, f"({after.entry_id}", "+", "COUNT", count),
                ("HMGET", self._keys.meta, "e", "s"),
            )
            if entries:
                at = after
                proved: list[tuple[Place, list[bytes]]] = []
                for entry in entries:
                    place, previous = place_of(entry)
                    if not at.leads_to(place, previous):
                        raise await self._expired(after.position, "is followed by changes that are gone")
                    at = place
                    proved.append((place, entry[1]))
                return proved
            head = None if found[0] is None else Place(int(found[0]), int(found[1]))
            if head == after:
                return []
            # Something was written between the two replies, or the place is not in this history.
            if head is None or head < after:
                break
        raise await self._expired(after.position, "is not a place in this store's history (lost, restored or replaced)")

    async def _expired(self, position: str, reason: str) -> PositionExpired:
        floor = await self.floor()
        return PositionExpired(
            f"redis: position {position[:64]!r} {reason}",
            position=position,
            floor=None if floor is None else floor.position,
        )


_id: Callable[[Item], str] = lambda item: item.id  # noqa: E731
