"""What an older Motia, or the engine that followed it, left in a Redis server. Only reads.

| who wrote it | what | key | holds |
|---|---|---|---|
| Motia's npm adapters | a group of a stream | ``motia:stream:STREAM:group:GROUP`` | hash: item id, JSON |
| | a value of state | ``motia:state:GROUP:KEY`` | string: JSON; may expire |
| the engine | a group of a stream | ``stream:STREAM:GROUP`` | hash: item id, JSON |
| | a group of state | ``state:GROUP`` | hash: key, JSON |

The first two prefixes are those that the npm adapters have unless told otherwise. A STREAM that
holds a colon is ``b64~`` and base64 for URLs in the engine's keys. (Found by running the published
npm adapters, version 0.17.14-beta.196, and reading the engine's sources of 2026.)
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from hiredis import ReplyError
from pydantic import ValidationError

from motia_adapters.redis.failures import refused, unreachable
from motia_adapters.redis.link import Argument, Link, Lost
from motia_adapters.redis.node import Node
from motia_adapters.redis.options import RedisOptions, options_from_url
from motia_core.errors import BackendError, ConfigError

PAGE = 500
"""Keys or items that are read at once."""
_FOR_EVER = -1  # what PTTL says of a key without a deadline


@dataclass(slots=True)
class OldGroup:
    """A group of a stream, or (``stream`` is empty) of state, with the number of its items."""

    stream: str
    group: str
    count: int = 0
    hash: bytes = b""
    """The key that holds it, if one does."""
    strings: list[tuple[str, bytes]] = field(default_factory=list)
    """Else the names of its values, and the key of each."""


@dataclass(frozen=True, slots=True)
class OldItem:
    """One stored value, as it was written; ``ttl``: seconds that it has left."""

    id: str
    json: bytes
    ttl: float | None = None


class OldStore:
    """A server that holds old data. ``async with OldStore(url) as old``."""

    def __init__(
        self, url: str, timeout: float, *, streams: str = "motia:stream:", state: str = "motia:state:"
    ) -> None:
        """Raises `ConfigError` for a URL that is none of Redis."""
        try:
            options = RedisOptions(**options_from_url(url))
        except ValidationError as error:  # as text it would show the password
            wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
            raise ConfigError(f"the URL of the old store: {wrong}") from None
        except ValueError as error:
            raise ConfigError(f"the URL of the old store: {error}") from None
        self._node = Node(options, timeout, options.host, options.port)
        self._link: Link | None = None
        self._streams, self._state = streams, state
        self.unreadable: list[tuple[str, str]] = []
        """Keys that look like old data and are none: the stream (empty: state), and the key with the reason."""
        self.is_node_of_cluster = False
        """Then it has only some of the keys: the other masters of the Cluster have the rest."""

    @property
    def address(self) -> str:
        """The server, without user and password."""
        return self._node.address

    async def __aenter__(self) -> OldStore:
        """Raises `BackendUnavailable` or `BackendError`. A replica will do."""
        self._link = link = await self._node.dial()
        try:
            self.is_node_of_cluster = b"cluster_enabled:1" in await link.send("INFO", "cluster")
        except Lost as lost:
            raise unreachable(lost, self.address, "read") from lost
        except ReplyError:  # a user without that right
            pass
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._link is not None:
            await self._link.end()

    async def groups(self) -> list[OldGroup]:
        """Everything there is, by stream and group."""
        found: dict[tuple[str, str, bytes], OldGroup] = {}
        seen: set[bytes] = set()
        cursor = b"0"
        while True:
            cursor, keys = (await self._ask(("SCAN", cursor, "COUNT", PAGE)))[0]
            wanted = [(key, place) for key in keys if key not in seen and (place := self._place(key))]
            seen.update(key for key, _ in wanted)
            types = await self._ask(*(("TYPE", key) for key, _ in wanted))
            hashes = [(key, place) for (key, place), type in zip(wanted, types, strict=True) if type == b"hash"]
            sizes = await self._ask(*(("HLEN", key) for key, _ in hashes))
            for (key, (kind, stream, group)), count in zip(hashes, sizes, strict=True):
                if kind == "string":
                    self._leave(stream, key, "is a hash, not a string")
                else:
                    found[stream, group, key] = OldGroup(stream, group, count, key)
            for (key, (kind, stream, group)), type in zip(wanted, types, strict=True):
                if type == b"string" and kind == "string":
                    name, _, id = group.partition(":")
                    of = found.setdefault((stream, name, b""), OldGroup(stream, name))
                    of.strings.append((id, key))
                    of.count += 1
                elif type not in (b"hash", b"none"):  # none: gone since it was listed
                    self._leave(stream, key, f"is a {type.decode()}")
            if cursor == b"0":
                return [found[key] for key in sorted(found)]

    async def items(self, group: OldGroup) -> AsyncIterator[Sequence[OldItem]]:
        """A group's items, a page at a time, each once."""
        if group.strings:
            for start in range(0, len(group.strings), PAGE):
                page = group.strings[start : start + PAGE]
                values = await self._ask(*(("GET", key) for _, key in page))
                lives = await self._ask(*(("PTTL", key) for _, key in page))
                yield [
                    OldItem(id, value, None if life == _FOR_EVER else life / 1000)
                    for (id, _), value, life in zip(page, values, lives, strict=True)
                    if value is not None and (life > 0 or life == _FOR_EVER)  # else it has just expired
                ]
            return
        seen: set[bytes] = set()
        cursor = b"0"
        while True:
            cursor, flat = (await self._ask(("HSCAN", group.hash, cursor, "COUNT", PAGE)))[0]
            new = [(id, json) for id, json in zip(flat[::2], flat[1::2], strict=True) if id not in seen]
            seen.update(id for id, _ in new)
            yield [OldItem(id.decode("utf-8", "surrogateescape"), json) for id, json in new]
            if cursor == b"0":
                return

    def _place(self, key: bytes) -> tuple[Literal["hash", "string"], str, str] | None:
        """How a key holds what: stream and group (or, of a string, group and key with a colon between)."""
        place = self._placed(key.decode("utf-8", "surrogateescape"))
        if place is not None:
            try:
                key.decode()
            except UnicodeDecodeError:
                self._leave(place[1], key, "is no UTF-8")
                return None
        return place

    def _placed(self, text: str) -> tuple[Literal["hash", "string"], str, str] | None:
        if text.startswith(self._streams):
            stream, between, group = text.removeprefix(self._streams).partition(":group:")
            if between and stream:
                return "hash", stream, group
        if text.startswith(self._state):
            rest = text.removeprefix(self._state)
            if ":" in rest:
                return "string", "", rest
        if text.startswith("stream:"):
            segment, between, group = text.removeprefix("stream:").partition(":")
            return ("hash", _decoded(segment), group) if between and segment else None
        if text.startswith("state:"):
            return "hash", "", text.removeprefix("state:")
        return None

    def _leave(self, stream: str, key: bytes, why: str) -> None:
        entry = (stream, f"key {key.decode('utf-8', 'backslashreplace')!r} {why}")
        if entry not in self.unreadable:  # a scan may give a key twice
            self.unreadable.append(entry)

    async def _ask(self, *commands: Sequence[Argument]) -> list[Any]:
        assert self._link is not None
        try:
            return [await sent for sent in [self._link.send(*command) for command in commands]]
        except Lost as lost:
            raise unreachable(lost, self.address, "read") from lost
        except ReplyError as error:
            raise _without_remedy(error, self.address) from error


def _decoded(segment: str) -> str:
    if not segment.startswith("b64~"):
        return segment
    coded = segment.removeprefix("b64~")
    try:
        return base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4)).decode()
    except (binascii.Error, UnicodeDecodeError):
        return segment


def _without_remedy(error: ReplyError, address: str) -> BackendError:
    if "NOPERM" in str(error):  # the remedy there is about what the adapter needs
        return BackendError(
            f"redis: cannot read at {address}: {error} (the user needs +scan +type +hlen +hscan +get +pttl)"
        )
    return refused(error, address, "read")
