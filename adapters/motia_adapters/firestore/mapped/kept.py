"""The latest changes of a mapped stream, as this process tells them, and the bells of those who wait for more."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import takewhile

from motia_adapters.firestore.mapped.changes import Placed
from motia_adapters.firestore.mapped.layout import is_amid, time_of
from motia_core.model import Change

MOST = 10_000
"""Changes that are kept."""
MOST_BYTES = 32_000_000
"""Bytes of their values, at most."""


class Kept:
    """Changes in their order; the oldest are thrown away."""

    def __init__(self) -> None:
        self._kept: deque[Placed] = deque()
        self._bytes = 0
        self._bells: set[asyncio.Event] = set()
        self.since = ""
        """All changes behind this position are kept."""

    def extend(self, changes: Iterable[Placed]) -> None:
        """Keep more."""
        for placed in changes:
            self._kept.append(placed)
            self._bytes += len(placed.change.json or b"")
        while len(self._kept) > MOST or (len(self._kept) > 1 and self._bytes > MOST_BYTES):
            gone = self._kept.popleft().change
            self._bytes -= len(gone.json or b"")
            self.since = gone.position

    def after(self, position: str) -> list[Change]:
        """The changes behind a position, which is not before ``since``."""
        found: list[Change] = []
        time = time_of(position) - is_amid(position)
        for change, created, _ in self._behind(position):
            # Whoever stands between a document's creation and what is told of it has it already.
            had = change.type == "create" and created <= time
            found.append(replace(change, type="update") if had else change)
        return found[::-1]

    def deletes_after(self, position: str) -> list[Placed]:
        """The deletes behind a position, as far as they are kept."""
        return [placed for placed in self._behind(position) if placed.change.type == "delete"][::-1]

    def _behind(self, position: str) -> Iterator[Placed]:
        """What is behind a position, the newest first."""
        return takewhile(lambda placed: placed.change.position > position, reversed(self._kept))

    def nth_last(self, count: int) -> str | None:
        """The position before the last so many changes that are kept, if there are more."""
        return self._kept[-count - 1].change.position if len(self._kept) > count else None

    @contextmanager
    def ringing(self) -> Generator[asyncio.Event, None, None]:
        """A bell that rings when there is more, or the time has moved on."""
        bell = asyncio.Event()
        self._bells.add(bell)
        try:
            yield bell
        finally:
            self._bells.discard(bell)

    def ring(self) -> None:
        """Wake all who wait."""
        for bell in self._bells:
            bell.set()
