"""One WebSocket connection: its joins, its queue, its end (SEMANTICS C5, E)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any, Protocol

from motia_core.access import Admission
from motia_core.app import Motia
from motia_core.definitions import Auth, AuthContext, Subscription
from motia_core.errors import AccessDenied, BackendError, BackendUnavailable, GroupTooLarge, InvalidName, MotiaError
from motia_core.hub import Hub
from motia_core.members import Member, Run
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

STALL_LIMIT = 10.0
"""Seconds that a socket may take nothing while something waits for it."""

CLOSE_LIMIT = 1.0
"""Seconds that an ending connection has to take its last words."""

LOST = 1006
"""No close frame can be sent (RFC 6455, 7.4.1)."""

MAX_TIMER = 86_400.0
"""Seconds; an expiry further away is looked at again then."""

MAX_LEFT = 1_000
"""Subscriptions that were left and whose hooks still run, of one connection."""

SYNCS_AT_ONCE = 8
"""Snapshots that one connection has read for it at the same time."""

RESYNC_PATIENCE = 1.0
"""Seconds after which the next subscription of a slow client gets its sync, whatever became of the last."""


class Transport(Protocol):
    """What a server may offer below ASGI, in the scope's ``extensions`` (see `protocol`)."""

    def write(self, frames: bytes) -> bool:
        """Write encoded frames; False, and nothing written, while it is full. Raises when it is gone."""
        raise NotImplementedError

    async def writable(self, limit: float) -> None:
        """Wait until it may be written to. ``TimeoutError``: the client took nothing for ``limit`` seconds."""

    def abort(self) -> None:
        """Drop the connection with all that waits in its buffer."""


class Joined:
    """One subscription of one connection, from its join frame to its leave: the hub's sink for it."""

    __slots__ = ("_connection", "admission", "gone", "hub", "member", "message", "resync")

    def __init__(self, connection: Connection, message: Message) -> None:
        self._connection = connection
        self.message = message
        self.admission: Admission | None = None
        self.hub: Hub | None = None
        self.member: Member | None = None
        self.resync: asyncio.Task[None] | None = None
        self.gone = False

    def push(self, run: Run) -> None:
        """Hub: changes."""
        self._connection.push(run)

    def replay(self, run: Run) -> None:
        """Hub: changes that were missed."""
        if not self.gone:
            self._connection.replay(run)

    def sync(self, member: Member, snapshot: Snapshot, reason: str | None) -> None:
        """Hub: a snapshot."""
        if not self.gone:
            self.member = member
            self._connection.sync(self.message, snapshot, reason)

    def trim(self, member: Member, floor: str) -> bool:
        """Hub: the connection has limits of its own, in what is encoded."""
        return False

    def failed(self, member: Member, error: MotiaError) -> None:
        """Hub: trouble; what cannot be synced any more is over."""
        if isinstance(error, GroupTooLarge):
            self._connection.drop(self, error)
        else:
            self._connection.send_frame(error_frame(_code_of(error), _public(error), self.message.names))


class Connection:
    """A client that has been accepted. `run` serves it until it is gone.

    ``transport`` comes from a server that offers its own (`protocol`): many frames in one
    write. Elsewhere ASGI's ``send`` does.
    """

    def __init__(
        self,
        motia: Motia,
        fanout: Fanout,
        send: Send,
        *,
        transport: Transport | None = None,
    ) -> None:
        limits = motia.settings.server
        self._motia = motia
        self._fanout = fanout
        self._send = send
        self._transport = transport
        self._spawn = motia.spawn
        self._limits = limits
        self._auth = Auth(None)
        self._joins: dict[str, Joined] = {}
        self._hooks = 0
        self._syncing = asyncio.Semaphore(SYNCS_AT_ONCE)
        self._behind: dict[Joined, None] = {}
        self._catching_up: asyncio.Task[None] | None = None
        self._queue: deque[Frame] = deque()
        self._bytes = 0
        self._changes = 0
        self._change_bytes = 0
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
        self._serving: asyncio.Task[Any] | None = None
        self._given_up = False

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
        self._serving = asyncio.current_task()
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
                    # Who asks without reading the answers is not read either.
                    await self._room.wait()
        except asyncio.CancelledError:
            if not self._given_up or (self._serving and self._serving.uncancel()):
                raise
        finally:
            self._serving = None
            self._motia.connections.discard(self)
            self._lost()
            if self._timer:
                self._timer.cancel()
            if self._sending:
                self._sending.cancel()

    async def revoke(self) -> None:
        """End the admission: nothing but the error and the close is sent from here on (E5)."""
        self.end("ACCESS_ENDED", "access was revoked")

    def shut_down(self) -> None:
        """Have the client connect anew, to whoever serves then."""
        self.end("SERVER_SHUTDOWN", "the server is going down")

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
        limit = self._limits.max_subscriptions
        # Hooks of what was left already may still run: joining and leaving must not pile them up.
        if len(self._joins) >= limit or self._hooks >= limit + MAX_LEFT:
            raise BadFrame(
                "TOO_MANY_SUBSCRIPTIONS",
                f"a connection may have {limit} subscriptions",
                message.names,
            )
        joined = self._joins[message.subscription_id] = Joined(self, message)
        self._run_hook(self._admit(joined))

    def _run_hook(self, work: Coroutine[Any, Any, None]) -> None:
        self._hooks += 1
        self._spawn(work).add_done_callback(self._hook_done)

    def _hook_done(self, _: asyncio.Task[None]) -> None:
        self._hooks -= 1

    async def _admit(self, joined: Joined) -> None:
        """The hooks first; nothing of the group is read before they have said yes (E1, E2).

        The hooks are not cancelled when the client leaves meanwhile: a join that
        succeeds after all is left again, so that ``on_leave`` follows every success.
        """
        message = joined.message
        subscription = Subscription(message.stream, message.group, message.id, message.subscription_id)
        try:
            joined.admission = await self._motia.access.join(subscription, self._auth.context)
            async with self._syncing:
                await self._room.wait()
                if not joined.gone:
                    hub = joined.hub = self._motia.hubs[message.stream]
                    joined.member = await hub.join(joined, message.group, message.id, message.after)
                    if message.resumable and not (joined.gone or self._overflowed):
                        position = max(hub.position, joined.member.position)
                        self.send_frame(joined_frame(message.subscription_id, position))
            if joined.gone:
                self._detach(joined)
        except Exception as error:
            if not isinstance(error, MotiaError):
                log.exception("a join of stream %r failed", message.stream)
            self.drop(joined, error)
        except asyncio.CancelledError:
            joined.gone = True
            self._detach(joined)
            raise

    def drop(self, joined: Joined, error: BaseException) -> None:
        """End a subscription that cannot be served, and say why."""
        if not joined.gone:
            joined.gone = True
            self._joins.pop(joined.message.subscription_id, None)
            self.send_frame(error_frame(_code_of(error), _public(error), joined.message.names))
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
            self._run_hook(self._motia.access.leave(admission))

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
        self._change_bytes += frame.size
        # A sync that waits does not count: it would be dropped, sent and dropped again.
        if self._changes > self._max_changes or self._change_bytes > self._max_bytes:
            self._overflow()
        if not self._scheduled:
            self._scheduled = True
            self._fanout.add(self)

    def sync(self, message: Message, snapshot: Snapshot, reason: str | None) -> None:
        """Hub: a snapshot for one subscription; after an overflow, with the acknowledgement that went with it."""
        if snapshot.position < self._pushed.get(message.stream, ""):
            # Within one history that cannot be: what was pushed belongs to one that is lost.
            del self._pushed[message.stream]
        self.send_frame(_snapshot_frame(message, snapshot, reason))
        if message.resumable and reason == "overflow":
            self.send_frame(joined_frame(message.subscription_id, snapshot.position))

    def send_frame(self, frame: Frame) -> None:
        """Queue one frame that is no change; nothing once the connection is ending."""
        if self._closing is None:
            self._put(frame)

    def flush(self) -> None:
        """Fanout: write what waits, as far as the transport takes it."""
        self._scheduled = False
        if self._sending is not None or not self._queue:
            return
        if self._transport is not None:
            try:
                if self._transport.write(b"".join([frame.wire for frame in self._queue])):
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
                    if frame.kind == "change":
                        self._changes -= len(frame.payloads)
                        self._change_bytes -= frame.size
                    if self._bytes <= self._max_bytes // 2:
                        self._room.set()
                    await self._send_now(frame)
        except TimeoutError:
            log.info("a client took nothing for %g seconds and is dropped", STALL_LIMIT)
            self.end("CLIENT_STALLED", f"nothing was taken for {STALL_LIMIT:g} seconds")
        except Exception:
            self._lost()
        finally:
            self._sending = None

    async def _send_now(self, frame: Frame) -> None:
        """Send one frame, unless the connection ends meanwhile. Raises ``TimeoutError`` if the client stalls."""
        ending = self._closing
        limit = STALL_LIMIT if ending is None else CLOSE_LIMIT
        if self._transport is not None:
            await self._transport.writable(limit)
            while self._closing == ending and not self._transport.write(frame.wire):
                await self._transport.writable(limit)
            return
        for text in frame.texts:
            if self._closing != ending:
                return
            async with asyncio.timeout(limit):
                await self._send({"type": "websocket.send", "text": text})

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
        self._bytes = self._changes = self._change_bytes = 0
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
        """Nothing more for any subscription until it has had its sync, one after the other."""
        self._overflowed = False
        for joined in self._joins.values():
            if joined.member is not None and joined.hub is not None:
                text = "changes were dropped; a sync follows"
                self.send_frame(error_frame("SLOW_CONSUMER", text, joined.message.names))
                if joined.resync is None or joined.resync.done():  # else its sync is on the way
                    joined.hub.pause(joined.member)
                    self._behind[joined] = None
        if self._behind and self._catching_up is None:
            self._catching_up = self._spawn(self._catch_up())

    async def _catch_up(self) -> None:
        """One sync at a time, and only while there is room: together they may be far more than fits."""
        while self._behind:
            await self._room.wait()
            if not self._behind:
                break
            joined = next(iter(self._behind))
            del self._behind[joined]
            if not joined.gone and joined.hub is not None and joined.member is not None:
                joined.resync = joined.hub.resync(joined.member, "overflow")
                await asyncio.wait({joined.resync}, timeout=RESYNC_PATIENCE)
        self._catching_up = None

    def _lost(self) -> None:
        """The transport is gone, or is given up: nothing more can be sent."""
        self._closing = self._closing or LOST
        self._overflowed = False
        self._cut()
        self._behind.clear()
        self._empty()

    def _give_up(self) -> None:
        """Break the connection off; without a transport of our own, by ending the application's call."""
        self._lost()
        if self._transport is not None:
            self._transport.abort()
        elif self._serving is not None:
            self._given_up = True
            self._serving.cancel()

    async def _finish(self) -> None:
        """Send what `end` left to say, and close."""
        try:
            async with asyncio.timeout(CLOSE_LIMIT):
                self.flush()
                if self._sending is not None:
                    await asyncio.wait({self._sending})
                await self._send({"type": "websocket.close", "code": self._closing})
        except Exception:
            self._give_up()

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
