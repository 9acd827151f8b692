"""`connect_stream`: follow a group, or one item, over the WebSocket; reconnect and resume."""

from __future__ import annotations

import asyncio
import inspect
import logging
import uuid
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Self

from motia_core.client._errors import AccessDenied, ServerUnavailable, StreamError
from motia_core.client._link import Link, Token
from motia_core.client._wire import (
    BUILT_IN,
    PASSING,
    SERVER_SHUTDOWN,
    SLOW_CONSUMER,
    Status,
    StreamChange,
    change_of,
    error_of,
    host_of,
    socket_url,
)
from motia_core.errors import MissingDependency
from motia_core.names import check_id, check_stream_name

logger = logging.getLogger("motia_core.client")

Handler = Callable[..., Any]


def connect_stream(
    name: str,
    *,
    group_id: str,
    id: str | None = None,
    url: str = "ws://127.0.0.1:3112",
    token: Token = None,
    after: str | None = None,
    connect_timeout: float | None = 10.0,
    max_frame_bytes: int = 64 * 1024 * 1024,
) -> StreamConnection:
    """Subscribe to all items of a group, or to the one with ``id``.

        async with connect_stream("documents", group_id="workspace-1") as stream:
            async for change in stream:
                print(change.type, change.id, change.data)

    ``after``: go on after this position rather than with a snapshot (if its history is
    gone, a snapshot comes all the same). ``connect_timeout``: seconds that entering may
    take, attempts to connect included; ``None``: without end. ``max_frame_bytes``: the
    largest frame taken; a group's snapshot is one frame.

    Raises `InvalidName` or `ValueError` for arguments that make no sense,
    `MissingDependency` without the extra ``client``. Entering raises `AccessDenied` if the
    token or the subscription is refused, `ServerUnavailable` if nobody answers in time.
    """
    check_stream_name(name)
    check_id(group_id, "group id")
    if id is not None:
        check_id(id, "item id")
    try:
        import websockets  # noqa: F401
    except ImportError as error:
        raise MissingDependency('connect_stream needs websockets: pip install "motia-core[client]"') from error
    return StreamConnection(name, group_id, id, socket_url(url), token, after, connect_timeout, max_frame_bytes)


class StreamConnection:
    """An open subscription: an async context manager and an async iterator of changes.

    Frames are read as they are asked for: a slow consumer holds the server back and
    costs no memory here; one that is too slow is cut off, and resumes from its position.
    All work, reconnecting included, is done while something iterates, or awaits `run`:
    there is no task behind. One consumer at a time.
    """

    def __init__(
        self,
        name: str,
        group_id: str,
        id: str | None,
        url: str,
        token: Token,
        after: str | None,
        connect_timeout: float | None,
        max_frame_bytes: int,
    ) -> None:
        self.stream_name = name
        self.group_id = group_id
        self.id = id
        self._host = host_of(url)
        self._connect_timeout = connect_timeout
        self._status: Status = "connecting"
        self._position = after
        self._received = after
        """Where the connection stands: ahead of ``position`` while a change is pending."""
        self._missed = 0
        self._resuming = False
        self._behind = False
        self._pending: StreamChange | None = None
        """Received and not yet given: so a cancelled read loses nothing."""
        self._announced = False
        self._reading = False
        self._handlers: dict[str, list[Handler]] = {}
        self._subscription_id = uuid.uuid4().hex
        self._link = Link(url, token, max_frame_bytes, join=self._join, status=self._set_status, problem=self._report)

    @property
    def status(self) -> Status:
        """Where the stream stands, see `Status`."""
        return self._status

    @property
    def position(self) -> str | None:
        """The last position that was consumed: give it as ``after`` to go on from there."""
        return self._position

    def on(self, name: str, handler: Handler) -> Callable[[], None]:
        """Call ``handler`` with each `StreamChange` of a kind; returns what takes it off again.

        ``name``: "sync", "create", "update", "delete", "event" (every custom event), a
        custom event's own name, "status" (``handler(status, detail)``) or "error"
        (``handler(error)``, for errors that pass; without one they are logged). Handlers
        may be async; they are called in order, before the change is yielded. What one
        raises is logged, and disturbs nobody.
        """
        if not callable(handler):
            raise TypeError(f"on({name!r}): the handler must be a function")
        handlers = self._handlers.setdefault(name, [])
        handlers.append(handler)

        def off() -> None:
            if handler in handlers:
                handlers.remove(handler)

        return off

    async def __aenter__(self) -> Self:
        limit = asyncio.timeout(self._connect_timeout)
        try:
            async with limit:
                while self._status != "live" and self._pending is None:
                    if not await self._read():
                        raise StreamError("CLOSED", "the stream was closed while it was being opened")
        except BaseException as error:
            await self.close()
            if isinstance(error, TimeoutError) and limit.expired():
                why = f"{self._host} gave no answer within {self._connect_timeout:g} s"
                failure = self._link.failure
                raise ServerUnavailable("UNAVAILABLE", f"{why}: {failure}" if failure else why) from failure or error
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> AsyncIterator[StreamChange]:
        return self

    async def __anext__(self) -> StreamChange:
        """The next change. Cancelling it loses nothing.

        Raises `AccessDenied` when admission ends and `StreamError` when the subscription
        does. A lost connection raises nothing: it is made again.
        """
        if self._reading:
            raise RuntimeError("another task is reading this stream: open one for each consumer")
        self._reading = True
        try:
            while self._pending is None:
                if not await self._read():
                    raise StopAsyncIteration
            change = self._pending
            if not self._announced:
                self._announced = True
                await self._announce(change)
            self._pending, self._announced = None, False
            self._position = self._received
            return change
        finally:
            self._reading = False

    async def run(self) -> None:
        """Call the handlers until the stream is closed; raises what iterating raises."""
        async for _ in self:
            pass

    async def close(self) -> None:
        """End the subscription; an iteration that waits ends too."""
        await self._link.close()
        if self._status != "closed":
            await self._set_status("closed", {})

    def _join(self) -> dict[str, Any]:
        self._missed = 0
        self._behind = False
        self._resuming = self._received is not None
        item = {} if self.id is None else {"id": self.id}
        return {
            "streamName": self.stream_name,
            "groupId": self.group_id,
            **item,
            "subscriptionId": self._subscription_id,
            "after": self._received,
        }

    async def _read(self) -> bool:
        """Take one frame. ``False``: the stream is closed."""
        try:
            frame = await self._link.frame()
            if frame is None:
                return False
            await self._take(frame)
        except StreamError:
            await self.close()
            raise
        return True

    async def _take(self, frame: dict[str, Any]) -> None:
        kind = frame.get("type")
        if kind == "joined":
            await self._joined(frame.get("position"))
        elif kind == "error":
            error = error_of(frame.get("data"))
            if isinstance(error, AccessDenied):
                self._link.ends_with(error)  # Raised as the connection closes, if that is the end.
            elif error.code != SERVER_SHUTDOWN:
                await self._report(error)
        elif kind == "stream" and isinstance(frame.get("event"), dict):
            if frame["event"].get("type") == "error":
                await self._refused(error_of(frame["event"].get("data")))
            else:
                await self._change(frame)

    async def _joined(self, position: str | None) -> None:
        if position is not None and (self._received is None or position > self._received):
            self._received = position
        if self._pending is None:
            self._position = self._received
        await self._live()

    async def _change(self, frame: dict[str, Any]) -> None:
        change = change_of(frame)
        if change is None:
            return
        if change.type == "sync":
            # A snapshot always counts, even from an earlier place: the store may have been wiped.
            self._received = change.position
            self._resuming = self._behind = False
        elif self._behind:  # changes are missing from here on to the sync
            return
        elif change.position is not None:
            if self._received is not None and change.position <= self._received:
                return
            self._received = change.position
            self._missed += 1
        self._pending = change
        if change.type == "sync":
            await self._live()

    async def _live(self) -> None:
        if self._status == "live":
            return
        self._link.live()
        missed = self._missed if self._resuming else 0
        await self._set_status("live", {"resumed": self._resuming, "missed": missed})

    async def _refused(self, error: StreamError) -> None:
        if error.code == SLOW_CONSUMER:
            self._behind = True
            await self._report(error)
        elif error.code in PASSING:
            await self._report(error)
            if self._status != "live":
                await self._link.join_again()
        else:
            raise error

    async def _report(self, error: StreamError) -> None:
        if not self._handlers.get("error"):
            logger.warning("stream %r of %s: %s", self.stream_name, self._host, error, exc_info=error.__cause__)
        await self._call("error", error)

    async def _set_status(self, status: Status, detail: dict[str, Any]) -> None:
        self._status = status
        await self._call("status", status, detail)

    async def _announce(self, change: StreamChange) -> None:
        await self._call(change.type, change)
        if change.event_type is not None and change.event_type not in BUILT_IN:
            await self._call(change.event_type, change)

    async def _call(self, name: str, *arguments: Any) -> None:
        for handler in tuple(self._handlers.get(name, ())):
            try:
                result = handler(*arguments)
                if inspect.isawaitable(result):
                    await result
            except Exception:
                logger.exception("the %r handler of stream %r failed", name, self.stream_name)
