"""The log of custom events, which the user's documents have no place for."""

from __future__ import annotations

from typing import Any

from motia_adapters.firestore.connection import Connection
from motia_adapters.firestore.history import Entry, entry_of
from motia_adapters.firestore.listener import Target
from motia_adapters.firestore.log import Log, newest_query
from motia_adapters.firestore.names import Paths
from motia_adapters.firestore.wire import micros

PAGE = 100
"""Entries that are read at once, at most."""
KEPT = 7_200
"""Seconds that an entry is kept: twice as long as Firestore remembers documents."""


class Bell(Target):
    """Tells whether there are new entries, so that the log need not be read at each moment to find that out."""

    def __init__(self, paths: Paths) -> None:
        super().__init__(paths.stream, newest_query())
        self._newest = -1
        self._sure = False

    @property
    def newest(self) -> int | None:
        """The number of the last entry, as of the last moment; -1: there is none; ``None``: not known."""
        return self._newest if self._sure else None

    def heard(self, document: Any) -> None:
        """A newer entry."""
        self._newest = entry_of(document).seq

    def gone(self, name: str) -> None:
        """It is not the newest any more."""

    def settled(self, at: Any) -> None:
        """All has been heard."""
        if not self.members:
            self._newest = -1
        self._sure = True

    def doubtful(self, *, whole: bool) -> None:
        """The log is read, until all has been heard again."""
        self._sure = False


class Events:
    """One mapped stream's custom events."""

    def __init__(self, connection: Connection, log: Log, paths: Paths) -> None:
        self._connection = connection
        self._paths = paths
        self._log = log
        self.bell = Bell(paths)

    async def newest_seq(self, at: Any) -> int:
        """The number of the last entry at that time; -1: there is none. One billed read."""
        entry, _ = await self._log.newest(at)
        return -1 if entry is None else entry.seq

    async def after(self, seq: int, at: Any) -> list[Entry]:
        """The entries behind a number, as of that time. One billed read at least, if there may be any."""
        if self.bell.newest == seq:
            return []
        return await self._log.behind(seq, at)

    async def since(self, time: int, at: Any) -> list[Entry]:
        """The entries that were committed after ``time`` (µs), as of another time."""
        found: list[Entry] = []
        below: int | None = None
        while True:
            page = await self._log.before(below, at, PAGE)
            for entry in page:
                if micros(entry.updated) <= time:
                    return found[::-1]
                found.append(entry)
            if len(page) < PAGE:
                return found[::-1]
            below = page[-1].seq

    async def trim(self, now: int) -> None:
        """Remove entries from before any position that can be gone on from, the last one never."""
        newest, _ = await self._log.newest()
        oldest = await self._log.oldest()
        last = await self._log.last_until("time", now - KEPT * 1_000_000)
        if newest is None or oldest is None or last is None:
            return
        await self._log.remove(oldest.seq, min(last + 1, newest.seq))
