"""One client, PyMongo's asynchronous one or Motor's, used in the one way that both have: commands.

``command()`` gives whole replies, so that writes know their operation time, and it never sends
a write a second time, whatever ``retryWrites`` says.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from bson import Timestamp

from motia_adapters.mongodb.failures import failure, is_reply
from motia_adapters.mongodb.mapped.values import CODEC, RAW
from motia_adapters.mongodb.options import MongoOptions
from motia_core.errors import BackendError, BackendUnavailable, ConfigError, OutcomeUnknown

MAJORITY = {"w": "majority"}
READ_MAJORITY = {"level": "majority"}
APP_NAME = "motia-core"
"""How the server names our own clients."""
GRACE = 0.5
"""Seconds beyond the timeout until a call is given up by us instead of the driver."""


class Link:
    """The database, through whichever client there is."""

    def __init__(self, options: MongoOptions, timeout: float, name: str) -> None:
        self.options = options
        self.timeout = timeout
        self.address = options.address if options.client is None else _address(options.client, options.database)
        self._name = name
        self._client: Any = None
        self._database: Any = None
        self._calls: dict[asyncio.Future[Any], Any] = {}
        """What is under way, with its session."""
        self._tells_time = True

    @property
    def is_open(self) -> bool:
        """Whether commands can be sent."""
        return self._client is not None

    async def open(self) -> None:
        """Make the client, or take the one that was handed in.

        Raises `BackendError` for a URL it cannot use, `ConfigError` for such a client.
        """
        options = self.options
        if options.client is not None:
            if _limits(options.client).timeout is not None:
                raise ConfigError(
                    f"mongodb: the client handed in for {self.address} has timeoutMS, which the driver puts upon change"
                    " streams too: make it without; the storage's own timeout holds for all that is asked"
                )
            self._client = options.client
        else:
            limit = max(1, round(self.timeout * 1000))
            settings: dict[str, Any] = {
                "serverSelectionTimeoutMS": limit, "connectTimeoutMS": limit, "socketTimeoutMS": limit,
                "waitQueueTimeoutMS": limit, "timeoutMS": None, "appname": APP_NAME, "retryWrites": False,
            }  # fmt: skip
            try:
                self._client = _client_class(options.driver)(options.url.get_secret_value(), **settings)
            except Exception as error:
                raise failure(error, self.address, write=False) from error
        self._database = self._client[options.database]

    async def close(self) -> None:
        """Close the client, unless it is the user's."""
        client, self._client = self._client, None
        if self._calls:
            _, late = await asyncio.wait(list(self._calls), timeout=self.timeout + GRACE)
            for task in late:  # of a client of the user's, which need not have limits
                task.cancel()
        if client is not None and self.options.client is None:
            closing = client.close()
            if inspect.isawaitable(closing):
                await closing

    def check_open(self) -> None:
        """Raise `BackendUnavailable` if it is closed."""
        if self._client is None:
            raise BackendUnavailable(f"storage {self._name!r} (mongodb) is closed")

    async def run(
        self,
        command: Mapping[str, Any],
        *,
        session: Any = None,
        database: str | None = None,
        write: bool = False,
        raw: bool = False,
    ) -> Any:
        """Send one command; its reply (``raw``: of bytes). Raises the driver's errors as the project's."""
        self.check_open()
        try:
            return await self.send(command, session=session, database=database, raw=raw)
        except Exception as error:
            raise failure(error, self.address, write=write) from error

    async def send(
        self,
        command: Mapping[str, Any],
        *,
        session: Any = None,
        database: str | None = None,
        uncancelled: bool = False,
        raw: bool = False,
    ) -> Any:
        """Like `run`, with the driver's own errors. ``uncancelled``: nobody cancels the task that asks."""
        if not self._tells_time:
            await self.until_it_tells_time()
        target = self._database if database is None else self._client[database]
        work = target.command(command, session=session, codec_options=RAW if raw else CODEC)
        try:
            if uncancelled and self.options.client is None:  # our own clients have time limits of their own
                reply = await work
            else:
                reply = await self._call(work, self.timeout + GRACE, session)
        except Exception as error:
            if not is_reply(error):
                self._tells_time = False  # it may have started anew
            raise
        if "writeConcernError" in reply:
            said = reply["writeConcernError"].get("errmsg", "")
            raise OutcomeUnknown(f"mongodb: no majority confirmed a write in time ({said}), at {self.address}")
        return reply

    async def until_it_tells_time(self) -> None:
        """Wait until replies carry their cluster time: a server with access control has none just after it started.

        Raises `BackendUnavailable` or `BackendError`.
        """
        end = asyncio.get_running_loop().time() + self.timeout
        while True:
            try:
                reply = await self._call(self._client.admin.command("hello"), self.timeout + GRACE)
            except Exception as error:
                raise failure(error, self.address, write=False) from error
            if "operationTime" in reply:
                break
            if asyncio.get_running_loop().time() > end:
                raise BackendUnavailable(f"mongodb: the server at {self.address} tells no cluster times yet; try again")
            await asyncio.sleep(0.05)
        self._tells_time = True

    def time_of(self, reply: Any, *, write: bool) -> Timestamp:
        """The cluster time of a command. Raises `OutcomeUnknown` or `BackendUnavailable` if its reply has none."""
        time: Timestamp | None = reply.get("operationTime")
        if time is None:
            self._tells_time = False
            said = f"mongodb: the server at {self.address} has just started, and told no cluster time"
            raise (
                OutcomeUnknown(f"{said} of a write that it did") if write else BackendUnavailable(f"{said}; try again")
            )
        return time

    async def _call(self, work: Any, timeout: float, session: Any = None) -> Any:
        """The result of a call of the driver, in time.

        Nothing in the driver is cancelled: it loses a cancellation now and then (``asyncio.wait_for``
        of Python 3.11 does, and Motor's threads know none), or the socket that it was opening. So the
        call is a task of its own; who waits for it may go, and it ends by the driver's own limits.
        """
        task = asyncio.ensure_future(work)
        self._calls[task] = session
        task.add_done_callback(self._over)
        done, _ = await asyncio.wait([task], timeout=timeout)
        if not done:
            raise TimeoutError(f"no answer within {timeout:g} s")
        return task.result()

    def _over(self, task: asyncio.Future[Any]) -> None:
        self._calls.pop(task, None)
        if not task.cancelled():
            task.exception()

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[Any, None]:
        """A session of the driver. Raises `BackendUnavailable`."""
        self.check_open()
        try:
            session = self._client.start_session(causal_consistency=False)
            if inspect.isawaitable(session):
                session = await self._call(session, self.timeout + GRACE)
        except Exception as error:
            raise failure(error, self.address, write=False) from error
        try:
            yield session
        except BaseException:  # who failed has waited enough: a server that is away answers nobody
            self.later(self._end(session))
            raise
        with contextlib.suppress(Exception):
            await self._call(self._end(session), self.timeout + GRACE)

    async def _end(self, session: Any) -> None:
        """End a session, once its calls that nobody waits for any more are over."""
        if pending := [task for task, of in self._calls.items() if of is session]:
            await asyncio.wait(pending)
        ending = session.end_session()
        if inspect.isawaitable(ending):
            await ending

    def later(self, work: Any) -> None:
        """Let it be done; nobody waits but `close`."""
        task = asyncio.ensure_future(work)
        self._calls[task] = None
        task.add_done_callback(self._over)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Any, None]:
        """A session in a transaction, which the block has to `commit`; else it is aborted."""
        from pymongo.read_concern import ReadConcern
        from pymongo.read_preferences import ReadPreference
        from pymongo.write_concern import WriteConcern

        async with self.session() as session:
            started = session.start_transaction(
                read_concern=ReadConcern("snapshot"),
                write_concern=WriteConcern(w="majority"),
                read_preference=ReadPreference.PRIMARY,  # whatever the URL says
            )
            if inspect.isawaitable(started):
                await started
            yield session  # ending a session aborts what is not committed

    async def commit(self, session: Any) -> Any:
        """Commit; the operation time. Raises `OutcomeUnknown` where the answer was lost."""
        try:
            await self._call(session.commit_transaction(), 2 * self.timeout + GRACE, session)
        except Exception as error:
            raise failure(error, self.address, write=True, committing=True) from error
        return self.time_of({"operationTime": session.operation_time}, write=True)

    async def read_all(
        self, command: Mapping[str, Any], *, raw: bool = False, enough: Callable[[list[Any]], bool] | None = None
    ) -> tuple[list[Any], Any]:
        """All documents of a ``find`` or ``aggregate``, or as many as are ``enough``; the cursor of the first reply."""
        async with self.session() as session:
            cursor = first = (await self.run(command, session=session, raw=raw))["cursor"]
            documents: list[Any] = list(cursor["firstBatch"])
            collection = first["ns"].partition(".")[2]
            try:
                while cursor["id"]:
                    if enough is not None and enough(documents):
                        await self.kill_cursor(cursor["id"], collection, session)
                        break
                    more = {"getMore": cursor["id"], "collection": collection}
                    cursor = (await self.run(more, session=session, raw=raw))["cursor"]
                    documents += cursor["nextBatch"]
            except BackendError:  # a server that is away frees its cursors by itself
                raise
            except BaseException:
                await asyncio.shield(self.kill_cursor(first["id"], collection, session))
                raise
            return documents, first

    async def kill_cursor(self, cursor: Any, collection: str, session: Any) -> None:
        """Free a cursor on the server; one that is gone, or a server that is, does not matter."""
        if cursor and self._client is not None:
            with contextlib.suppress(Exception):
                await self.send({"killCursors": collection, "cursors": [cursor]}, session=session)


def _address(client: Any, database: str) -> str:
    """Where a client of the user's leads."""
    servers = sorted(client.topology_description.server_descriptions())
    return f"mongodb://{','.join(f'{host}:{port}' if port else host for host, port in servers)}/{database}"


def _limits(client: Any) -> Any:
    """The options of a client of the user's; Motor's has PyMongo's within."""
    from pymongo import AsyncMongoClient

    return (client if isinstance(client, AsyncMongoClient) else client.delegate).options


def _client_class(driver: str) -> Any:
    if driver == "motor":
        from motor.motor_asyncio import AsyncIOMotorClient

        return AsyncIOMotorClient
    from pymongo import AsyncMongoClient

    return AsyncMongoClient
