"""A gRPC gateway in front of the emulator: it counts what is billed, and answers as production may."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from motia_adapters.firestore.wire import (
    BatchGetResponse,
    CommitRequest,
    ListenRequest,
    ListenResponse,
    RunQueryResponse,
)

SERVICE = "google.firestore.v1.Firestore"


@dataclass
class Gateway:
    """What went through, and what is to be done with it."""

    upstream: Any
    port: int = 0
    refuse: Any = None
    """A status code with which every call is answered, with the words ``said``, or those that are named by ``only``."""
    only: Callable[[str], bool] = lambda method: True
    """Which calls are refused, by the names of their methods."""
    refuses: Callable[[Any], str] = lambda commit: ""
    """Which commits are invalid, and in which words; empty: it is not."""
    said: str = ""
    after: Callable[[], Awaitable[None]] | None = None
    """Done once behind the next commit, which was applied and is then answered as the emulator does when a listener of
    somebody else has just died."""
    denied: bool = False
    """Whether targets of listeners are removed as soon as they are added, as the account may not listen."""
    billed: Counter[str] = field(default_factory=Counter)
    """Documents read and written, and calls by name."""
    requests: list[Any] = field(default_factory=list)
    """What listeners asked for."""
    hold: Callable[[str, bytes], Awaitable[None]] | None = None
    """Awaited before a read is passed on, with the method's name and the request."""
    swallow: Callable[[Any], bool] = lambda message: False
    """Which messages to listeners are kept back."""
    listeners: list[asyncio.Queue[bytes]] = field(default_factory=list)
    authorized: Counter[str] = field(default_factory=Counter)
    """Calls by what they were authorized with; the emulator is told that it was its owner."""

    def say(self, message: Any) -> None:
        """Send all listeners a message of our own, or bytes that are none."""
        for queue in self.listeners:
            queue.put_nowait(message if isinstance(message, bytes) else message.SerializeToString())

    @property
    def targets(self) -> list[int]:
        """The numbers of the targets that were added, in order."""
        return [request.add_target.target_id for request in self.requests if request.HasField("add_target")]

    async def _unary(self, request: bytes, context: Any) -> bytes:
        await self._check("Commit", context)
        if words := self.refuses(CommitRequest.FromString(request)):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, words)
        try:
            reply = await self.upstream.unary_unary(f"/{SERVICE}/Commit")(request, metadata=self._metadata(context))
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details())
            raise
        for write in CommitRequest.FromString(request).writes:
            self.billed["deletes" if write.WhichOneof("operation") == "delete" else "writes"] += 1
        after, self.after = self.after, None
        if after is not None:
            await after()
            await context.abort(grpc.StatusCode.CANCELLED, "call already cancelled. Use ServerCallStreamObserver.")
        return bytes(reply)

    def _stream(self, method: str) -> Any:
        async def serve(request: bytes, context: Any) -> AsyncIterator[bytes]:
            await self._check(method, context)
            if self.hold is not None:
                await self.hold(method, request)
            found = 0
            call = self.upstream.unary_stream(f"/{SERVICE}/{method}")(request, metadata=self._metadata(context))
            async for answer in call:
                found += _found(method, answer)
                yield answer
            self.billed["reads"] += max(1, found)

        return serve

    async def _listen(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        await self._check("Listen", context)
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.listeners.append(queue)

        async def asked() -> AsyncIterator[bytes]:
            async for request in requests:
                asked = ListenRequest.FromString(request)
                self.requests.append(asked)
                if self.denied and asked.HasField("add_target"):
                    queue.put_nowait(_denial(asked.add_target.target_id))
                else:
                    yield request

        call = self.upstream.stream_stream(f"/{SERVICE}/Listen")(asked(), metadata=self._metadata(context))

        async def pump() -> None:
            async for answer in call:
                message = ListenResponse.FromString(answer)
                if message.HasField("document_change"):
                    self.billed["reads"] += 1
                if not self.swallow(message):
                    queue.put_nowait(answer)

        task = asyncio.create_task(pump())
        try:
            while True:
                yield await queue.get()
        finally:
            self.listeners.remove(queue)
            call.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _metadata(self, context: Any) -> tuple[tuple[str, str], ...]:
        asked = dict(context.invocation_metadata())
        self.authorized[asked.pop("authorization", "")] += 1
        told = [(key, value) for key, value in asked.items() if not key.startswith("user-agent")]
        return (*told, ("authorization", "Bearer owner"))

    async def _check(self, method: str, context: Any) -> None:
        self.billed[method] += 1
        if self.refuse is not None and self.only(method):
            await context.abort(self.refuse, self.said)


def _denial(target: int) -> bytes:
    message = ListenResponse()
    message.target_change.target_change_type = 2
    message.target_change.target_ids.append(target)
    message.target_change.cause.code = grpc.StatusCode.PERMISSION_DENIED.value[0]
    message.target_change.cause.message = "Missing or insufficient permissions."
    return bytes(message.SerializeToString())


def _found(method: str, answer: bytes) -> int:
    if method == "RunQuery":
        return int(RunQueryResponse.FromString(answer).HasField("document"))
    return int(BatchGetResponse.FromString(answer).WhichOneof("result") is not None)


@asynccontextmanager
async def gateway(address: str, tls: grpc.ServerCredentials | None = None) -> AsyncGenerator[Gateway, None]:
    """A gateway in front of an emulator; with TLS it answers to the name ``localhost``."""
    async with grpc.aio.insecure_channel(address) as upstream:
        made = Gateway(upstream)
        server = grpc.aio.server()
        handlers = {
            "Commit": grpc.unary_unary_rpc_method_handler(made._unary),
            "BatchGetDocuments": grpc.unary_stream_rpc_method_handler(made._stream("BatchGetDocuments")),
            "RunQuery": grpc.unary_stream_rpc_method_handler(made._stream("RunQuery")),
            "Listen": grpc.stream_stream_rpc_method_handler(made._listen),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        made.port = server.add_secure_port("localhost:0", tls) if tls else server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield made
        finally:
            await server.stop(None)
