"""One gRPC channel to Firestore: every call bounded in time, reads tried again, writes never."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any
from urllib.parse import quote

import grpc

from motia_adapters.firestore.credentials import Account, find_account
from motia_adapters.firestore.failures import (
    PASSING,
    closed,
    is_lost_race,
    read_failed,
    unreachable,
    write_failed,
)
from motia_adapters.firestore.options import FirestoreOptions
from motia_adapters.firestore.wire import (
    BatchGetRequest,
    BatchGetResponse,
    CommitRequest,
    CommitResponse,
    ListenRequest,
    ListenResponse,
    RunQueryRequest,
    RunQueryResponse,
    micros,
)
from motia_core.errors import BackendError

_SERVICE = "/google.firestore.v1.Firestore"
_CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_retries", 0),  # a write is never sent twice
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]
_AGAIN = 0.05  # seconds before a read is tried again
_SHORT = 0.5  # seconds to wait for a server that was waited for in vain, until it is there again


class LostRace(Exception):
    """A commit found another state than it expected: nothing was written."""


class Connection:
    """The database, as this process reaches it."""

    def __init__(self, options: FirestoreOptions, timeout: float) -> None:
        self.options = options
        self.timeout = timeout
        self.account: Account | None = None
        self.calls: Counter[str] = Counter()
        """What was asked of Firestore so far: reads and writes as they are billed, and calls."""
        self._channel: Any = None
        self._stubs: dict[str, Any] = {}
        self._offset: float | None = None
        self._away = False
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        """Where the database is, for messages."""
        project = self.account.project if self.account else self.options.project or "(project of the credentials)"
        where = f"firestore://{project}/{self.options.database}"
        return f"{where} (emulator at {self.options.emulator})" if self.options.emulator else where

    @property
    def database(self) -> str:
        """The database's full name."""
        assert self.account is not None
        return f"projects/{self.account.project}/databases/{self.options.database}"

    @property
    def documents(self) -> str:
        """What all names of documents begin with."""
        return f"{self.database}/documents"

    @property
    def is_open(self) -> bool:
        """Whether calls may be made."""
        return self._channel is not None

    def check_open(self) -> None:
        """Raise `BackendUnavailable` unless it is open."""
        if self._channel is None:
            raise closed(self.address)

    async def open(self) -> None:
        """Find credentials and connect. Raises `BackendError` with what is missing."""
        self.account = await find_account(self.options, self.timeout)
        self._connect()
        try:
            await self.get([f"{self.documents}/{self.options.root}/-"])
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the channel; calls under way end."""
        channel, self._channel, self._stubs = self._channel, None, {}
        if channel is not None:
            await channel.close(None)
        if self._closing:
            for task in list(self._closing):
                task.cancel()
            await asyncio.gather(*self._closing, return_exceptions=True)

    def now(self) -> int:
        """The server's clock (µs since the epoch), never ahead of it, and never before what it last told us."""
        if self._offset is None:
            raise closed(self.address)
        return round(asyncio.get_running_loop().time() * 1e6 + self._offset)

    async def get(self, names: Sequence[str], at: Any = None) -> tuple[list[Any], Any]:
        """Documents by name (``None``: not there), in that order, and the time at which they were so."""
        request = BatchGetRequest(database=self.database, documents=names)
        if at is not None:
            request.read_time.CopyFrom(at)
        found: dict[str, Any] = {}
        read_time: Any = None
        for answer in await self._read("BatchGetDocuments", request, "read documents"):
            if answer.WhichOneof("result") == "found":
                found[answer.found.name] = answer.found
            if answer.HasField("read_time"):
                read_time = answer.read_time
        self.calls["reads"] += len(names)
        self._heard(read_time)
        return [found.get(name) for name in names], read_time

    async def query(self, parent: str, query: Any, at: Any = None) -> tuple[list[Any], Any]:
        """The documents that a query finds, and the time at which they were so."""
        request = RunQueryRequest(parent=parent, structured_query=query)
        if at is not None:
            request.read_time.CopyFrom(at)
        documents: list[Any] = []
        read_time: Any = None
        for answer in await self._read("RunQuery", request, "query"):
            if answer.HasField("document"):
                documents.append(answer.document)
            if answer.HasField("read_time"):
                read_time = answer.read_time
        self.calls["reads"] += max(1, len(documents))
        self._heard(read_time)
        return documents, read_time

    async def commit(self, writes: Sequence[Any]) -> Any:
        """Do all writes or none. Raises `OutcomeUnknown`, or (if nothing was) `LostRace` or a `BackendError`."""
        await self._ready()
        self.calls["commits"] += 1
        try:
            reply = await self._stub("Commit")(
                CommitRequest(database=self.database, writes=writes), timeout=self.timeout, metadata=self.metadata
            )
        except grpc.aio.AioRpcError as error:
            if is_lost_race(error):
                raise LostRace(error.details()) from error
            self._suspect(error)
            raise write_failed(error, self.address) from error
        except (grpc.aio.UsageError, asyncio.InvalidStateError) as error:
            raise closed(self.address) from error
        self.calls["writes"] += sum(1 for write in writes if not write.HasField("delete"))
        self.calls["deletes"] += sum(1 for write in writes if write.HasField("delete"))
        self._heard(reply.commit_time)
        return reply

    async def listen(self) -> Any:
        """A new call that listens: requests are written to it, answers come out of it."""
        await self._ready()
        self.calls["listens"] += 1
        return self._stub("Listen")(metadata=self.metadata)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call is sent with."""
        routed = f"database={quote(self.database, safe='')}"
        common = (("google-cloud-resource-prefix", self.database), ("x-goog-request-params", routed))
        return (*common, ("authorization", "Bearer owner")) if self.options.emulator else common

    # -- inside ------------------------------------------------------------------------

    def _connect(self) -> None:
        assert self.account is not None
        self._channel = self.account.channel(self.options.emulator, _CHANNEL_OPTIONS)
        self._stubs = {}

    def _stub(self, method: str) -> Any:
        self.check_open()
        stub = self._stubs.get(method)
        if stub is None:
            kind, request, response = {
                "Commit": ("unary_unary", CommitRequest, CommitResponse),
                "BatchGetDocuments": ("unary_stream", BatchGetRequest, BatchGetResponse),
                "RunQuery": ("unary_stream", RunQueryRequest, RunQueryResponse),
                "Listen": ("stream_stream", ListenRequest, ListenResponse),
            }[method]
            stub = self._stubs[method] = getattr(self._channel, kind)(
                f"{_SERVICE}/{method}",
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )
        return stub

    async def _ready(self) -> None:
        """Wait for a connection, so that a call which fails afterwards was sent. Raises `BackendUnavailable`."""
        self.check_open()
        channel = self._channel
        state = channel.get_state(try_to_connect=True)
        if state is grpc.ChannelConnectivity.READY:
            self._away = False
            return
        seconds = min(_SHORT, self.timeout) if self._away else self.timeout
        try:
            async with asyncio.timeout(seconds):
                while state is not grpc.ChannelConnectivity.READY:
                    if state is grpc.ChannelConnectivity.SHUTDOWN:
                        raise closed(self.address)
                    await channel.wait_for_state_change(state)
                    state = channel.get_state(try_to_connect=True)
        except TimeoutError as error:
            self._away = True
            raise unreachable(self.address, seconds) from error
        except grpc.aio.UsageError as error:
            raise closed(self.address) from error
        self._away = False

    async def _read(self, method: str, request: Any, doing: str) -> list[Any]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.timeout
        self.calls[method] += 1
        while True:
            await self._ready()
            left = max(0.001, deadline - loop.time())
            try:
                call = self._stub(method)(request, timeout=left, metadata=self.metadata)
                return [answer async for answer in _answers(call)]
            except grpc.aio.AioRpcError as error:
                if not self.is_open:
                    raise closed(self.address) from error
                if error.code() not in PASSING or loop.time() + _AGAIN >= deadline:
                    self._suspect(error)
                    raise read_failed(error, self.address, doing) from error
            except (grpc.aio.UsageError, asyncio.InvalidStateError) as error:
                raise closed(self.address) from error
            await asyncio.sleep(_AGAIN)

    def _suspect(self, error: grpc.aio.AioRpcError) -> None:
        """After a call that nobody answered the connection may be half open: later calls get a new one."""
        if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED or self._channel is None:
            return
        old = self._channel
        self._connect()
        task = asyncio.ensure_future(old.close(self.timeout))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _heard(self, stamp: Any) -> None:
        if stamp is None:
            return
        offset = micros(stamp) - asyncio.get_running_loop().time() * 1e6
        if self._offset is None or offset > self._offset:
            self._offset = offset
        else:  # forget slowly, in case the local clock runs faster than the server's
            self._offset -= min(self._offset - offset, 1.0)


async def _answers(call: Any) -> AsyncIterator[Any]:
    try:
        async for answer in call:
            yield answer
    finally:
        call.cancel()


def as_backend_error(error: BaseException, address: str, doing: str) -> BackendError:
    """An error of the driver or of the system as one of this project's."""
    return error if isinstance(error, BackendError) else read_failed(error, address, doing)
