"""A stand-in for how Google's own Firestore listens and reads, in front of its emulator: it is called a stand-in.

The emulator tells all documents of a listener anew at every change, and gives a commit its
time before it shows it. This server listens by itself, as the protocol has it: changes come
one by one, then the moment at which all targets are whole; a resume token brings what
changed since, with a count (the existence filter). And no read falls into a commit, so that
what is read at a time is what was so. All clients must come through it. It runs on threads:
tests use several event loops.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from motia_adapters.firestore.listener import ADDED, CURRENT, NO_CHANGE, REMOVED
from motia_adapters.firestore.wire import (
    BatchGetRequest,
    BatchGetResponse,
    CommitRequest,
    ListenRequest,
    ListenResponse,
    RunQueryRequest,
    RunQueryResponse,
)

SERVICE = "google.firestore.v1.Firestore"
OWNER = (("authorization", "Bearer owner"),)
CALLS = 400
"""Calls at once, at most: each listener is one."""
LATE = 0.02
"""Seconds by which a listener hears of a commit, at most."""


TOO_OLD = "The requested snapshot version is too old."
"""How Google's service refuses to read what was longer ago than it remembers."""


class Turns:
    """Commits go at once with each other, a read of now alone."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._committing = 0
        self._reading = 0
        self.commits = 0

    @contextmanager
    def commit(self) -> Iterator[None]:
        """While no read is under way, or waits."""
        with self._condition:
            self._condition.wait_for(lambda: not self._reading)
            self._committing += 1
        try:
            yield
        finally:
            with self._condition:
                self._committing -= 1
                self.commits += 1
                self._condition.notify_all()

    @contextmanager
    def read(self) -> Iterator[None]:
        """When all commits under way have come to their end."""
        with self._condition:
            self._reading += 1
            self._condition.wait_for(lambda: not self._committing)
        try:
            yield
        finally:
            with self._condition:
                self._reading -= 1
                self._condition.notify_all()

    def wait(self, seen: int, timeout: float) -> None:
        """Until there was a commit more."""
        with self._condition:
            self._condition.wait_for(lambda: self.commits > seen, timeout)


@dataclass
class _Target:
    id: int
    parent: str
    query: Any
    known: dict[str, Any] = field(default_factory=dict)


class Listening:
    """One call that listens."""

    def __init__(self, standin: Firestore, requests: Iterator[bytes], context: Any) -> None:
        self._standin = standin
        self._context = context
        self._targets: dict[int, _Target] = {}
        self._asked: queue.Queue[Any] = queue.Queue()
        threading.Thread(target=self._hear, args=(requests,), daemon=True).start()

    def _hear(self, requests: Iterator[bytes]) -> None:
        try:
            for request in requests:
                self._asked.put(ListenRequest.FromString(request))
        except Exception:
            self._context.cancel()  # the client has gone

    def answers(self) -> Iterator[bytes]:
        """What is said, until the client goes."""
        seen = -1
        while self._context.is_active():
            self._standin.check("Listen", self._context)
            try:
                while True:
                    yield from self._ask(self._asked.get_nowait())
                    seen = -1
            except queue.Empty:
                pass
            commits = self._standin.turns.commits
            if commits == seen or not self._targets:
                self._standin.turns.wait(seen if self._targets else commits, LATE)
                continue
            time.sleep(random.uniform(0, LATE))
            seen = self._standin.turns.commits
            yield from self._moment()

    def _ask(self, request: Any) -> Iterator[bytes]:
        if request.WhichOneof("target_change") == "remove_target":
            if self._targets.pop(request.remove_target, None) is not None:
                yield _change(REMOVED, request.remove_target)
            return
        asked = request.add_target
        target = _Target(asked.target_id, asked.query.parent, asked.query.structured_query)
        yield _change(ADDED, target.id)
        if asked.resume_token:
            at = int(asked.resume_token)
            target.known, _ = self._standin.find(target.parent, target.query, at)
        with self._standin.turns.read():
            found, now = self._standin.find(target.parent, target.query)
        yield from _differences(target, found, now)
        if asked.resume_token:
            message = ListenResponse()
            message.filter.target_id, message.filter.count = target.id, len(found)
            yield message.SerializeToString()
        yield _change(CURRENT, target.id, now)
        self._targets[target.id] = target

    def _moment(self) -> Iterator[bytes]:
        """What is different now, and that this is all."""
        now: Any = None
        messages: list[bytes] = []
        with self._standin.turns.read():
            for target in self._targets.values():
                found, now = self._standin.find(target.parent, target.query)
                messages += _differences(target, found, now)
        yield from messages
        yield _change(NO_CHANGE, 0, now)


class Firestore:
    """The stand-in; ``address`` is the emulator's, as host:port."""

    def __init__(self, address: str) -> None:
        self.turns = Turns()
        self._channel = grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)])
        self._server = grpc.server(
            ThreadPoolExecutor(CALLS), options=[("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]
        )
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        handlers = {
            "Commit": grpc.unary_unary_rpc_method_handler(self._commit),
            "BeginTransaction": grpc.unary_unary_rpc_method_handler(self._plain("BeginTransaction")),
            "Rollback": grpc.unary_unary_rpc_method_handler(self._plain("Rollback")),
            "BatchGetDocuments": grpc.unary_stream_rpc_method_handler(self._read("BatchGetDocuments", BatchGetRequest)),
            "RunQuery": grpc.unary_stream_rpc_method_handler(self._read("RunQuery", RunQueryRequest)),
            "Listen": grpc.stream_stream_rpc_method_handler(self._listen),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self.billed: Counter[str] = Counter()
        """Documents read, by calls and by listeners, written and deleted."""
        self.refuse: Any = None
        """A status code with which the calls that ``only`` names are answered, with the words ``said``."""
        self.said = ""
        self.only: Callable[[str], bool] = lambda method: True
        self.memory = 3_600.0
        """Seconds that documents of the past can be read."""

    def start(self) -> None:
        """Serve."""
        self._server.start()

    def stop(self) -> None:
        """Serve no more."""
        self._server.stop(0).wait()
        self._channel.close()

    def check(self, method: str, context: Any) -> None:
        """End a call that is to be refused."""
        if self.refuse is not None and self.only(method):
            context.abort(self.refuse, self.said)

    def find(self, parent: str, query: Any, at: int | None = None) -> tuple[dict[str, Any], Any]:
        """Documents by name, and the time at which they were so; ``at`` in ns."""
        request = RunQueryRequest(parent=parent, structured_query=query)
        if at is not None:
            request.read_time.seconds, request.read_time.nanos = divmod(at, 1_000_000_000)
        found: dict[str, Any] = {}
        read_time: Any = None
        call: Any = self._channel.unary_stream(f"/{SERVICE}/RunQuery")
        for answer in call(request.SerializeToString(), metadata=OWNER):
            message = RunQueryResponse.FromString(answer)
            if message.HasField("document"):
                found[message.document.name] = message.document
            read_time = message.read_time
        return found, read_time

    def _commit(self, request: bytes, context: Any) -> bytes:
        self.check("Commit", context)
        with self.turns.commit():
            reply = self._forward("Commit", request, context)
        for write in CommitRequest.FromString(request).writes:
            self.billed["deletes" if write.WhichOneof("operation") == "delete" else "writes"] += 1
        return reply

    def _plain(self, method: str) -> Callable[[bytes, Any], bytes]:
        return lambda request, context: self._forward(method, request, context)

    def _forward(self, method: str, request: bytes, context: Any) -> bytes:
        try:
            call: Any = self._channel.unary_unary(f"/{SERVICE}/{method}")
            return bytes(call(request, metadata=OWNER))
        except grpc.RpcError as error:
            _abort(context, error)
            raise

    def _read(self, method: str, kind: Any) -> Callable[[bytes, Any], Iterator[bytes]]:
        def found(answer: bytes) -> bool:
            if method == "RunQuery":
                return bool(RunQueryResponse.FromString(answer).HasField("document"))
            return BatchGetResponse.FromString(answer).WhichOneof("result") is not None

        def serve(request: bytes, context: Any) -> Iterator[bytes]:
            self.check(method, context)
            asked = kind.FromString(request)
            call: Any = self._channel.unary_stream(f"/{SERVICE}/{method}")
            try:
                if (selector := asked.WhichOneof("consistency_selector")) is not None:
                    age = time.time() - asked.read_time.seconds - asked.read_time.nanos / 1e9
                    if selector == "read_time" and age > self.memory:
                        context.abort(grpc.StatusCode.FAILED_PRECONDITION, TOO_OLD)
                    answers = list(call(request, metadata=OWNER))
                else:
                    with self.turns.read():
                        answers = list(call(request, metadata=OWNER))
            except grpc.RpcError as error:
                _abort(context, error)
                raise
            self.billed["reads"] += max(1, sum(found(answer) for answer in answers))
            yield from answers

        return serve

    def _listen(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        for answer in Listening(self, requests, context).answers():
            self.billed["reads"] += ListenResponse.FromString(answer).HasField("document_change")
            yield answer


def _differences(target: _Target, found: dict[str, Any], now: Any) -> list[bytes]:
    messages = []
    for name, document in found.items():
        if name not in target.known or target.known[name].update_time != document.update_time:
            message = ListenResponse()
            message.document_change.document.CopyFrom(document)
            message.document_change.target_ids.append(target.id)
            messages.append(message.SerializeToString())
    for name in target.known.keys() - found.keys():
        message = ListenResponse()
        message.document_delete.document = name
        message.document_delete.removed_target_ids.append(target.id)
        message.document_delete.read_time.CopyFrom(now)
        messages.append(message.SerializeToString())
    random.shuffle(messages)
    target.known = found
    return messages


def _change(kind: int, target: int, at: Any = None) -> bytes:
    message = ListenResponse()
    message.target_change.target_change_type = kind
    if target:
        message.target_change.target_ids.append(target)
    if at is not None:
        message.target_change.read_time.CopyFrom(at)
        message.target_change.resume_token = str(at.seconds * 1_000_000_000 + at.nanos).encode()
    return bytes(message.SerializeToString())


def _abort(context: Any, error: Any) -> None:
    context.abort(error.code(), error.details())
