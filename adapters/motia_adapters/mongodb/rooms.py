"""The collections of a storage: their names, how they are made, and whose history they hold."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any

from motia_adapters.mongodb.documents import INDEXES
from motia_adapters.mongodb.failures import code_of
from motia_adapters.mongodb.link import MAJORITY, Link
from motia_core.errors import BackendError, BackendUnavailable, ConfigError
from motia_core.model import StreamSpec

EVENTS_KEPT = 3_600
"""Seconds that the document of a custom event is kept; its history is the oplog's."""
_EXISTS = 48


@dataclass(frozen=True, slots=True)
class Room:
    """One stream's collection, as it is now."""

    stream: str
    collection: str
    identity: str
    log: bool


class Rooms:
    """The collections of one namespace in one database."""

    def __init__(self, link: Link, namespace: str) -> None:
        self._link = link
        self._namespace = namespace
        self._known: dict[str, Room] = {}
        self._making = asyncio.Lock()
        self._events_made = False
        self.events = f"{namespace}.events"
        """The collection of custom events."""
        self.marks = f"{namespace}.marks"
        """The collection that says how far each stream's history was trimmed."""
        self.pattern = f"^{re.escape(namespace)}\\.stream\\."
        """The names of collections that are watched."""

    def check(self) -> None:
        """Raise `ConfigError` for a namespace that no collection's name can hold."""
        if "$" in self._namespace or "\x00" in self._namespace or len(self._namespace.encode()) > 100:
            raise ConfigError(
                f"mongodb: namespace {self._namespace!r} must have no '$' and no NUL, and 100 bytes at most"
            )

    def name_of(self, stream: StreamSpec) -> str:
        """The collection of a stream; those that nobody watches are named apart, and so never read."""
        return f"{self._namespace}.{'stream' if stream.log else 'quiet'}.{stream.name.replace('$', '~')}"

    def stream_of(self, collection: str) -> str | None:
        """The stream of a watched collection."""
        prefix = f"{self._namespace}.stream."
        return collection.removeprefix(prefix).replace("~", "$") if collection.startswith(prefix) else None

    async def of(self, stream: StreamSpec) -> Room:
        """The stream's collection, made if it is not there."""
        room = self._known.get(stream.name)
        if room is not None:
            return room
        async with self._making:
            room = self._known.get(stream.name)
            if room is None:
                room = self._known[stream.name] = await self._make(stream)
            return room

    def known(self, stream: str) -> Room | None:
        """The stream's collection, if this process uses it."""
        return self._known.get(stream)

    def all(self) -> list[Room]:
        """All that this process uses."""
        return list(self._known.values())

    def forget(self, stream: str | None = None) -> None:
        """A collection was dropped (``None``: all): make and look at it again."""
        if stream is None:
            self._known.clear()
            self._events_made = False
        else:
            self._known.pop(stream, None)

    async def look(self) -> list[str]:
        """Compare with what is there; forget, and name, the streams whose collection is another one by now."""
        rooms = self.all()
        if not rooms:
            return []
        found = await self._identities([room.collection for room in rooms])
        changed = [room.stream for room in rooms if found.get(room.collection) != room.identity]
        for stream in changed:
            self.forget(stream)
        if changed:
            self._events_made = False
        return changed

    async def _make(self, stream: StreamSpec) -> Room:
        name = self.name_of(stream)
        identity = (await self._identities([name])).get(name)
        if identity is None:
            await self._create(name, INDEXES)
        else:
            await self._link.run({"createIndexes": name, "indexes": INDEXES})
        if stream.log and not self._events_made:
            await self._create(self.events, [{"key": {"at": 1}, "name": "old", "expireAfterSeconds": EVENTS_KEPT}])
            self._events_made = True
        if identity is None:
            identity = (await self._identities([name])).get(name)
        if identity is None:
            raise BackendUnavailable(f"mongodb: collection {name!r} was dropped while it was made")
        return Room(stream.name, name, identity, stream.log)

    async def _create(self, name: str, indexes: list[Any]) -> None:
        try:
            await self._link.run({"create": name, "writeConcern": MAJORITY})
        except BackendError as error:
            if error.__cause__ is None or code_of(error.__cause__) != _EXISTS:
                raise
        await self._link.run({"createIndexes": name, "indexes": indexes, "writeConcern": MAJORITY})

    async def _identities(self, names: list[str]) -> dict[str, str]:
        found, _ = await self._link.read_all({"listCollections": 1, "filter": {"name": {"$in": names}}})
        return {entry["name"]: bytes(entry["info"]["uuid"])[-6:].hex() for entry in found if "uuid" in entry["info"]}
