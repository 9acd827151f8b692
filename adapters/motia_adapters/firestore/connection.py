"""What is asked of Firestore: every call bounded in time, reads tried again, writes never."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import grpc

from motia_adapters.firestore import emulator
from motia_adapters.firestore.channel import Channel
from motia_adapters.firestore.credentials import find_account
from motia_adapters.firestore.failures import (
    closed,
    is_lost_race,
    may_pass,
    read_failed,
    write_failed,
)
from motia_adapters.firestore.options import FirestoreOptions
from motia_adapters.firestore.wire import (
    BatchGetRequest,
    CommitRequest,
    RunQueryRequest,
    micros,
    removed,
    timestamp,
)
from motia_core.errors import BackendError

_AGAIN = 0.05  # seconds before a read is tried again


class LostRace(Exception):
    """A commit found another state than it expected: nothing was written."""


class Connection(Channel):
    """The database, as this process reaches it."""

    def __init__(self, options: FirestoreOptions, timeout: float) -> None:
        super().__init__(options, timeout)
        self.calls: Counter[str] = Counter()
        """What was asked of Firestore so far: reads and writes as they are billed, and calls."""
        self.is_emulated = options.emulator is not None
        """Whether it is Google's emulator, which gives a commit its time a moment before it shows it."""
        self._offset: float | None = None

    async def open(self) -> None:
        """Find credentials and connect. Raises `BackendError` with what is missing."""
        self.account = await find_account(self.options, self.timeout)
        self._connect()
        try:
            await self.get([f"{self.documents}/{self.options.root}/-"])
        except BaseException:
            await self.close()
            raise

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
            reply = await self._applied(error, writes)
            if reply is None:
                raise write_failed(error, self.address) from error
        except (grpc.aio.UsageError, asyncio.InvalidStateError) as error:
            raise closed(self.address) from error
        self.calls["writes"] += sum(1 for write in writes if not write.HasField("delete"))
        self.calls["deletes"] += sum(1 for write in writes if write.HasField("delete"))
        self._heard(reply.commit_time)
        return reply

    async def try_write(self, name: str) -> None:
        """Find out whether writing is allowed, by a delete of a document that would have to have been there in 1970."""
        await self.get([name])
        try:
            await self.commit([removed(name, after=timestamp(1))])
        except LostRace:
            return

    async def listen(self) -> Any:
        """A new call that listens: requests are written to it, answers come out of it."""
        await self._ready()
        self.calls["listens"] += 1
        return self._stub("Listen")(metadata=self.metadata)

    # -- inside ------------------------------------------------------------------------

    async def _applied(self, error: grpc.aio.AioRpcError, writes: Sequence[Any]) -> Any:
        """The reply to a commit that the emulator applied and called failed; ``None``: it cannot be told."""
        if not self.is_emulated or not emulator.is_of_a_dead_listener(error):
            return None
        names = emulator.names_of(writes)
        try:
            documents, _ = await self.get(names)
        except BackendError:
            return None
        return emulator.reply_to(writes, dict(zip(names, documents, strict=True)))

    async def _read(self, method: str, request: Any, doing: str) -> list[Any]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.timeout
        self.calls[method] += 1
        told: grpc.aio.AioRpcError | None = None
        while True:
            await self._ready()
            left = max(0.001, deadline - loop.time())
            try:
                call = self._stub(method)(request, timeout=left, metadata=self.metadata)
                return await self._answers(call)
            except grpc.aio.AioRpcError as error:
                if not self.is_open:
                    raise closed(self.address) from error
                if not may_pass(error) or loop.time() + _AGAIN >= deadline:
                    self._suspect(error)
                    # What the server said before says more than that there was no time for another try.
                    cause = told if told and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED else error
                    raise read_failed(cause, self.address, doing) from cause
                told = error
            except (grpc.aio.UsageError, asyncio.InvalidStateError) as error:
                raise closed(self.address) from error
            await asyncio.sleep(_AGAIN)

    async def _answers(self, call: Any) -> list[Any]:
        """All that a call answers. It is heard out even if its caller gives up: its time is short.

        A call that is cancelled ends later for gRPC than for us: perhaps when the event loop that has to hear of it
        is closed, at which gRPC stumbles.
        """
        task = asyncio.ensure_future(_all(call))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled() and (caller := asyncio.current_task()) is not None and not caller.cancelling():
                raise closed(self.address) from error  # the call was cancelled with its channel, not who waits for it
            self._leave(task)
            raise

    def _heard(self, stamp: Any) -> None:
        if stamp is None:
            return
        offset = micros(stamp) - asyncio.get_running_loop().time() * 1e6
        if self._offset is None or offset > self._offset:
            self._offset = offset
        else:  # forget slowly, in case the local clock runs faster than the server's
            self._offset -= min(self._offset - offset, 1.0)


async def _all(call: Any) -> list[Any]:
    return [answer async for answer in call]


def as_backend_error(error: BaseException, address: str, doing: str) -> BackendError:
    """An error of the driver or of the system as one of this project's."""
    return error if isinstance(error, BackendError) else read_failed(error, address, doing)
