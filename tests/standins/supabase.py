"""Stand-ins for what Supabase has before and beside PostgREST, which is the real one, on a real PostgreSQL.

- The gateway: a request has an ``apikey``; keys of the new kind are turned into tokens.
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
import httpx
import jwt
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from motia_core.testing.servers import free_port, start_or_skip
from tests.stack.postgrest import PostgREST

SECRET = "a secret of the stand-ins, at least 32 bytes"
SET_UP = (Path(__file__).parent / "supabase.sql").read_text()
NEW_KEY = "sb_secret_of_the_stand_ins"
"""A key of the new kind, which is no token: the gateway knows whose it is."""
_OURS = {"host", "connection", "content-length", "authorization", "apikey"}
"""What does not go on as it came."""


def key(role: str = "service_role", secret: str = SECRET, lifetime: float = 3600, **claims: Any) -> str:
    """An API key, or a user's token."""
    return jwt.encode({"role": role, "exp": int(time.time() + lifetime), **claims}, secret, algorithm="HS256")


class Supabase:
    """Both stand-ins for one database."""

    def __init__(self, database_url: str) -> None:
        self.database_url = database_url
        self.rest = PostgREST(database_url.replace("//postgres@", "//authenticator@"), SECRET)
        self.port = free_port()
        self.realtime = True
        self.replicating = True
        self._unready: list[tuple[WebSocket, str]] = []
        self.joined: set[tuple[WebSocket, str]] = set()
        self.instead: Response | None = None
        """What is answered, once, instead of what came of a call."""
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start them; skips the test where there is no PostgREST, unless it is required."""
        await start_or_skip(self.rest)
        app = Starlette(
            routes=[
                Route("/rest/v1/rpc/{function}", self._call, methods=["POST"]),
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
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            await asyncio.to_thread(self._thread.join, 30)
            self._server = None
        await self.rest.stop()

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
        async with httpx.AsyncClient(verify=False, timeout=60) as self._http:
            yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    # -- REST ---------------------------------------------------------------------------

    async def _call(self, request: Request) -> Response:
        api_key = request.headers.get("apikey", "")
        if not api_key:
            return JSONResponse({"message": "No API key found in request"}, status_code=401)
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        token = _by_gateway(api_key if not token or token.startswith("sb_") else token)
        headers = {name: value for name, value in request.headers.items() if name not in _OURS}
        headers["authorization"] = f"Bearer {token}"
        url = f"{self.rest.url}/rpc/{request.path_params['function']}"
        try:
            answer = await self._http.post(url, content=await request.body(), headers=headers)
        except httpx.TransportError as error:
            return JSONResponse({"message": f"upstream connect error: {error}"}, status_code=503)
        instead, self.instead = self.instead, None
        if instead is not None:
            return instead
        return Response(answer.content, answer.status_code, {"content-type": answer.headers.get("content-type", "")})

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
                        allowed = _role(token) == "service_role"
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


def _role(token: str) -> str | None:
    try:
        claims = jwt.decode(token, SECRET, algorithms=["HS256"], options={"verify_aud": False})
    except jwt.PyJWTError:
        return None
    return str(claims["role"])
