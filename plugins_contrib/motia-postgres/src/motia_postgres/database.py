"""The way to the database: asyncpg, with LISTEN for news."""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import asyncpg
import orjson
from motia_adapters.postgresql.database import CONNECTED, Database, Hear, News
from motia_adapters.postgresql.failures import POOLER, Trouble
from motia_adapters.postgresql.migrations import apply, quoted
from motia_adapters.postgresql.places import Place

from motia_core.adapter import Finding, Migration
from motia_postgres.options import PostgresOptions

PING = 5.0
"""Seconds between two looks whether the listening connection is alive."""
_GONE = ("57P01", "57P02", "57P03")  # the server went away, whatever it was doing


class Pool:
    """A few connections, each for one call at a time. One whose call was cut off is closed, not used again."""

    def __init__(self, options: PostgresOptions, settings: Mapping[str, str], patience: float | None = None) -> None:
        self._options = options
        self._patience = patience
        self._settings = dict(settings)
        self._free: list[asyncpg.Connection[Any]] = []
        self._turns = asyncio.Semaphore(options.pool_size)
        self._closed = False

    async def connect(self) -> asyncpg.Connection[Any]:
        """A new connection. Raises asyncpg's errors and the system's."""
        options = self._options
        how: Any = options.sslmode
        if options.sslrootcert is not None:
            how = ssl.create_default_context(cafile=str(options.sslrootcert))
            how.check_hostname = options.sslmode == "verify-full"
        return await asyncpg.connect(
            host=options.host,
            port=options.port,
            user=options.user,
            password=options.password.get_secret_value() if options.password else None,
            database=options.database,
            ssl=how,
            statement_cache_size=0 if options.pooler else 100,
            server_settings={} if options.pooler else self._settings,
        )

    async def begin(self) -> None:
        """Make the first connection, which is free then."""
        self._give_back(await self._take())

    async def fetchval(self, sql: str, arguments: Iterable[Any]) -> Any:
        """The one value that a statement returns; its connection is free again if the call came to its end."""
        connection = await self._turn()
        try:
            answer = await connection.fetchval(sql, *arguments)
        except asyncpg.PostgresError:
            self._give_back(connection)
            raise
        except BaseException:
            connection.terminate()
            raise
        else:
            self._give_back(connection)
            return answer
        finally:
            self._turns.release()

    async def _turn(self) -> asyncpg.Connection[Any]:
        """A connection, in turn. Raises `NotConnected`."""
        try:
            async with asyncio.timeout(self._patience):
                await self._turns.acquire()
                try:
                    return await self._take()
                except BaseException:
                    self._turns.release()
                    raise
        except TimeoutError as error:
            raise NotConnected(TimeoutError(f"no connection within {self._patience:g} s")) from error

    def _give_back(self, connection: asyncpg.Connection[Any]) -> None:
        if self._closed or connection.is_closed():
            connection.terminate()  # the pool was closed meanwhile, or the server has ended it
        else:
            self._free.append(connection)

    async def _take(self) -> asyncpg.Connection[Any]:
        while self._free:
            connection = self._free.pop()
            if not connection.is_closed():
                return connection
            connection.terminate()
        try:
            return await self.connect()
        except Exception as error:
            raise NotConnected(error) from error

    async def close(self) -> None:
        """Close the connections that are free; those in use are closed when their calls end."""
        self._closed = True
        free, self._free = self._free, []
        for connection in free:
            try:
                async with asyncio.timeout(1):
                    await connection.close()
            except Exception:
                connection.terminate()


class NotConnected(Exception):
    """No connection could be made: nothing was sent."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error) or type(error).__name__)
        self.error = error


class AsyncpgDatabase(Database):
    """Functions called through asyncpg, news by LISTEN."""

    name: ClassVar[str] = "postgres"

    def __init__(self, options: PostgresOptions, timeout: float) -> None:
        self.schema = options.schema_name
        self.timeout = timeout
        self._options = options
        self._pool: Pool | None = None
        self._calls: dict[tuple[str, ...], str] = {}

    @property
    def address(self) -> str:
        """The database's URL, without user and password."""
        return self._options.address

    @property
    def is_open(self) -> bool:
        """Whether calls may be made."""
        return self._pool is not None

    async def open(self) -> None:
        """Make the first connection."""
        # A little less than our own patience: the server's answer tells that nothing was written.
        limit = max(1, round(self.timeout * 900))
        settings = {
            "statement_timeout": f"{limit}",
            "default_transaction_isolation": "read committed",
            "application_name": "motia-core",
            "jit": "off",
        }
        pool = Pool(self._options, settings, CONNECTED * self.timeout)
        await pool.begin()
        self._pool = pool

    async def close(self) -> None:
        """Close all connections."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    async def call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        """``SELECT schema.function(name => value...)``."""
        key = (function, *arguments)
        sql = self._calls.get(key)
        if sql is None:
            named = ", ".join(f"{name} => ${number}" for number, name in enumerate(arguments, 1))
            sql = self._calls[key] = f"SELECT {quoted(self.schema)}.{quoted(function)}({named})"
        assert self._pool is not None
        answer = await self._pool.fetchval(sql, arguments.values())
        return None if answer is None else orjson.loads(answer)

    def map_error(self, error: Exception) -> Trouble:
        """By SQLSTATE; a connection that broke during a call leaves its outcome open."""
        if isinstance(error, NotConnected):
            found = self.map_error(error.error)
            return found if found.kind == "refused" else Trouble("unreachable", found.message)
        if isinstance(error, asyncpg.PostgresError):
            code = POOLER if "unsupported startup parameter" in str(error) else error.sqlstate or ""
            lost = code in _GONE or code.startswith("08")
            return Trouble("lost" if lost else "refused", str(error), code, error.detail or "")
        said = str(error) or type(error).__name__
        if isinstance(error, asyncpg.InternalClientError) and said.startswith("cannot switch to state"):
            return Trouble("unreachable", said)  # asyncpg sent nothing: the server had ended the connection meanwhile
        return Trouble("lost", f"timed out: {said}" if isinstance(error, TimeoutError) else said)

    async def listen(self, hear: Hear) -> None:
        """LISTEN on a connection of its own."""
        if self._pool is None or self._options.pooler:
            await asyncio.Event().wait()
        assert self._pool is not None
        connection = await self._pool.connect()
        ended = asyncio.Event()

        def told(_: object, __: int, ___: str, payload: object) -> None:
            namespace, stream, *rest = orjson.loads(str(payload))
            hear(News(namespace, stream, Place(*rest[0]), rest[1]) if rest else News(namespace, stream))

        try:
            channel = orjson.loads(await connection.fetchval(f"SELECT {quoted(self.schema)}.channel()"))
            connection.add_termination_listener(lambda _: ended.set())
            await connection.add_listener(channel, told)
            hear(None)
            while not ended.is_set():
                try:
                    async with asyncio.timeout(PING):
                        await ended.wait()
                except TimeoutError:
                    async with asyncio.timeout(PING):
                        await connection.execute("SELECT 1")
        finally:
            connection.terminate()

    async def migrate(self, wanted: Sequence[Migration]) -> list[str]:
        """On a connection of its own, without a limit of time."""
        pool = Pool(self._options, {"application_name": "motia-core migrate"})
        try:
            connection = await pool.connect()
        except Exception as error:
            raise NotConnected(error) from error
        try:
            return await apply(connection, self.schema, wanted)
        finally:
            await connection.close()

    async def diagnose(self) -> list[Finding]:
        """Whether LISTEN works: behind a transaction pooler it is accepted, and nothing comes."""
        if self._options.pooler:
            return [Finding("ok", "pooler = true: readers look four times a second, and nothing listens")]
        token = secrets.token_hex(8)
        reason = await self.silence(
            lambda news: news is not None and news[:2] == ("doctor", token), lambda: self._notify(token)
        )
        return [Finding("ok", "LISTEN works: news comes in at once") if reason is None else self.deaf(reason)]

    def deaf(self, reason: str) -> Finding:
        """A pooler is the usual reason."""
        remedy = "transaction poolers break LISTEN: connect past it (Supabase: port 5432), or set pooler = true"
        return Finding("warning", f"no news comes in ({reason}): readers look four times a second", remedy)

    async def _notify(self, token: str) -> None:
        assert self._pool is not None
        sql = f"SELECT pg_notify({quoted(self.schema)}.channel() #>> '{{}}', $1)"
        await self._pool.fetchval(sql, [orjson.dumps(["doctor", token]).decode()])
