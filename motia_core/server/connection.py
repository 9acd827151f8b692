"""One WebSocket connection: its joins, its queue, its end (SEMANTICS C5, E)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any

from motia_core.access import Admission
from motia_core.app import Motia
from motia_core.definitions import Auth, AuthContext, Subscription
from motia_core.errors import AccessDenied, BackendError, BackendUnavailable, GroupTooLarge, InvalidName, MotiaError
from motia_core.hub import Hub, Member, Run
from motia_core.model import Snapshot
from motia_core.server.codes import CODES
from motia_core.server.fanout import Fanout
from motia_core.server.frames import (
    BadFrame,
    Frame,
    Message,
    change_frame,
    error_frame,
    joined_frame,
    read_message,
    sync_frame,
)

log = logging.getLogger("motia.server")

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]

STALL_LIMIT = 10.0
"""Seconds that a socket may take nothing while something waits for it."""

CLOSE_LIMIT = 1.0
"""Seconds that an ending connection has to take its last words."""

LOST = 1006
"""No close frame can be sent (RFC 6455, 7.4.1)."""

MAX_TIMER = 86_400.0
"""Seconds; an expiry further away is looked at again then."""


class Joined:
    """One subscription of one connection, from its join frame to its leave: the hub's sink for it."""

    __slots__ = ("_connection", "admission", "gone", "hub", "member", "message", "push", "replay")

    def __init__(self, connection: Connection, message: Message) -> None:
        self._connection = connection
        self.push: Callable[[Run], None] = connection.push
        self.replay: Callable[[Run], None] = connection.replay
        self.message = message
        self.admission: Admission | None = None
        self.hub: Hub | None = None
        self.member: Member | None = None
        self.gone = False

    def sync(self, member: Member, snapshot: Snapshot, reason: str | None) -> None:
        """Hub: a snapshot."""
        self.member = member
        if reason is not None:
            self._connection.forget(self.message.stream)
        self._connection.send_frame(_snapshot_frame(self.message, snapshot, reason))

    def trim(self, member: Member, floor: str) -> bool:
        """Hub: the connection has limits of its own, in what is encoded."""
        return False

    def failed(self, member: Member, error: MotiaError) -> None:
        """Hub: trouble."""
        self._connection.send_frame(error_frame(_code_of(error), _public(error), self.message.names))


class Connection:
    """A client that has been accepted. `run` serves it until it is gone.

    ``write`` and ``abort`` come from a server that offers its transport (`protocol`):
    many frames in one write, False when it is full. Elsewhere ASGI's ``send`` does.
    """

    def __init__(
        self,
        motia: Motia,
        fanout: Fanout,
        send: Send,
        *,
        write: Callable[[bytes], bool] | None = None,
        abort: Callable[[], None] | None = None,
        spawn: Spawn,
    ) -> None:
        limits = motia.settings.server
        self._motia = motia
        self._fanout = fanout
        self._send = send
        self._write = write
        self._abort = abort
        self._spawn = spawn
        self._limits = limits
        self._auth = Auth(None)
        self._joins: dict[str, Joined] = {}
        self._queue: deque[Frame] = deque()
        self._bytes = 0
        self._changes = 0
        self._room = asyncio.Event()
        self._room.set()
        self._max_changes = limits.send_queue_changes
        self._max_bytes = limits.send_queue_bytes
        self._pushed: dict[str, str] = {}
        self._scheduled = False
        self._sending: asyncio.Task[None] | None = None
        self._overflowed = False
        self._closing: int | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._bad_frames = 0
        self._loop = asyncio.get_running_loop()

    @property
    def auth_context(self) -> AuthContext:
        """Who it is."""
        return self._auth.context

    @property
    def subscriptions(self) -> int:
        """How many subscriptions it has."""
        return len(self._joins)

    async def run(self, auth: Auth, receive: Receive) -> None:
        """Serve the client's frames until it is gone; an ended one is gone once its close is sent."""
        self._auth = auth
        self._motia.connections.add(self)
        try:
            if not self._schedule_expiry():
                self.end("ACCESS_ENDED", "access has expired")
            while True:
                message = await receive()
                if message["type"] == "websocket.disconnect":
                    break
                if self._closing is None:
                    self._received(message)
        finally:
            self._motia.connections.discard(self)
            self._cut()
            self._lost()
            if self._timer:
                self._timer.cancel()
            if self._sending:
                self._sending.cancel()

    async def revoke(self) -> None:
        """End the admission: nothing but the error and the close is sent from here on (E5)."""
        self.end("ACCESS_ENDED", "access was revoked")

    def end(self, code: str, message: str) -> None:
        """Leave everything, say why, and close."""
        if self._closing is None:
            self._closing = CODES[code].close or 1000
            self._cut()
            self._empty()
            self._put(error_frame(code, message))
            self._spawn(self._finish())

    # -- what comes in ------------------------------------------------------------------

    def _received(self, message: MutableMapping[str, Any]) -> None:
        try:
            text = message.get("text")
            if text is None:
                raise BadFrame("INVALID_FRAME", "a frame must be text, not binary")
            if len(text) > self._limits.max_frame_bytes or (
                len(text) * 3 > self._limits.max_frame_bytes
                and len(text.encode("utf-8", "surrogatepass")) > self._limits.max_frame_bytes
            ):
                raise BadFrame("FRAME_TOO_LARGE", f"a frame may have {self._limits.max_frame_bytes} bytes")
            parsed = read_message(text)
            if parsed.type == "join":
                self._join(parsed)
            else:
                self._leave(parsed.subscription_id)
        except BadFrame as bad:
            self._bad_frames += bad.code != "TOO_MANY_SUBSCRIPTIONS"
            if self._bad_frames >= self._limits.max_bad_frames:
                self.end("TOO_MANY_BAD_FRAMES", f"{self._bad_frames} bad frames; the last: {bad}")
            else:
                self.send_frame(error_frame(bad.code, str(bad), bad.echo))

    def _join(self, message: Message) -> None:
        self._leave(message.subscription_id)
        if len(self._joins) >= self._limits.max_subscriptions:
            raise BadFrame(
                "TOO_MANY_SUBSCRIPTIONS",
                f"a connection may have {self._limits.max_subscriptions} subscriptions",
                message.names,
            )
        joined = self._joins[message.subscription_id] = Joined(self, message)
        self._spawn(self._admit(joined))

    async def _admit(self, joined: Joined) -> None:
        """The hooks first; nothing of the group is read before they have said yes (E1, E2).

        The hooks are not cancelled when the client leaves meanwhile: a join that
        succeeds after all is left again, so that ``on_leave`` follows every success.
        """
        message = joined.message
        subscription = Subscription(message.stream, message.group, message.id, message.subscription_id)
        try:
            joined.admission = await self._motia.access.join(subscription, self._auth.context)
            if joined.gone:
                await self._motia.access.leave(joined.admission)
                return
            await self._room.wait()
            hub = joined.hub = self._motia.hubs[message.stream]
            member = await hub.join(joined, message.group, message.id, message.after)
            joined.member = member
            if joined.gone:
                self._detach(joined)
            elif message.resumable:
                self.send_frame(joined_frame(message.subscription_id, max(hub.position, member.position)))
        except Exception as error:
            if not isinstance(error, MotiaError):
                log.exception("a join of stream %r failed", message.stream)
            if not joined.gone:
                joined.gone = True
                self._joins.pop(message.subscription_id, None)
                self.send_frame(error_frame(_code_of(error), _public(error), message.names))
            self._detach(joined)

    def _leave(self, subscription_id: str) -> None:
        joined = self._joins.pop(subscription_id, None)
        if joined is not None:
            joined.gone = True
            if joined.member is not None:
                self._detach(joined)

    def _detach(self, joined: Joined) -> None:
        """Out of the hub at once; ``on_leave`` once, in its own time."""
        if joined.hub is not None and joined.member is not None:
            joined.hub.leave(joined.member)
        if joined.admission is not None:
            admission, joined.admission = joined.admission, None
            self._spawn(self._motia.access.leave(admission))

    def _cut(self) -> None:
        for subscription_id in list(self._joins):
            self._leave(subscription_id)

    # -- what goes out ------------------------------------------------------------------

    def push(self, run: Run) -> None:
        """Hub: changes; once per socket, however many of its subscriptions want them."""
        stream = run.changes[0].stream
        pushed = self._pushed.get(stream, "")
        if run.first <= pushed:
            if run.last <= pushed:
                return
            run = Run([change for change in run.changes if change.position > pushed])
        self._pushed[stream] = run.last
        self.replay(run)

    def replay(self, run: Run) -> None:
        """Hub: changes that one subscription missed."""
        if self._overflowed:
            return
        frame = change_frame(run)
        self._queue.append(frame)
        self._bytes += frame.size
        self._changes += len(run.changes)
        if self._changes > self._max_changes or self._bytes > self._max_bytes:
            self._overflow()
        if not self._scheduled:
            self._scheduled = True
            self._fanout.add(self)

    def forget(self, stream: str) -> None:
        """What was pushed of a stream no longer counts: its history may be another one now."""
        self._pushed.pop(stream, None)

    def send_frame(self, frame: Frame) -> None:
        """Queue one frame that is no change; nothing once the connection is ending."""
        if self._closing is None:
            self._put(frame)

    def flush(self) -> None:
        """Fanout: write what waits, as far as the transport takes it."""
        self._scheduled = False
        if self._sending is not None or not self._queue:
            return
        if self._write is not None:
            try:
                if self._write(b"".join([frame.wire for frame in self._queue])):
                    self._empty()
                    return
            except Exception:
                self._lost()
                return
        self._sending = self._spawn(self._drain())

    async def _drain(self) -> None:
        """Send what waits as fast as the client takes it; a sync follows if some had to be dropped."""
        try:
            while self._queue or self._overflowed:
                if self._overflowed:
                    self._recover()
                if self._queue:
                    frame = self._queue.popleft()
                    self._bytes -= frame.size
                    self._changes -= len(frame.payloads) if frame.kind == "change" else 0
                    for text in frame.texts:
                        async with asyncio.timeout(STALL_LIMIT):
                            await self._send({"type": "websocket.send", "text": text})
            self._room.set()
        except TimeoutError:
            log.info("a client took nothing for %g seconds and is dropped", STALL_LIMIT)
            self._lost(abort=True)
        except Exception:
            self._lost()
        finally:
            self._sending = None

    def _put(self, frame: Frame) -> None:
        self._queue.append(frame)
        self._bytes += frame.size
        if self._bytes > self._max_bytes:
            self._room.clear()
        if not self._scheduled:
            self._scheduled = True
            self._fanout.add(self)

    def _empty(self) -> None:
        self._queue.clear()
        self._bytes = self._changes = 0
        self._room.set()

    def _overflow(self) -> None:
        """Drop what a sync replaces; each subscription gets one when the socket takes something again (C5)."""
        self._overflowed = True
        control = [frame for frame in self._queue if frame.kind == "control"]
        self._empty()
        for frame in control:
            self._put(frame)
        if self._sending is None:
            # Nothing is stuck, it was just too much at once: the sync comes right away.
            self._sending = self._spawn(self._drain())

    def _recover(self) -> None:
        self._overflowed = False
        for joined in list(self._joins.values()):
            if joined.member is not None and joined.hub is not None:
                notice = error_frame("SLOW_CONSUMER", "changes were dropped; a sync follows", joined.message.names)
                self.send_frame(notice)
                joined.hub.resync(joined.member, "overflow")

    def _lost(self, *, abort: bool = False) -> None:
        """The transport is gone, or is given up: nothing more can be sent."""
        self._closing = self._closing or LOST
        self._overflowed = False
        self._empty()
        if abort and self._abort is not None:
            self._abort()

    async def _finish(self) -> None:
        """Send what `end` left to say, and close."""
        try:
            async with asyncio.timeout(CLOSE_LIMIT):
                self.flush()
                if self._sending is not None:
                    await asyncio.wait({self._sending})
                await self._send({"type": "websocket.close", "code": self._closing})
        except Exception:
            self._lost(abort=True)

    def _schedule_expiry(self) -> bool:
        if self._auth.expires_at is None:
            return True
        left = self._auth.expires_at - time.time()
        if left <= 0:
            return False
        self._timer = self._loop.call_later(min(left, MAX_TIMER), self._expire)
        return True

    def _expire(self) -> None:
        if not self._schedule_expiry():
            self.end("ACCESS_ENDED", "access has expired")


def _snapshot_frame(message: Message, snapshot: Snapshot, reason: str | None) -> Frame:
    """Encoded once for all who get the same snapshot of the same subscription."""
    key = (message.stream, message.group, message.id, reason)
    kept = snapshot.frames.get(key)
    if kept is None:
        kept = snapshot.frames[key] = sync_frame(message.stream, message.group, message.id, snapshot, reason)
    return kept


def _code_of(error: BaseException) -> str:
    if isinstance(error, AccessDenied):
        return "STREAM_ACCESS_DENIED"
    if isinstance(error, GroupTooLarge):
        return "GROUP_TOO_LARGE"
    if isinstance(error, BackendError):
        return "BACKEND_UNAVAILABLE"
    return "INVALID_FRAME" if isinstance(error, InvalidName) else "INTERNAL_ERROR"


def _public(error: BaseException) -> str:
    """What a client may read: never where the storage is, or why it failed."""
    if isinstance(error, BackendUnavailable | BackendError):
        return "the storage cannot be reached at the moment"
    return str(error) if isinstance(error, MotiaError) else "internal error"
