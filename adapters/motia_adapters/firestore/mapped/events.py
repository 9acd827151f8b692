"""The log of custom events, which the user's documents have no place for."""

from __future__ import annotations

from typing import Any

from motia_adapters.firestore.history import Entry
from motia_adapters.firestore.log import Log
from motia_adapters.firestore.wire import micros

PAGE = 100
"""Entries that are read at once, at most."""


class Events:
    """One mapped stream's custom events."""

    def __init__(self, log: Log) -> None:
        self._log = log

    async def newest_seq(self, at: Any) -> int:
        """The number of the last entry at that time; -1: there is none. One billed read."""
        entry, _ = await self._log.newest(at)
        return -1 if entry is None else entry.seq

    async def after(self, seq: int, at: Any) -> list[Entry]:
        """The entries behind a number, as of that time. One billed read at least."""
        return await self._log.behind(seq, at)

    async def since(self, time: int, at: Any) -> list[Entry] | None:
        """The entries that were committed after ``time`` (µs); ``None``: some of them may have been trimmed."""
        found: list[Entry] = []
        below: int | None = None
        while True:
            page = await self._log.before(below, at, PAGE)
            for entry in page:
                if micros(entry.updated) <= time:
                    return found[::-1]
                found.append(entry)
            if len(page) < PAGE:
                return None if found and found[-1].seq > 0 else found[::-1]
            below = page[-1].seq
