"""Reading one stream of managed storage, by the functions of the schema."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from motia_adapters.postgresql.database import Database, News
from motia_adapters.postgresql.places import Place, parse_position
from motia_core.errors import BackendError, BackendUnavailable, PositionExpired
from motia_core.model import Batch, Change, Item, Snapshot

PAGE = 500
"""Changes in one batch of a watch, at most."""
LISTED = 1_000
"""Items or groups that one call of `list` reads, at most."""
ALL = 2**31 - 1


class Reads:
    """Reads one stream. ``namespace`` and ``name`` are its names in the database."""

    list_function, groups_function = "list", "groups"
    snapshot_function, head_function, changes_function = "snapshot", "head", "changes"
    eager: float | None = None
    """Seconds after which a watch looks again by itself when it has just read something."""

    def __init__(self, database: Database, namespace: str, name: str, shown: str) -> None:
        self._database = database
        self.namespace = namespace
        self.name = name
        self._shown = shown

    @property
    def is_open(self) -> bool:
        """Whether the database is."""
        return self._database.is_open

    async def rpc(self, function: str, **arguments: Any) -> Any:
        """Call a function that reads about this stream."""
        return await self._database.rpc(function, p_namespace=self.namespace, p_stream=self.name, **arguments)

    async def prepare(self) -> None:
        """Make the stream, if it is new."""
        await self._database.rpc("prepare", writes=True, p_namespace=self.namespace, p_stream=self.name)

    def json(self, group: str, id: str | None, raw: str) -> bytes:
        """A value as the database has it, as encoded JSON."""
        return raw.encode()

    def item(self, group: str, row: Sequence[Any]) -> Item:
        """An item from what the functions return."""
        id, raw, epoch, seq, expires = row
        return Item(group, id, self.json(group, id, raw), Place(epoch, seq).position, expires)

    async def get(self, group: str, id: str) -> Item | None:
        """The item, or ``None``."""
        row = await self.rpc("get", p_group=group, p_id=id)
        return None if row is None else self.item(group, row)

    async def list_items(self, group: str, after: str | None, limit: int | None) -> list[Item]:
        """Items of a group by the bytes of their ids."""
        items: list[Item] = []
        last = after or ""
        while limit is None or len(items) < limit:
            size = LISTED if limit is None else min(LISTED, limit - len(items))
            rows = await self.list_page(group, last, size)
            items += (self.item(group, row) for row in rows)
            if len(rows) < size:
                break
            last = rows[-1][0]
        return items

    async def list_page(self, group: str, after: str, limit: int) -> Any:
        """One page of a group's rows."""
        return await self.rpc(self.list_function, p_group=group, p_after=after, p_limit=limit)

    async def list_groups(self, after: str | None, limit: int | None) -> list[str]:
        """Groups that have items, by their bytes."""
        groups: list[str] = []
        last = after or ""
        while limit is None or len(groups) < limit:
            size = LISTED if limit is None else min(LISTED, limit - len(groups))
            found = await self.rpc(self.groups_function, p_after=last, p_limit=size)
            groups += found
            if len(found) < size:
                break
            last = found[-1]
        return groups

    async def settle(self) -> None:
        """Nothing: in managed storage what is written has its place."""

    async def snapshot(self, group: str, id: str | None, limit: int | None) -> Snapshot | None:
        """Items and their position; ``None`` if there is no such stream (any more)."""
        size = ALL if limit is None else limit
        found = await self.rpc(self.snapshot_function, p_group=group, p_id=id, p_limit=size)
        if found is None:
            return None
        epoch, seq, ts = found["head"]
        items = tuple(self.item(group, row) for row in found["items"])
        return Snapshot(items, Place(epoch, seq).position, ts / 1000)

    async def head(self) -> Place | None:
        """The place of the last change; ``None`` if there is no such stream (any more)."""
        found = await self.rpc(self.head_function)
        return None if found is None else Place(*found["head"])

    async def floor(self) -> Place | None:
        """The place that the log still reaches back to; ``None`` if there is no such stream (any more)."""
        found = await self.rpc(self.head_function)
        return None if found is None else Place(*found["floor"])

    async def changes(self, after: str) -> tuple[Batch, bool]:
        """The next page of changes after a position, and whether there may be more. Raises `PositionExpired`."""
        place = parse_position(after)
        if place is None:
            raise PositionExpired("this is no position of this storage", position=after)
        found = await self.rpc(self.changes_function, p_epoch=place.epoch, p_seq=place.seq, p_limit=PAGE)
        if found is None:
            raise PositionExpired(f"stream {self._shown!r} is gone, and its history with it", position=after)
        if "expired" in found:
            floor = Place(*found["expired"]).position
            raise PositionExpired(
                "the history after this position is gone, or was never this store's", position=after, floor=floor
            )
        changes = self.told(place, found["rows"])
        return Batch(changes, changes[-1].position if changes else after), len(changes) == PAGE

    def offered(self, after: str, news: News) -> Batch | None:
        """What news brings to whoever has read up to a position: nothing new, or ``None`` if the log is to be read."""
        place = parse_position(after)
        if place is None or news.before is None or place.seq < news.before.seq:
            return None
        if place == news.before:
            changes = self.told(place, news.rows)
            return Batch(changes, changes[-1].position)
        last = Place(*news.rows[-1][:2])
        return Batch((), after) if last.epoch == place.epoch and last.seq <= place.seq else None

    def told(self, place: Place, rows: Sequence[Sequence[Any]]) -> tuple[Change, ...]:
        """The changes right after a place. Raises `BackendError` if one is missing."""
        for number, row in enumerate(rows, 1):
            if row[1] != place.seq + number:
                raise BackendError(f"{self._database.name}: the log of stream {self._shown!r} has a hole at {row[1]}")
        return tuple(self._change(row) for row in rows)

    def _change(self, row: Sequence[Any]) -> Change:
        epoch, seq, ts, type, group, id, raw, event = row
        position = Place(epoch, seq).position
        json = None if raw is None else raw.encode() if type == "event" else self.json(group, id, raw)
        version = None if type == "event" else position
        return Change(type, self._shown, group, id, json, ts / 1000, version, position, event)

    def gone(self) -> BackendUnavailable:
        """The error of a read that finds no stream, twice."""
        return BackendUnavailable(
            f"{self._database.name}: stream {self._shown!r} was removed while it was read at {self._database.address}"
        )
