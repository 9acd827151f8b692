"""Stand-ins for Supabase's two servers, on a real PostgreSQL. Not Supabase: they only speak as it does.

- The gateway: a request has an ``apikey``; keys of the new kind are turned into tokens.
- REST (PostgREST): ``POST /rest/v1/rpc/<function>``, one transaction each, as the role and
  with the claims of the caller's JWT, read only for functions that are not volatile; its error codes.
- Realtime: Phoenix channels (vsn 1.0.0), private broadcast, as far as supabase-py asks.

Both run on one port, in a thread of their own.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import jwt
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from motia_core.testing.servers import free_port

SECRET = "a secret of the stand-ins, at least 32 bytes"
SET_UP = (Path(__file__).parent / "supabase.sql").read_text()
EXPOSED = ("public", "motia")
NEW_KEY = "sb_secret_of_the_stand_ins"
"""A key of the new kind, which is no token: the gateway knows whose it is."""
_STATUS = {"42501": 403, "PGRST202": 404, "PGRST106": 406, "42883": 404, "57014": 500, "53300": 503, "25006": 405}


def key(role: str = "service_role", secret: str = SECRET, lifetime: float = 3600, **claims: Any) -> str:
    """An API key, or a user's token."""
    return jwt.encode({"role": role, "exp": int(time.time() + lifetime), **claims}, secret, algorithm="HS256")


class Refused(Exception):
    """An answer of PostgREST's own."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Supabase:
    """Both stand-ins for one database."""

    def __init__(self, database_url: str) -> None:
        self.database_url = database_url
        self.port = free_port()
        self.realtime = True
        self.replicating = True
        self._unready: list[tuple[WebSocket, str]] = []
        self.joined: set[tuple[WebSocket, str]] = set()
        self.instead: Response | None = None
        """What is answered, once, instead of what came of a call."""
        self._free: list[asyncpg.Connection[Any]] = []
        self._types: dict[tuple[str, str], tuple[dict[str, str], bool]] = {}
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        app = Starlette(
            routes=[
                Route("/rest/v1/rpc/{function}", self._rpc, methods=["POST"]),
                WebSocketRoute("/realtime/v1/websocket", self._socket),
            ],
            lifespan=self._lifespan,
        )
        config = uvicorn.Config(
            app,
            host="127.0.0.1",
            port=self.port,
            log_level="error",
            ws="websockets-sansio",
            loop="asyncio",
            timeout_graceful_shutdown=3,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, name="supabase-stand-in", daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 30
        while not self._server.started:
            if time.monotonic() > deadline or not self._thread.is_alive():
                raise RuntimeError("the stand-in did not start")
            time.sleep(0.01)

    def stop(self) -> None:
        assert self._server is not None
        assert self._thread is not None
        self._server.should_exit = True
        self._thread.join(30)
        self._server = None

    def set_realtime(self, on: bool) -> None:
        """Realtime goes away (its sockets are cut, new ones refused), or comes back."""
        self.realtime = on
        assert self._loop is not None
        if not on:
            asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(10)

    def set_replicating(self, on: bool) -> None:
        """Realtime loses its connection to the database, or has it again and says so to whoever asked it to."""
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(self._replicate(on), self._loop).result(10)

    async def _replicate(self, on: bool) -> None:
        self.replicating = on
        unready, self._unready = self._unready, []
        for socket, topic in unready:
            await socket.send_text(_system(topic, "ok", "Replication connection established"))

    def cut(self) -> None:
        """Break every connection, without a word."""
        assert self._loop is not None
        assert self._server is not None
        connections = self._server.server_state.connections

        async def abort() -> None:
            for connection in list(connections):
                connection.transport.abort()

        asyncio.run_coroutine_threadsafe(abort(), self._loop).result(10)

    async def _cut(self) -> None:
        for socket, _ in list(self.joined):
            await socket.close(1011)
        self.joined.clear()

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self._loop = asyncio.get_running_loop()
        task = asyncio.create_task(self._broadcast())
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for connection in self._free:
            connection.terminate()
        self._free.clear()

    # -- REST ---------------------------------------------------------------------------

    async def _rpc(self, request: Request) -> Response:
        try:
            api_key = request.headers.get("apikey", "")
            if not api_key:
                return JSONResponse({"message": "No API key found in request"}, status_code=401)
            token = request.headers.get("authorization", "").removeprefix("Bearer ")
            claims = _claims(_by_gateway(api_key if not token or token.startswith("sb_") else token))
            schema = request.headers.get("content-profile", "public")
            if schema not in EXPOSED:
                raise Refused(406, "PGRST106", f"Invalid schema: {schema}")
            answer = await self._call(schema, request.path_params["function"], await request.json(), claims)
        except ClientDisconnect:
            return Response(status_code=499)
        except Refused as error:
            return _error(error.status, error.code, str(error))
        except asyncpg.PostgresConnectionError as error:
            return _error(503, "PGRST001", f"Database client error. Retrying the connection. ({error})")
        except asyncpg.PostgresError as error:
            return _error(_STATUS.get(error.sqlstate or "", 400), error.sqlstate or "", str(error))
        except (OSError, asyncpg.InterfaceError) as error:
            return _error(503, "PGRST000", f"Database connection error: {error}")
        instead, self.instead = self.instead, None
        if instead is not None:
            return instead
        return Response("null" if answer is None else answer, media_type="application/json")

    async def _call(self, schema: str, function: str, arguments: dict[str, Any], claims: dict[str, Any]) -> Any:
        connection = await self._connection()
        try:
            types, reads = await self._arguments(connection, schema, function, set(arguments))
            async with connection.transaction(readonly=reads):
                parts = [f'"{name}" => ${n}::text::{types[name]}' for n, name in enumerate(arguments, 1)]
                role = claims.get("role", "anon")
                await connection.execute(f'SET LOCAL ROLE "{role}"')
                await connection.fetchval("SELECT set_config('request.jwt.claims', $1, true)", json.dumps(claims))
                sql = f'SELECT "{schema}"."{function}"({", ".join(parts)})'
                answer = await connection.fetchval(sql, *(_text(value) for value in arguments.values()))
        except asyncpg.PostgresError:
            self._free.append(connection)
            raise
        except BaseException:
            connection.terminate()
            raise
        self._free.append(connection)
        return answer

    async def _connection(self) -> asyncpg.Connection[Any]:
        while self._free:
            connection = self._free.pop()
            if not connection.is_closed():
                return connection
        return await asyncpg.connect(self.database_url)

    async def _arguments(
        self, connection: asyncpg.Connection[Any], schema: str, function: str, names: set[str]
    ) -> tuple[dict[str, str], bool]:
        """Its arguments' types, and whether it only reads."""
        known = self._types.get((schema, function))
        if known is None or set(known[0]) != names:
            rows = await connection.fetch(
                "SELECT p.proargnames AS names, p.provolatile <> 'v' AS reads,"
                " ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) AS t) AS types"
                " FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace"
                " WHERE n.nspname = $1 AND p.proname = $2",
                schema,
                function,
            )
            found = [(dict(zip(row["names"] or [], row["types"], strict=False)), row["reads"]) for row in rows]
            known = next((one for one in found if set(one[0]) == names), None)
            if known is None:
                raise Refused(404, "PGRST202", f"Could not find the function {schema}.{function} in the schema cache")
            self._types[schema, function] = known
        return known

    # -- Realtime -----------------------------------------------------------------------

    async def _socket(self, socket: WebSocket) -> None:
        await socket.accept()
        if not self.realtime:
            await socket.close(1011)
            return
        topics: set[str] = set()
        try:
            while True:
                message = json.loads(await socket.receive_text())
                topic, event, ref = message["topic"], message["event"], message.get("ref")
                status: str = "ok"
                response: dict[str, Any] = {}
                config = message["payload"].get("config", {})
                if event == "phx_join":
                    response = {"postgres_changes": []}
                    if config.get("private"):
                        token = message["payload"].get("access_token", "")
                        if token.startswith("sb_"):  # the one that the socket came with
                            token = _by_gateway(socket.query_params.get("apikey", ""))
                        try:
                            allowed = _claims(token)["role"] == "service_role"
                        except Refused:
                            allowed = False
                        status = "ok" if allowed else "error"
                        response = response if allowed else {"reason": "Unauthorized"}
                reply = {
                    "topic": topic,
                    "event": "phx_reply",
                    "ref": ref,
                    "payload": {"status": status, "response": response},
                }
                await socket.send_text(json.dumps(reply))
                if event == "phx_join" and status == "ok":
                    self.joined.add((socket, topic))
                    topics.add(topic)
                    if config.get("broadcast", {}).get("replication_ready"):
                        self._unready.append((socket, topic))
                        if self.replicating:
                            await self._replicate(True)
        except (WebSocketDisconnect, RuntimeError):
            pass
        finally:
            for topic in topics:
                self.joined.discard((socket, topic))

    async def _broadcast(self) -> None:
        while True:
            try:
                connection = await asyncpg.connect(self.database_url)
                try:
                    await connection.add_listener("standin_realtime", self._send)
                    ended = asyncio.Event()
                    connection.add_termination_listener(lambda _, ended=ended: ended.set())
                    await ended.wait()
                finally:
                    connection.terminate()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                pass
            await asyncio.sleep(0.05)

    def _send(self, _: object, __: int, ___: str, raw: object) -> None:
        if not self.replicating:
            return
        message = json.loads(str(raw))
        payload = {
            "type": "broadcast",
            "event": message["event"],
            "payload": {"id": message["id"], **message["payload"]},
            "meta": {"id": message["id"]},
        }
        topic = f"realtime:{message['topic']}"
        text = json.dumps({"topic": topic, "event": "broadcast", "ref": None, "payload": payload})
        for socket, joined in list(self.joined):
            if joined == topic:
                task = asyncio.ensure_future(socket.send_text(text))
                task.add_done_callback(lambda task: task.cancelled() or task.exception())


def _by_gateway(api_key: str) -> str:
    return key() if api_key == NEW_KEY else api_key


def _system(topic: str, status: str, message: str) -> str:
    channel = topic.removeprefix("realtime:")
    payload = {"extension": "system", "status": status, "message": message, "channel": channel}
    return json.dumps({"topic": topic, "event": "system", "ref": None, "payload": payload})


def _claims(token: str) -> dict[str, Any]:
    try:
        return dict(jwt.decode(token, SECRET, algorithms=["HS256"], options={"verify_aud": False}))
    except jwt.ExpiredSignatureError:
        raise Refused(401, "PGRST303", "JWT expired") from None
    except jwt.PyJWTError:
        raise Refused(401, "PGRST301", "No suitable key or wrong key type") from None


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)


def _error(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"code": code, "message": message, "details": None, "hint": None}, status_code=status)
