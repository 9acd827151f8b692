"""Following one stream's log: what the listener brings, checked link by link; the log itself where it has not."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from motia_adapters.firestore.history import Entry, Place, entry_of
from motia_adapters.firestore.listener import Listener, Target
from motia_adapters.firestore.log import PAGE, Log, newest_query
from motia_adapters.firestore.names import Paths
from motia_core.model import Change

RECENT = 200
"""Entries that are kept for the watches of this process."""
RECENT_BYTES = 8_000_000
"""Bytes of their values, at most."""
UNHEARD = 2.0
"""Seconds between looks while the listener does not work."""


class Tail(Target):
    """The newest entry of a log, as the listener brings it, and the entries before as far as they are linked."""

    def __init__(self, listener: Listener, log: Log, paths: Paths, poll: float) -> None:
        super().__init__(paths.stream, newest_query())
        self._listener = listener
        self._log = log
        self._poll = poll
        self._recent: deque[Entry] = deque()
        self._bytes = 0
        self._doubt = 0
        self._bells: set[asyncio.Event] = set()

    @contextmanager
    def ringing(self) -> Generator[asyncio.Event, None, None]:
        """A bell that rings when there may be news; the first one begins to listen, the last one ends it."""
        bell = asyncio.Event()
        self._bells.add(bell)
        if len(self._bells) == 1:
            self._forget()
            self._listener.add(self)
        try:
            yield bell
        finally:
            self._bells.discard(bell)
            if not self._bells:
                self._listener.remove(self)

    @property
    def doubt(self) -> int:
        """Grows whenever something may have been missed."""
        return self._doubt

    @property
    def look(self) -> float:
        """Seconds after which a watch should look at the log itself."""
        return self._poll if self.current else min(self._poll, UNHEARD)

    async def after(self, place: Place, *, sure: bool) -> tuple[list[Entry], bool]:
        """Entries from a place on (the first is the place's own), and whether there may be more.

        Unless ``sure`` is wanted, what the listener brought is enough, and costs no read.
        Raises `PositionExpired`.
        """
        if not sure and (found := self._linked(place)) is not None:
            return found, False
        entries = await self._log.from_place(place)
        if self.current and len(entries) > 1 and self._recent and entries[-1].seq > self._recent[-1].seq:
            for entry in entries:
                if entry.follows(self._recent[-1].seq, self._recent[-1].mark):
                    self._append(entry)
        return entries, len(entries) > PAGE

    def _linked(self, place: Place) -> list[Entry] | None:
        """The same from memory; ``None`` if it does not reach back to the place."""
        if not self._recent or self._recent[-1].seq < place.seq:
            return None
        at = place.seq - self._recent[0].seq
        if at < 0 or self._recent[at].mark != place.mark:
            return None
        return [self._recent[number] for number in range(at, len(self._recent))]

    # -- what the listener says --------------------------------------------------------

    def heard(self, document: Any) -> None:
        """The newest entry. It proves the one before by its link: its writer saw that one unchanged."""
        entry = entry_of(document)
        last = self._recent[-1] if self._recent else None
        if last is not None and (last.seq, last.mark) == (entry.seq, entry.mark):
            return
        if last is None or not entry.follows(last.seq, last.mark):
            self._forget()
        self._append(entry)
        self.ring()

    def gone(self, name: str) -> None:
        """The entry that was the newest: it was pushed out by a newer one, or the log is being removed."""
        if self._recent and name.endswith(f"/{self._recent[-1].seq:013x}"):
            self.doubtful(whole=False)

    def settled(self, at: Any) -> None:
        """If the log has no newest entry any more it was removed."""
        if self._recent and not self.members:
            self.doubtful(whole=False)

    def doubtful(self, *, whole: bool) -> None:
        """Look at the log itself, unless it is only told anew."""
        if whole:
            return
        self._doubt += 1
        self._forget()
        self.ring()

    def ring(self) -> None:
        """Wake all watches."""
        for bell in self._bells:
            bell.set()

    def _append(self, entry: Entry) -> None:
        self._recent.append(entry)
        self._bytes += sum(len(change.json or b"") for change in entry.changes)
        while len(self._recent) > 1 and (len(self._recent) > RECENT or self._bytes > RECENT_BYTES):
            gone = self._recent.popleft()
            self._bytes -= sum(len(change.json or b"") for change in gone.changes)

    def _forget(self) -> None:
        self._recent.clear()
        self._bytes = 0


def changes_of(entries: list[Entry], place: Place, stream: str) -> tuple[list[Change], Place]:
    """The changes behind a place, whose own entry comes first, and the place behind the last of them."""
    changes = entries[0].told(stream, place.number)
    for entry in entries[1:]:
        changes += entry.told(stream)
    return changes, entries[-1].end
