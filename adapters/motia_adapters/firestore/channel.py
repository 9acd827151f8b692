"""One gRPC channel to Firestore, which is replaced when nobody answers on it."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import grpc

from motia_adapters.firestore.credentials import Account
from motia_adapters.firestore.failures import closed, unreachable
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
)

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
_SHORT = 0.5  # seconds to wait for a server that was waited for in vain, until it is there again


class Channel:
    """The way to the database, as this process has it."""

    def __init__(self, options: FirestoreOptions, timeout: float) -> None:
        self.options = options
        self.timeout = timeout
        self.account: Account | None = None
        self._channel: Any = None
        self._stubs: dict[str, Any] = {}
        self._away = False
        self._ending: set[asyncio.Future[Any]] = set()

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

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call is sent with."""
        routed = f"database={quote(self.database, safe='')}"
        common = (("google-cloud-resource-prefix", self.database), ("x-goog-request-params", routed))
        return (*common, ("authorization", "Bearer owner")) if self.options.emulator else common

    async def close(self) -> None:
        """Close the channel; reads that were given up are heard out first, within their time."""
        channel, self._channel, self._stubs = self._channel, None, {}
        if self._ending:
            _, late = await asyncio.wait(self._ending, timeout=self.timeout)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        if channel is not None:
            await channel.close(None)

    # -- inside ------------------------------------------------------------------------

    def _connect(self) -> None:
        assert self.account is not None
        self._channel = self.account.channel(self.options, _CHANNEL_OPTIONS)
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

    def _suspect(self, error: grpc.aio.AioRpcError) -> None:
        """After a call that nobody answered the connection may be half open: later calls get a new one."""
        if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED or self._channel is None:
            return
        old = self._channel
        self._connect()
        self._leave(asyncio.ensure_future(old.close(self.timeout)))

    def _leave(self, task: asyncio.Future[Any]) -> None:
        """Let something end by itself, and not outlive this channel."""
        self._ending.add(task)
        task.add_done_callback(self._left)

    def _left(self, task: asyncio.Future[Any]) -> None:
        self._ending.discard(task)
        if not task.cancelled():
            task.exception()  # nobody asks any more how it ended
