"""The ASGI application: WebSocket streams on any path, HTTP steps, health, the client module."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable, MutableMapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import orjson
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

import motia_core.client
from motia_core.app import Motia
from motia_core.definitions import Request
from motia_core.errors import AccessDenied
from motia_core.model import StreamSpec
from motia_core.server.codes import CODES
from motia_core.server.connection import Connection
from motia_core.server.fanout import Fanout
from motia_core.server.frames import error_frame
from motia_core.server.protocol import EXTENSION

log = logging.getLogger("motia.server")

MAX_BODY = 10_000_000
"""Bytes of an HTTP request's body, at most."""

_CLIENT = Path(motia_core.client.__file__).parent


def asgi_app(motia: Motia) -> ASGIApp:
    """An ASGI application that serves ``motia``.

    Alone it opens and closes ``motia`` with its lifespan. Mounted in another
    application (``app.mount("/live", asgi_app(motia))``), whose lifespan it does not
    see, enter ``motia`` in that application's own lifespan.
    """
    server = Server(motia)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None, None]:
        async with AsyncExitStack() as stack:
            if not motia.is_open:
                await stack.enter_async_context(motia)
            yield

    origins = list(motia.settings.server.allowed_origins)
    return Starlette(
        routes=[
            Route("/healthz", server.health),
            Route("/client.js", _file("client.js", "text/javascript")),
            Route("/client.d.ts", _file("client.d.ts", "text/plain")),
            Mount("/", app=server),
        ],
        middleware=[
            Middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"]),
        ]
        if origins
        else [],
        lifespan=lifespan,
    )


class Server:
    """Serves one `Motia`: an ASGI application for everything but the fixed paths."""

    def __init__(self, motia: Motia) -> None:
        self.motia = motia
        self.connections = 0
        self._fanout: Fanout | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if not self.motia.is_open:
            raise RuntimeError("Motia is not open: enter it in the lifespan of the application it is mounted in")
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            response = await self._http(HttpRequest(scope, receive))
            await response(scope, receive, send)

    async def health(self, _: HttpRequest) -> Response:
        """``/healthz``: 200 if every storage answers, else 503; says which."""
        timeouts = [self._probe(name) for name in self.motia.storages]
        answers = dict(await asyncio.gather(*timeouts))
        well = self.motia.is_open and all(answers.values())
        body = {
            "status": "ok" if well else "unavailable",
            "storages": {name: "ok" if up else "unavailable" for name, up in answers.items()},
            "connections": self.connections,
        }
        return Response(orjson.dumps(body), 200 if well else 503, media_type="application/json")

    async def _probe(self, name: str) -> tuple[str, bool]:
        adapter = self.motia.storages[name]
        try:
            async with asyncio.timeout(adapter.settings.timeout):
                await adapter.head(StreamSpec("$health", hidden=True))
        except Exception:
            return name, False
        return name, True

    # -- HTTP ----------------------------------------------------------------------------

    async def _http(self, request: HttpRequest) -> Response:
        steps = self.motia.http_steps
        path = _route_path(request.scope)
        found = steps.find(request.method, path)
        if isinstance(found, set):
            if not found:
                return _json(404, {"error": "not found"})
            allow = {"allow": ", ".join(sorted(found))}
            if request.method == "OPTIONS":
                return Response(None, 204, allow)
            return _json(405, {"error": "method not allowed"}, allow)
        route, parameters = found
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY:
                    return _json(413, {"error": f"a body may have {MAX_BODY} bytes"})
        except ClientDisconnect:
            return Response(None, 400)  # nobody is there to read it
        answer = await steps.run(
            route,
            path=path,
            path_params=parameters,
            query_params=dict(request.query_params),
            headers=dict(request.headers),
            body=bytes(body),
        )
        response = Response(answer.body, answer.status)
        for name, value in answer.headers:
            response.headers.append(name, value)
        return response

    # -- WebSocket -----------------------------------------------------------------------

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        if not _origin_allowed(scope, self.motia.settings.server.allowed_origins):
            await send({"type": "websocket.close", "code": 4403})  # before the upgrade: HTTP 403
            return
        offered = scope.get("subprotocols") or []
        await send({"type": "websocket.accept", "subprotocol": offered[0] if offered else None})
        self.connections += 1
        try:
            await self._serve(scope, receive, send)
        finally:
            self.connections -= 1

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.connections > self.motia.settings.server.max_connections:
            await _refuse(send, "TOO_MANY_CONNECTIONS", "the server is full: come back later")
            return
        try:
            auth = await self.motia.access.authenticate(_auth_request(scope))
        except AccessDenied as denied:
            await _refuse(send, "UNAUTHENTICATED", str(denied))
            return
        if self._fanout is None:
            self._fanout = Fanout()
        offered = (scope.get("extensions") or {}).get(EXTENSION) or {}
        connection = Connection(self.motia, self._fanout, send, transport=offered.get("transport"))
        await connection.run(auth, receive)


async def _refuse(send: Send, code: str, message: str) -> None:
    """An accepted socket that may not stay: an old client crashes on an HTTP error instead."""
    try:
        async with asyncio.timeout(1.0):
            await send({"type": "websocket.send", "text": error_frame(code, message).texts[0]})
            await send({"type": "websocket.close", "code": CODES[code].close or 1000})
    except Exception:
        log.debug("a refused client was gone already")


def _route_path(scope: MutableMapping[str, Any]) -> str:
    """The path below where the application is mounted, still percent-encoded."""
    raw = scope.get("raw_path")
    path = raw.decode("ascii", "replace").partition("?")[0] if raw else quote(scope["path"])
    root = scope.get("root_path", "")
    for mount in (root, quote(root)):
        if mount and path.startswith(mount):
            return path[len(mount) :] or "/"
    return path


def _origin_allowed(scope: Scope, allowed: Iterable[str]) -> bool:
    """No Origin: not a browser. Else the server's own, or one that the settings name (E4)."""
    headers = [(name.decode("latin-1").lower(), value.decode("latin-1").lower()) for name, value in scope["headers"]]
    hosts = {value for name, value in headers if name == "host" and value}
    listed = set(allowed)
    return all(
        "*" in listed or value in listed or _host_of(value) in hosts for name, value in headers if name == "origin"
    )


def _host_of(origin: str) -> str | None:
    """The host and port of a web page's origin; ``None`` if it is none."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return None
    return parts.netloc if parts.scheme in ("http", "https") else None


def _auth_request(scope: Scope) -> Request:
    socket = WebSocket(scope, receive=_never, send=_never)
    query = dict(socket.query_params)
    return Request(
        token=_token(query, socket.headers.get("authorization", ""), scope.get("subprotocols") or []),
        headers=dict(socket.headers),
        query_params=query,
        path=_route_path(scope),
        addr=tuple(scope["client"]) if scope.get("client") else None,
    )


def _token(query: dict[str, str], authorization: str, subprotocols: list[str]) -> str | None:
    """From ``Authorization: Bearer``, ``Sec-WebSocket-Protocol: Authorization,<token>`` or ``?authToken=``."""
    kind, _, value = authorization.partition(" ")
    if kind.lower() == "bearer" and value.strip():
        return value.strip()
    if len(subprotocols) >= 2 and subprotocols[0].lower() == "authorization":
        return subprotocols[1]
    return query.get("authToken") or None


def _file(name: str, kind: str) -> Any:
    async def serve(_: HttpRequest) -> Response:
        return FileResponse(
            _CLIENT / name, media_type=kind, headers={"cache-control": "no-cache", "access-control-allow-origin": "*"}
        )

    return serve


def _json(status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status, headers, media_type="application/json")


async def _never(*_: Any) -> Any:
    raise RuntimeError("not to be called")
