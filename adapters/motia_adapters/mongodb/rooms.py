"""The collections of a storage: their names, how they are made, and whose history they hold."""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass
from typing import Any

from motia_adapters.mongodb.documents import INDEXES
from motia_adapters.mongodb.failures import code_of
from motia_adapters.mongodb.link import MAJORITY, Link
from motia_adapters.mongodb.mapped.mapping import Collection, keeps_images
from motia_core.errors import BackendError, BackendUnavailable, ConfigError, UnsupportedCapability
from motia_core.model import StreamSpec

EVENTS_KEPT = 3_600
"""Seconds that the document of a custom event is kept; its history is the oplog's."""
_EXISTS = 48

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Room:
    """One stream's collection, as it is now."""

    stream: str
    collection: str
    identity: str
    log: bool


class Rooms:
    """The collections of one namespace in one database."""

    def __init__(self, link: Link, namespace: str, mapping: Collection | None = None) -> None:
        self._link = link
        self._namespace = namespace
        self.mapping = mapping
        self.mapped_stream: str | None = None
        """The stream that the user's collection is, once one was named."""
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
        if self._namespace == "system":
            raise ConfigError("mongodb: namespace 'system' is MongoDB's own; take another")
        if "$" in self._namespace or "\x00" in self._namespace or len(self._namespace.encode()) > 100:
            raise ConfigError(
                f"mongodb: namespace {self._namespace!r} must have no '$' and no NUL, and 100 bytes at most"
            )

    def is_mapped(self, stream: StreamSpec) -> bool:
        """Whether the stream is the user's collection. Raises `UnsupportedCapability` for a second one."""
        if self.mapping is None or stream.hidden:
            return False
        self.mapped_stream = self.mapped_stream or stream.name
        if stream.name != self.mapped_stream:
            raise UnsupportedCapability(
                f"collection {self.mapping.collection!r} is mapped to stream {self.mapped_stream!r}:"
                f" stream {stream.name!r} needs a storage of its own"
            )
        return True

    def name_of(self, stream: StreamSpec) -> str:
        """The collection of a stream; those that nobody watches are named apart, and so never read."""
        return f"{self._namespace}.{'stream' if stream.log else 'quiet'}.{stream.name.replace('$', '~')}"

    def stream_of(self, collection: str) -> str | None:
        """The stream of a watched collection."""
        if self.mapping is not None and collection == self.mapping.collection:
            return self.mapped_stream
        prefix = f"{self._namespace}.stream."
        return collection.removeprefix(prefix).replace("~", "$") if collection.startswith(prefix) else None

    async def of(self, stream: StreamSpec) -> Room:
        """The stream's collection, made if it is not there (a mapped one has to be)."""
        self.is_mapped(stream)
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

    async def _map(self, stream: StreamSpec, mapping: Collection) -> Room:
        """The user's collection. Raises `BackendError` with the remedy if it cannot be mapped."""
        found = await self._described(mapping.collection)
        if found is None:
            raise BackendError(
                f"mongodb: there is no collection {mapping.collection!r} in the database at {self._link.address}:"
                " create it, or correct mapped.collection"
            )
        mapping.check_kind(found)
        if mapping.options.enable_images and not keeps_images(found):
            await self._link.run(
                {"collMod": mapping.collection, "changeStreamPreAndPostImages": {"enabled": True},
                 "writeConcern": MAJORITY}
            )  # fmt: skip
            found = await self._described(mapping.collection) or found
        mapping.check_images(found)
        await mapping.check_unique(self._link)
        await self._make_events()
        unusable = await mapping.unusable(self._link)
        if unusable:
            _log.warning(
                "mongodb: %d documents of collection %r cannot be items and are not shown: their %r or %r is missing,"
                " of another type, or no text that can name an item",
                unusable, mapping.collection, mapping.group, mapping.id,
            )  # fmt: skip
        return Room(stream.name, mapping.collection, _identity(found), True)

    async def _described(self, name: str) -> Any:
        found, _ = await self._link.read_all({"listCollections": 1, "filter": {"name": name}})
        return found[0] if found else None

    async def _make_events(self) -> None:
        if not self._events_made:
            await self._create(self.events, [{"key": {"at": 1}, "name": "old", "expireAfterSeconds": EVENTS_KEPT}])
            self._events_made = True

    async def _make(self, stream: StreamSpec) -> Room:
        if self.mapping is not None and self.is_mapped(stream):
            return await self._map(stream, self.mapping)
        name = self.name_of(stream)
        identity = (await self._identities([name])).get(name)
        if identity is None:
            await self._create(name, INDEXES)
        else:
            await self._link.run({"createIndexes": name, "indexes": INDEXES})
        if stream.log:
            await self._make_events()
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
        return {entry["name"]: _identity(entry) for entry in found if "uuid" in entry["info"]}


def _identity(entry: Any) -> str:
    return bytes(entry["info"]["uuid"])[-6:].hex()
