"""The servers under test, each in a process of its own; prints its port."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from benchmarks.rows import document
from motia_core import Motia, StreamConfig, http, step
from motia_core.server import make_server

VALUE = document(256)


def ours() -> uvicorn.Server:
    """motia-core, in memory, with authentication and a join hook."""

    async def authenticate(request: Any) -> dict[str, str]:
        return {"userId": "user-42"}

    async def on_join(subscription: Any, ctx: Any, auth: Any) -> dict[str, bool]:
        return {"authorized": auth["userId"] == "user-42"}

    async def send(input: Any, ctx: Any) -> None:
        async with ctx.streams.documents.batch() as batch:
            for number in range(int(input.request.path_params["number"])):
                batch.set("g", f"doc-{number}", VALUE)

    motia = Motia(
        streams=[StreamConfig("documents", on_join=on_join)],
        steps=[step({"name": "send", "triggers": [http("POST", "/send/{number}")]}, send)],
        storage={"default": "memory://"},
        authenticate=authenticate,
    )
    return make_server(motia, port=0)


def starlette() -> uvicorn.Server:
    """The usual way: a set of sockets and a loop that sends to each."""
    import orjson

    sockets: set[WebSocket] = set()

    async def stream(socket: WebSocket) -> None:
        await socket.accept()
        sockets.add(socket)
        try:
            while True:
                await socket.receive_text()
        except WebSocketDisconnect:
            sockets.discard(socket)

    async def send(request: Request) -> Response:
        frame = {
            "type": "stream",
            "streamName": "documents",
            "groupId": "g",
            "event": {"type": "update", "data": VALUE},
        }
        for _ in range(int(request.path_params["number"])):
            text = orjson.dumps(frame).decode()
            for socket in list(sockets):
                await socket.send_text(text)
        return Response(status_code=204)

    app = Starlette(routes=[Route("/send/{number}", send, methods=["POST"]), WebSocketRoute("/ws", stream)])
    return uvicorn.Server(
        uvicorn.Config(
            app,
            host="127.0.0.1",
            port=0,
            ws="websockets-sansio",
            ws_per_message_deflate=False,
            log_level="warning",
            access_log=False,
        )
    )


async def main(kind: str) -> None:
    """Serve until told to stop."""
    server = {"ours": ours, "starlette": starlette}[kind]()
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    print(server.servers[0].sockets[0].getsockname()[1], flush=True)
    await serving


if __name__ == "__main__":
    try:
        import uvloop

        uvloop.run(main(sys.argv[1]))
    except ImportError:
        asyncio.run(main(sys.argv[1]))
