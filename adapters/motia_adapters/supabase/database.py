"""The way to the database: functions by RPC through supabase-py, news by Realtime broadcast."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, ClassVar

import httpx
import orjson
from postgrest.exceptions import APIError
from realtime import AsyncRealtimeClient, RealtimeSubscribeStates
from supabase import AsyncClient, AsyncClientOptions, acreate_client

from motia_adapters.postgresql.database import CONNECTED, Database, Hear, News
from motia_adapters.postgresql.failures import Trouble
from motia_adapters.postgresql.migrations import apply
from motia_adapters.supabase.options import SupabaseOptions
from motia_core.adapter import Finding, Migration
from motia_core.errors import BackendError, BackendUnavailable, ConfigError, MissingDependency, UnsupportedCapability

TOPIC = "motia"
"""The private channel on which `motia.wake` broadcasts."""
_CONNECTIONS = 20
_JOINING = 10.0  # seconds until a channel that does not come up is given up
_ALIVE = 1.0  # seconds between two looks whether the connection is there
# The server's word, an SQLSTATE, or PostgREST's own before it asked the server. Not those of a connection that
# ended in the call: 08..., 57P..., PGRST001, PGRSTX00, or, from libpq, an empty one.
_REFUSAL = re.compile(r"(?!08|57P)[0-9A-Z]{5}|PGRST(?!001)[0-9]{3}")
# A server that cannot write its own log panics (the disk is full, mostly), perhaps with the commit in it; the API tells
# the code of the reason, and not that it was a panic. The names of its files are in every language the same.
_PANIC = re.compile(r"\bpg_(wal|xact)/|\b[0-9A-F]{24}\b")
_sockets_log = logging.getLogger("websockets.client")


class Unshown(logging.Filter):
    """Keeps the key out of what ``websockets`` logs when it is told to log everything: it is part of the URL."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self._key = key

    def filter(self, record: logging.LogRecord) -> bool:
        """Take it out; sent frames, which are shown in part, hold it too."""
        said = record.getMessage()
        if said.startswith("> TEXT"):
            record.msg, record.args = "> TEXT (not shown)", ()
        elif self._key in said:
            record.msg, record.args = said.replace(self._key, "***"), ()
        return True


class Gateway(Exception):
    """An error of what stands before the API, which knows no codes."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"the API answered {status}: {message}")
        self.status = status


async def _has_code(response: httpx.Response) -> None:
    """Raise `Gateway` for an error without a code: of such supabase-py keeps the message, and drops the status."""
    if response.is_success:
        return
    found: Any = None
    with contextlib.suppress(orjson.JSONDecodeError):
        found = orjson.loads(await response.aread())
    if not isinstance(found, dict):
        raise Gateway(response.status_code, response.reason_phrase)
    if not isinstance(found.get("code"), str):
        raise Gateway(response.status_code, str(found.get("message") or response.reason_phrase)[:200])


def _listens(socket: AsyncRealtimeClient) -> bool:
    """Whether anything can come in: a listener that died on an error leaves the client "connected"."""
    listener = getattr(socket, "_listen_task", None)
    return socket.is_connected and not (isinstance(listener, asyncio.Task) and listener.done())


class SupabaseDatabase(Database):
    """A Supabase project."""

    name: ClassVar[str] = "supabase"

    def __init__(self, options: SupabaseOptions, timeout: float) -> None:
        self.schema = options.schema_name
        self.timeout = timeout
        self.listening = options.realtime
        self._options = options
        self._key = options.service_key.get_secret_value()
        self._http: httpx.AsyncClient | None = None
        self._client: AsyncClient | None = None

    @property
    def address(self) -> str:
        """The project's URL."""
        return self._options.address

    @property
    def is_open(self) -> bool:
        """Whether calls may be made."""
        return self._client is not None

    async def open(self) -> None:
        """Get ready; the first call connects."""
        # A client of our own: no retries, HTTP/1.1 (a cut request takes no other with it), our timeout.
        self._http = httpx.AsyncClient(
            verify=self.address.startswith("https:"),  # reading all certificates takes a while
            timeout=httpx.Timeout(self.timeout, connect=CONNECTED * self.timeout, pool=CONNECTED * self.timeout),
            limits=httpx.Limits(max_connections=_CONNECTIONS),
            event_hooks={"response": [_has_code]},
        )
        options = AsyncClientOptions(
            schema=self.schema,
            httpx_client=self._http,
            postgrest_client_retry=False,
            auto_refresh_token=False,
            persist_session=False,
        )
        self._client = await acreate_client(self._options.address, self._key, options)

    async def close(self) -> None:
        """Close all connections."""
        self._client = None
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()

    async def call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        """``POST /rest/v1/rpc/function``."""
        assert self._client is not None
        answer = await self._client.schema(self.schema).rpc(function, dict(arguments)).execute()
        return answer.data

    def map_error(self, error: Exception) -> Trouble:
        """By PostgREST's code, which is the SQLSTATE where the database refused."""
        if isinstance(error, APIError):
            code = str(error.code or "")
            message = error.message or str(error.details or "the API lost the database's answer")
            panic = _PANIC.search(f"{message} {error.details or ''}")
            return Trouble("refused" if _REFUSAL.fullmatch(code) and not panic else "lost", message, code)
        if isinstance(error, Gateway):
            return Trouble("lost" if error.status >= 500 else "refused", str(error), str(error.status))
        said = str(error) or type(error).__name__
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout | httpx.UnsupportedProtocol):
            return Trouble("unreachable", said)
        return Trouble("lost", said)

    async def listen(self, hear: Hear) -> None:
        """A connection to Realtime for as long as it lasts: whoever asked begins anew."""
        if not self.listening:
            await asyncio.Event().wait()
        url = f"{self.address}/realtime/v1"
        unshown = Unshown(self._key)
        _sockets_log.addFilter(unshown)
        socket = AsyncRealtimeClient(url, self._key, auto_reconnect=False, timeout=round(_JOINING))
        ended = asyncio.Event()

        def state(state: RealtimeSubscribeStates, error: Exception | None) -> None:
            if state == RealtimeSubscribeStates.SUBSCRIBED:
                hear(None)
            else:
                ended.set()

        def told(message: Mapping[str, Any]) -> None:
            payload = message.get("payload")
            if isinstance(payload, Mapping):
                found = payload.get("namespace"), payload.get("stream")
                if isinstance(found[0], str) and isinstance(found[1], str):
                    hear(News(found[0], found[1]))

        # Joined is not yet connected to the database: once it is, Realtime says so if asked to.
        broadcast = {"ack": False, "self": False, "replication_ready": True}
        config: Any = {"config": {"broadcast": broadcast, "presence": None, "private": True}}
        channel = socket.channel(TOPIC, config)
        channel.on_broadcast("change", told)
        channel.on_system(lambda _: hear(None))
        try:
            async with asyncio.timeout(_JOINING):
                await channel.subscribe(state)
            while _listens(socket) and not ended.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_ALIVE):
                        await ended.wait()
        finally:
            with contextlib.suppress(Exception):
                await socket.close()
            _sockets_log.removeFilter(unshown)

    async def migrate(self, wanted: Sequence[Migration]) -> list[str]:
        """Over the direct connection: the API runs no DDL."""
        if self._options.database_url is None:
            raise UnsupportedCapability(
                f"supabase: the API of {self.address} cannot change the schema: give database_url, or apply what"
                " motia-core migrate print shows (its --folder option writes migrations for the Supabase CLI)"
            )
        try:
            driver: Any = import_module("asyncpg")  # its type stubs differ from what it takes
        except ImportError as error:
            raise MissingDependency(
                'supabase: to apply migrations asyncpg is needed; install it with: pip install "asyncpg"'
            ) from error
        try:
            connection = await driver.connect(self._options.database_url.get_secret_value(), timeout=self.timeout)
        except Exception as error:
            raise BackendUnavailable(f"supabase: cannot connect to database_url: {type(error).__name__}") from error
        try:
            return await apply(connection, self.schema, wanted)
        except driver.PostgresError as error:
            if error.sqlstate == "MO002":
                raise ConfigError(f"supabase: {error}") from error
            raise BackendError(f"supabase: cannot migrate {self.address}: {error}") from error
        finally:
            await connection.close()

    async def diagnose(self) -> list[Finding]:
        """Whether Realtime lets us in, and tells what the database has it tell."""
        if not self.listening:
            return [Finding("ok", "realtime = false: readers look four times a second")]
        token = secrets.token_hex(8)

        async def ring() -> None:
            await self.rpc("ring", p_token=token)

        reason = await self.silence(lambda news: news is not None and news[:2] == ("doctor", token), ring)
        return [Finding("ok", "Realtime works: news comes in at once") if reason is None else self.deaf(reason)]

    def deaf(self, reason: str) -> Finding:
        """The key, mostly, or Realtime is off."""
        remedy = (
            "is Realtime enabled, and is service_key the service role's? The database's log says what became of"
            " realtime.send; realtime = false turns it off on purpose"
        )
        return Finding("warning", f"no news comes through Realtime ({reason}): readers look by themselves", remedy)
