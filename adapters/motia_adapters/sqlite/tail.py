"""The tail of the log: one place in the order for the whole adapter, which feeds all watches.

Our own commits are handed over as they happen. If one does not begin where the tail
stands, another process wrote in between, and the tail reads the log instead.
"""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop, Future
from collections.abc import Iterable

from motia_adapters.sqlite import queries
from motia_adapters.sqlite.history import format_position
from motia_adapters.sqlite.reader import Reader
from motia_adapters.sqlite.writer import Commit
from motia_core.errors import BackendError, MotiaError
from motia_core.model import Change

MAX_INBOX = 4_096
"""Changes that wait for one watch; beyond, it reads the log again at its own pace."""
MAX_INBOX_BYTES = 16 * 2**20
_PROGRESS = 0.5  # seconds


class Watcher:
    """One watch, as the tail sees it: where its changes are put."""

    __slots__ = ("_size", "_wake", "behind", "closed", "error", "inbox", "name", "progress", "stream")

    def __init__(self, name: str, stream: int) -> None:
        self.name = name
        self.stream = stream
        self.inbox: list[Change] = []
        self.behind = True
        """Changes passed that are not in the inbox: read the log."""
        self.progress = False
        """The tail moved on without a change for this watch."""
        self.closed = False
        self.error: MotiaError | None = None
        self._size = 0
        self._wake: Future[None] | None = None

    def rejoin(self) -> None:
        """From now on collect all changes that the tail passes."""
        self.take()
        self.behind = False

    def take(self) -> list[Change]:
        """What has been collected."""
        changes, self.inbox = self.inbox, []
        self._size = 0
        self.progress = False
        return changes

    def add(self, changes: Iterable[Change]) -> None:
        """Collect changes, or fall behind if they are too many."""
        if self.behind:
            return
        for change in changes:
            self.inbox.append(change)
            self._size += len(change.json) if change.json is not None else 0
        if len(self.inbox) > MAX_INBOX or self._size > MAX_INBOX_BYTES:
            self.fall_behind()
        self.wake()

    def fall_behind(self) -> None:
        """Drop what was collected: the log has it."""
        self.take()
        self.behind = True
        self.wake()

    def wake(self) -> None:
        """Something has changed that `wait` waits for."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def wait(self) -> None:
        """Wait until there is something to do."""
        while not (self.inbox or self.behind or self.progress or self.closed or self.error):
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake


class Tail:
    """Where the adapter stands in the log. Everything here happens on the loop."""

    def __init__(self, loop: AbstractEventLoop, reader: Reader) -> None:
        self.position = ""
        """Every change up to here has been given to the watchers."""
        self._loop = loop
        self._reader = reader
        self._watchers: dict[int, list[Watcher]] = {}
        self._reading: Future[queries.Stretch] | None = None
        self._asked: dict[int, str] = {}
        self._again = False
        self._timer: asyncio.TimerHandle | None = None

    def attach(self, watcher: Watcher, head: str) -> None:
        """Feed a watcher from now on; ``head`` was read a moment ago."""
        if not self._watchers:
            self.position = max(self.position, head)
            self._reader.known = self.position
        self._watchers.setdefault(watcher.stream, []).append(watcher)

    def detach(self, watcher: Watcher) -> None:
        """Feed it no more; detaching twice is fine."""
        watchers = self._watchers.get(watcher.stream, [])
        if watcher in watchers:
            watchers.remove(watcher)
            if not watchers:
                del self._watchers[watcher.stream]
        if not self._watchers:
            self._reader.known = None
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def committed(self, commit: Commit) -> None:
        """Our own writer has committed."""
        if not self._watchers:
            self.position = commit.after
        elif commit.before == self.position:
            changes: dict[int, list[Change]] = {}
            for row in commit.log:
                watchers = self._watchers.get(row[1])
                if watchers:
                    change = queries.to_change(watchers[0].name, row, format_position(row[0], commit.epoch))
                    changes.setdefault(row[1], []).append(change)
            self._advance(commit.after)
            for stream, made in changes.items():
                self._give(stream, made)
        else:
            self.moved()

    def moved(self, error: BackendError | None = None) -> None:
        """The head is not where the tail is (or cannot be read): look."""
        if not self._watchers:
            return
        if error is not None:
            self._fail(error)
        elif self._reading is not None:
            self._again = True
        else:
            self._again = False
            self._asked = {stream: watchers[0].name for stream, watchers in self._watchers.items()}
            self._reading = self._reader.submit(queries.stretch, self._asked, self.position)
            self._reading.add_done_callback(self._read)

    def close(self) -> None:
        """End all watches."""
        for watcher in self._all():
            watcher.closed = True
            watcher.wake()
            self.detach(watcher)

    def _read(self, future: Future[queries.Stretch]) -> None:
        """The log was read from where the tail stood when it was asked for."""
        self._reading = None
        if future.cancelled() or not self._watchers:
            return
        error = future.exception()
        if error is not None:
            self._fail(error if isinstance(error, MotiaError) else BackendError(str(error)))
            return
        stretch = future.result()
        if stretch.start is None:
            # That history is gone. Each watch finds out about its own position.
            self._advance(stretch.end)
            for watcher in self._all():
                watcher.fall_behind()
        elif stretch.end > self.position:
            passed = self.position
            self._advance(stretch.end)
            for watcher in self._all():
                if watcher.stream not in self._asked or watcher.stream in stretch.gapped:
                    watcher.fall_behind()
            for stream, changes in stretch.changes.items():
                # Our own commits may have moved the tail while the log was being read.
                if passed != stretch.start:
                    changes = [change for change in changes if change.position > passed]
                self._give(stream, changes)
        if stretch.more or self._again:
            self.moved()

    def _give(self, stream: int, changes: list[Change]) -> None:
        if changes:
            for watcher in self._watchers.get(stream, ()):
                watcher.add(changes)

    def _advance(self, position: str) -> None:
        self.position = position
        self._reader.known = position
        if self._timer is None:
            self._timer = self._loop.call_later(_PROGRESS, self._tell_progress)

    def _tell_progress(self) -> None:
        self._timer = None
        for watcher in self._all():
            watcher.progress = True
            watcher.wake()

    def _fail(self, error: MotiaError) -> None:
        for watcher in self._all():
            watcher.error = type(error)(str(error))
            watcher.error.__cause__ = error
            watcher.wake()

    def _all(self) -> list[Watcher]:
        return [watcher for watchers in self._watchers.values() for watcher in watchers]
