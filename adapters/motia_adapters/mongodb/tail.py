"""Reading the oplog through change streams: one that follows it for all watches, and short ones that catch up."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from bson import Timestamp

from motia_adapters.mongodb.documents import Lost, Told
from motia_adapters.mongodb.failures import HISTORY_LOST, code_of
from motia_adapters.mongodb.link import READ_MAJORITY, Link
from motia_adapters.mongodb.places import Place, change, end, time_of_token
from motia_core.errors import BackendError, BackendUnavailable, MotiaError, PositionExpired
from motia_core.model import Change

AWAIT = 0.5
"""Seconds that the server waits for something to tell: how often a quiet stream's position moves on."""
INBOX = 5_000
"""Changes that a watch may lag behind before it has to catch up by itself."""

Placed = tuple[Place, Told | Lost]
Translate = Callable[[Mapping[str, Any]], tuple[str, Iterable[Told | Lost]] | None]
"""The stream that an event is of, and its changes; ``None``: not ours."""
RESETS = frozenset({"drop", "rename", "dropDatabase", "invalidate"})


@dataclass(frozen=True, slots=True)
class Page:
    """What was read: changes by stream, collections that were reset, and how far that goes."""

    changes: dict[str, list[Placed]]
    resets: list[str | None]
    place: Place
    whole: bool
    """Whether there is nothing more for now."""


class Reader:
    """One change stream on the server, read page by page."""

    def __init__(self, link: Link, pipeline: Sequence[Mapping[str, Any]], translate: Translate) -> None:
        self._link = link
        self._pipeline = pipeline
        self._translate = translate
        self._numbers: dict[str, int] = {}
        self._time: Timestamp | None = None
        self._start = Timestamp(0, 0)

    async def pages(self, start: Timestamp, options: Mapping[str, Any], wait: float) -> AsyncGenerator[Page, None]:
        """Read from all of ``start`` on. Raises `PositionExpired` where the oplog does not reach back so far."""
        link, self._start = self._link, start
        stage = {"$changeStream": {"startAtOperationTime": start, **options}}
        command = {
            "aggregate": 1, "pipeline": [stage, *self._pipeline], "cursor": {}, "readConcern": READ_MAJORITY
        }  # fmt: skip
        async with link.session() as session:
            cursor = (await self._ask(command, session))["cursor"]
            id, batch = cursor["id"], cursor["firstBatch"]
            try:
                while True:
                    yield self._page(batch, cursor["postBatchResumeToken"])
                    if not id:
                        raise PositionExpired("mongodb: the collection or database was dropped")
                    more = {"getMore": id, "collection": "$cmd.aggregate", "maxTimeMS": max(1, round(wait * 1000))}
                    cursor = (await self._ask(more, session))["cursor"]
                    id, batch = cursor["id"], cursor["nextBatch"]
            except BackendError:  # a server that is away frees its cursors by itself
                id = 0
                raise
            finally:
                await asyncio.shield(link.kill_cursor(id, "$cmd.aggregate", session))

    async def _ask(self, command: Mapping[str, Any], session: Any) -> Any:
        try:
            return await self._link.run(command, session=session)
        except BackendError as error:
            cause = error.__cause__
            if cause is not None and code_of(cause) in HISTORY_LOST:
                raise PositionExpired(
                    f"mongodb: the oplog no longer reaches back to this position ({cause})"
                ) from cause
            raise

    def _page(self, batch: Sequence[Mapping[str, Any]], token: Any) -> Page:
        found: dict[str, list[Placed]] = {}
        resets: list[str | None] = []
        place = None
        for event in batch:
            time = event["clusterTime"]
            if time != self._time:
                self._time = time
                self._numbers.clear()
            if event["operationType"] in RESETS:
                if time <= self._start:  # what is read from here on is that of the new collection
                    continue
                resets.append(event.get("ns", {}).get("coll"))
                if "to" in event:
                    resets.append(event["to"]["coll"])
                continue
            translated = self._translate(event)
            if translated is None:
                continue
            stream, told = translated
            number = 0
            for one in told:
                if not number:
                    number = self._numbers[stream] = self._numbers.get(stream, 0) + 1
                place = change(time, number, one.half)
                found.setdefault(stream, []).append((place, one))
        if not batch:
            place = end(time_of_token(token))
        elif place is None:  # nothing of it was ours: all before that time is read
            time = time_of_token(token)
            place = Place(time.time, time.inc, 0)
        return Page(found, resets, place, not batch)


class Inbox:
    """What one watch has still to tell."""

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.changes: deque[Placed] = deque()
        self.behind = False
        self.error: MotiaError | None = None
        self.bell = asyncio.Event()


class Tail:
    """The change stream that follows the oplog for all watches of this process (C4)."""

    def __init__(
        self, reader: Callable[[], Reader], options: Mapping[str, Any], reset: Callable[[str | None], str | None]
    ) -> None:
        self._reader = reader
        self._options = options
        self._reset = reset
        self._inboxes: dict[str, set[Inbox]] = {}
        self._task: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self.place: Place | None = None
        """How far it has read; ``None``: it does not run."""

    async def attach(self, inbox: Inbox, start: Callable[[], Any]) -> Place:
        """Deliver all changes after the place that is returned. ``start`` gives the time to begin at."""
        async with self._starting:
            if self._task is None or self._task.done():
                await self._begin(await start())
        assert self.place is not None
        self._inboxes.setdefault(inbox.stream, set()).add(inbox)
        return self.place

    def detach(self, inbox: Inbox) -> None:
        """Deliver nothing more."""
        self._inboxes.get(inbox.stream, set()).discard(inbox)

    @property
    def is_used(self) -> bool:
        """Whether anybody watches."""
        return any(self._inboxes.values())

    def lost(self, stream: str) -> None:
        """The stream's collection is another one: what watches it has to start anew."""
        for inbox in self._inboxes.get(stream, ()):
            inbox.error = PositionExpired(f"mongodb: the collection of stream {stream!r} was dropped or replaced")
            inbox.bell.set()

    async def close(self, error: MotiaError | None = None) -> None:
        """End it; watches end, with ``error`` if there is one."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._fail(error or BackendUnavailable("mongodb: the storage is closed"))

    async def _begin(self, time: Timestamp) -> None:
        ready = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(time, ready), name="motia-mongodb-tail")
        try:
            await asyncio.shield(ready)
        except asyncio.CancelledError:
            ready.cancel()
            raise

    async def _run(self, time: Timestamp, ready: asyncio.Future[None]) -> None:
        error: MotiaError = BackendError("mongodb: the change stream ended")
        try:
            async with aclosing(self._reader().pages(time, self._options, AWAIT)) as pages:
                async for page in pages:
                    self.place = page.place if self.place is None else max(self.place, page.place)
                    self._deliver(page)
                    if not ready.done():
                        ready.set_result(None)
        except asyncio.CancelledError:
            error = BackendUnavailable("mongodb: the storage is closed")
            raise
        except MotiaError as caught:
            error = caught
        except Exception as caught:
            error = BackendError(f"mongodb: the change stream failed: {caught!r}")
            error.__cause__ = caught
        finally:
            self.place = None
            if not ready.done():
                ready.set_exception(error)
                with contextlib.suppress(BaseException):
                    ready.exception()
            self._fail(error)

    def _deliver(self, page: Page) -> None:
        for collection in page.resets:
            stream = self._reset(collection)
            for name in list(self._inboxes) if stream is None else [stream]:
                self.lost(name)
        for stream, changes in page.changes.items():
            for inbox in self._inboxes.get(stream, ()):
                if inbox.behind:
                    continue
                if len(inbox.changes) + len(changes) > INBOX:
                    inbox.changes.clear()
                    inbox.behind = True
                else:
                    inbox.changes += changes
        for inboxes in self._inboxes.values():
            for inbox in inboxes:
                inbox.bell.set()

    def _fail(self, error: MotiaError) -> None:
        for inboxes in self._inboxes.values():
            for inbox in inboxes:
                inbox.error = inbox.error or error
                inbox.bell.set()


def as_change(stream: str, identity: str, place: Place, told: Told) -> Change:
    """A change as the contract has it."""
    return Change(
        told.type, stream, told.group, told.id, told.json, place.timestamp, told.version, place.position(identity),
        told.event_type,
    )  # fmt: skip
