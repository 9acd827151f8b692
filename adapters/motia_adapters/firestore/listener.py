"""One call that listens for everything this process wants to hear of, and comes back whenever it breaks.

Each `Target` is a query; however many subscribers there are, a stream is one target of
this call, without a thread. What can happen to a listener and is healed here: the call
ends or its connection is cut; Firestore removes a target, with or without a cause; its
count of documents (the existence filter) is not ours; our own handling of a message
fails. In all these cases the target is listened to afresh, and its owner is told that
something may have been missed. What happens again and again is tried ever less often.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from typing import Any

import grpc

from motia_adapters.firestore.connection import Connection
from motia_adapters.firestore.failures import not_let, read_failed, says_nothing
from motia_adapters.firestore.wire import ListenRequest
from motia_core.errors import BackendError, BackendUnavailable

_log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds before a broken call is made again; doubled each time, up to the second."""
LONGEST_GOODBYE = 3.0
"""Seconds in which the server is to end a call."""
NO_CHANGE, ADDED, REMOVED, CURRENT, RESET = range(5)
"""Kinds of changes of a target, as Firestore numbers them."""


class Target(ABC):
    """One query that is listened to. All methods are called on the event loop."""

    def __init__(self, parent: str, query: Any) -> None:
        self.parent = parent
        self.query = query
        self.id = 0
        self.token = b""
        """Where to go on; empty: from the start."""
        self.members: set[str] = set()
        """Names of the documents that it holds, as far as was heard."""
        self.current = False
        """Whether it has heard all there was, and is listening."""
        self.error: BackendError | None = None
        """Why Firestore does not let it listen, until it does."""
        self.setbacks = 0
        """How often, one soon after the other, it had to be listened to afresh."""
        self.set_back = 0.0
        """When that was last, on the loop's clock."""

    @abstractmethod
    def heard(self, document: Any) -> None:
        """A document was created or changed."""

    @abstractmethod
    def gone(self, name: str) -> None:
        """A document is there no more, or does not fit the query any more."""

    @abstractmethod
    def settled(self, at: Any) -> None:
        """All changes up to this time have been heard."""

    @abstractmethod
    def doubtful(self, *, whole: bool) -> None:
        """Something may have been missed. ``whole``: all documents are told anew, up to the next `settled`."""


class Listener:
    """The call, and its targets."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._targets: dict[int, Target] = {}
        self._ids = 0
        self._task: asyncio.Task[None] | None = None
        self._requests: asyncio.Queue[Any] = asyncio.Queue()
        self._call: Any = None
        self.error: BackendError | None = None
        """What broke the call, until it works again."""

    def add(self, target: Target) -> None:
        """Listen to a query from now on."""
        self._enter(target)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="motia-firestore-listener")

    def remove(self, target: Target) -> None:
        """Listen to it no more."""
        if self._targets.pop(target.id, None) is not None:
            self._requests.put_nowait(self._request(remove=target.id))
        target.current = False

    def renew(self, target: Target, pause: float = 0.0) -> None:
        """Listen to it afresh, from where it was, after so many seconds."""
        if self._targets.get(target.id) is target:
            self.remove(target)
            self._enter(target, pause)

    def restart(self) -> None:
        """End the call, which has missed something, and make a new one."""
        if self._call is not None:
            self._call.cancel()

    async def close(self) -> None:
        """End."""
        works = self._call is not None and self.error is None
        self._targets.clear()
        if self._task is not None:
            # A call that the server ends, as it is asked to here, leaves nothing behind of which gRPC would hear later.
            self._requests.put_nowait(None)
            await asyncio.wait([self._task], timeout=LONGEST_GOODBYE if works else 0.0)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def _enter(self, target: Target, pause: float = 0.0) -> None:
        self._ids += 1
        target.id = self._ids
        target.current = False
        self._targets[target.id] = target
        if pause:
            asyncio.get_running_loop().call_later(pause, self._ask, target, target.id, self._requests)
        else:
            self._ask(target, target.id, self._requests)

    def _ask(self, target: Target, id: int, requests: asyncio.Queue[Any]) -> None:
        """Add a target that is still wanted to the call; a new call has asked for it already."""
        if self._targets.get(id) is target and requests is self._requests:
            requests.put_nowait(self._request(add=target))

    def _request(self, *, add: Target | None = None, remove: int = 0) -> Any:
        message = ListenRequest(database=self._connection.database)
        if add is None:
            message.remove_target = remove
            return message
        message.add_target.target_id = add.id
        message.add_target.query.parent = add.parent
        message.add_target.query.structured_query.CopyFrom(add.query)
        if add.token:
            message.add_target.resume_token = add.token
        return message

    async def _run(self) -> None:
        pause = FIRST_PAUSE
        while self._targets:
            try:
                await self._listen()
            except BackendError as error:
                self.error = error
                if isinstance(error, BackendUnavailable):
                    pause = FIRST_PAUSE  # nobody was asked: a connection was waited for
            except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError, OSError) as error:
                if self.error is None or not says_nothing(error):
                    self.error = read_failed(error, self._connection.address, "listen")
            except Exception as error:
                _log.exception("a listener failed: it is made again")
                self.error = read_failed(error, self._connection.address, "listen")
            except asyncio.CancelledError:
                if not self._targets or (task := asyncio.current_task()) is None or task.cancelling():
                    raise
                self.error = None  # the call was cancelled, not we
            if not self._targets:
                break
            _log.debug("listening ended: %s", self.error)
            if any(target.current for target in self._targets.values()):
                pause = FIRST_PAUSE
            for target in list(self._targets.values()):
                target.current = False
                target.doubtful(whole=False)
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, pause * 2)

    async def _listen(self) -> None:
        """Make the call, and hear what it says until it ends."""
        self._requests = asyncio.Queue()
        call = self._call = await self._connection.listen()
        sender = asyncio.create_task(self._send(call), name="motia-firestore-listener-requests")
        try:
            for target in list(self._targets.values()):
                self._requests.put_nowait(self._request(add=target))
            async for message in call:
                if message is None:  # how the driver says that it could not read one
                    raise BackendError("firestore: a listener was sent a message that cannot be read")
                self._hear(message)
        finally:
            self._call = None
            call.cancel()
            self._requests.put_nowait(None)
            # Its end is waited for: the driver stumbles over what is told to an event loop that is closed.
            await asyncio.wait([sender, asyncio.ensure_future(call.code())], timeout=LONGEST_PAUSE)
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)

    async def _send(self, call: Any) -> None:
        while (request := await self._requests.get()) is not None:
            await call.write(request)
        await call.done_writing()

    def _hear(self, message: Any) -> None:
        kind = message.WhichOneof("response_type")
        if kind == "target_change":
            self._hear_target(message.target_change)
        elif kind == "document_change":
            change = message.document_change
            for id in change.target_ids:
                self._tell(id, "heard", change.document)
            for id in change.removed_target_ids:
                self._tell(id, "gone", change.document.name)
        elif kind in ("document_delete", "document_remove"):
            change = getattr(message, kind)
            for id in change.removed_target_ids:
                self._tell(id, "gone", change.document)
        elif kind == "filter":
            target = self._targets.get(message.filter.target_id)
            if target is not None and message.filter.count != len(target.members):
                _log.info(
                    "a listener holds %d documents, not %d: asking again", len(target.members), message.filter.count
                )
                self._afresh(target)

    def _hear_target(self, change: Any) -> None:
        kind = change.target_change_type
        targets = [self._targets.get(id) for id in change.target_ids] if change.target_ids else self._targets.values()
        for target in [target for target in targets if target is not None]:
            if kind == REMOVED:
                if change.cause.code:
                    _log.warning("a listener was ended: %s", change.cause.message)
                    target.error = not_let(change.cause.code, change.cause.message, self._connection.address)
                self._afresh(target)
                continue
            if kind == RESET:
                target.members.clear()
                self._guard(target, target.doubtful, whole=True)
            elif kind == CURRENT:
                target.current = True
                target.error = self.error = None
            if change.resume_token:
                target.token = change.resume_token
            # Only what is said of all targets is a moment at which each is whole.
            if target.current and change.HasField("read_time") and (kind == NO_CHANGE and not change.target_ids):
                self._guard(target, target.settled, change.read_time)

    def _tell(self, id: int, what: str, about: Any) -> None:
        target = self._targets.get(id)
        if target is None:
            return
        if what == "heard":
            target.members.add(about.name)
            self._guard(target, target.heard, about)
        else:
            target.members.discard(about)
            self._guard(target, target.gone, about)

    def _guard(self, target: Target, tell: Any, *about: Any, **how: Any) -> None:
        """A defect in what is done with a message must not end the call: the target is listened to afresh."""
        try:
            tell(*about, **how)
        except Exception:
            _log.exception("a message of a listener could not be handled: asking again")
            self._afresh(target)

    def _afresh(self, target: Target) -> None:
        now = asyncio.get_running_loop().time()
        target.setbacks = min(target.setbacks + 1, 10) if now - target.set_back < 2 * LONGEST_PAUSE else 0
        target.set_back = now
        target.members.clear()
        target.token = b""
        self.renew(target, min(LONGEST_PAUSE, FIRST_PAUSE * (2**target.setbacks - 1)))
        target.doubtful(whole=True)
        if target.setbacks:
            target.doubtful(whole=False)  # nothing is told for a while
