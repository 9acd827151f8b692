"""HTTP steps, health, the client module, and the application inside another one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from motia_core import ConfigError, Conflict, Motia, http, step
from motia_core.errors import AccessDenied, BackendUnavailable, GroupTooLarge, InvalidValue, SchemaError
from motia_core.server import asgi_app

from .serving import project, serve


class Body(BaseModel):
    title: str
    views: int = 0


async def echo(input: Any, ctx: Any) -> dict[str, Any]:
    request = input.request
    return {
        "status": 201,
        "headers": {"x-step": ctx.trigger.type},
        "body": {
            "params": request.path_params,
            "query": input["request"]["queryParams"],
            "body": request.body,
            "method": request.method,
            "path": request.path,
        },
    }


def answering(value: Any) -> Any:
    async def handler(input: Any, ctx: Any) -> Any:
        if isinstance(value, Exception):
            raise value
        return value

    return handler


@asynccontextmanager
async def web(motia: Motia) -> AsyncGenerator[httpx.AsyncClient, None]:
    async with serve(motia) as server:
        yield await server.http()


def steps(*routes: tuple[str, str, Any], **options: Any) -> list[Any]:
    return [
        step({"name": f"step-{number}", "triggers": [http(method, path, **options)]}, handler)
        for number, (method, path, handler) in enumerate(routes)
    ]


async def test_parameters_in_both_spellings_are_decoded(tmp_path: Path) -> None:
    made = steps(("GET", "/a/{id}", echo), ("PATCH", "/b/:group/x/:id", echo), ("GET", "/a/new", echo))
    async with web(project(tmp_path, steps=made)) as client:
        answer = await client.get("/a/one%2Ftwo%20%C3%A9", params={"q": "ü", "empty": ""})
        assert answer.status_code == 201
        assert answer.headers["x-step"] == "http"
        assert answer.json()["params"] == {"id": "one/two é"}
        assert answer.json()["query"] == {"q": "ü", "empty": ""}
        assert answer.json()["body"] is None
        answer = await client.patch("/b/g%3A1/x/%F0%9F%98%80", json={"a": [1]})
        assert answer.json()["params"] == {"group": "g:1", "id": "\U0001f600"}
        assert answer.json()["body"] == {"a": [1]}
        assert (await client.get("/a/new")).json()["params"] == {}


async def test_what_is_not_there_says_so(tmp_path: Path) -> None:
    async with web(project(tmp_path, steps=steps(("GET", "/a/{id}", echo), ("PUT", "/a/{id}", echo)))) as client:
        assert (await client.get("/nothing")).status_code == 404
        assert (await client.get("/a/")).status_code == 404
        answer = await client.delete("/a/1")
        assert answer.status_code == 405
        assert answer.headers["allow"] == "GET, HEAD, OPTIONS, PUT"


async def test_bodies(tmp_path: Path) -> None:
    async with web(project(tmp_path, steps=steps(("POST", "/a", echo)))) as client:
        assert (await client.post("/a", content=b"plain", headers={"content-type": "text/plain"})).json()[
            "body"
        ] == "plain"
        answer = await client.post("/a", content=b"{", headers={"content-type": "application/json"})
        assert answer.status_code == 400
        assert "the body is not valid JSON" in answer.json()["error"]
        answer = await client.post("/a", content=b"\xff", headers={"content-type": "text/plain"})
        assert answer.json()["error"] == "the body is neither JSON nor UTF-8 text"
        answer = await client.post("/a", content=b" " * 10_000_001)
        assert (answer.status_code, answer.json()["error"]) == (413, "a body may have 10000000 bytes")


async def test_a_body_schema_names_what_is_wrong(tmp_path: Path) -> None:
    for schema in (Body, {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}):
        made = steps(("POST", "/a", echo), body_schema=schema)
        async with web(project(tmp_path, steps=made)) as client:
            assert (await client.post("/a", json={"title": "x"})).status_code == 201
            for bad in ({"title": 1}, {}, None):
                answer = await client.post("/a", json=bad) if bad is not None else await client.post("/a")
                assert answer.status_code == 400
                assert answer.json()["error"].startswith("body $")


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (None, 204, b""),
        ({"status": 200, "body": {"a": 1}}, 200, b'{"a":1}'),
        ({"body": [1, "é"]}, 200, '[1,"é"]'.encode()),
        ({"status": 404, "body": "gone"}, 404, b"gone"),
        ({"status": 200, "body": b"\x00"}, 200, b"\x00"),
        ({"status": 200, "body": Body(title="x")}, 200, b'{"title":"x","views":0}'),
        ("nonsense", 500, b'{"error":"internal error"}'),
        ({"status": "200"}, 500, b'{"error":"internal error"}'),
        ({"body": object()}, 500, b'{"error":"internal error"}'),
        ({"unknown": 1}, 500, b'{"error":"internal error"}'),
        (RuntimeError("secret detail"), 500, b'{"error":"internal error"}'),
        (InvalidValue("bad", path="$.a"), 400, b'{"error":"$.a: bad"}'),
        (SchemaError("bad", path="$.a"), 400, b'{"error":"$.a: bad"}'),
        (AccessDenied("no"), 403, b'{"error":"no"}'),
        (Conflict("other version"), 409, b'{"error":"other version"}'),
        (GroupTooLarge("large"), 413, b'{"error":"large"}'),
        (BackendUnavailable("at secret.host"), 503, b'{"error":"the storage cannot be reached"}'),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_answers(tmp_path: Path, answer: Any, status: int, body: bytes) -> None:
    async with web(project(tmp_path, steps=steps(("GET", "/a", answering(answer))))) as client:
        got = await client.get("/a")
        assert (got.status_code, got.content) == (status, body)


async def test_a_plain_handler_blocks_nobody(tmp_path: Path) -> None:
    def slow(input: Any, ctx: Any) -> dict[str, Any]:
        gate.wait(20)
        return {"body": "slow"}

    import threading

    gate = threading.Event()
    async with web(project(tmp_path, steps=steps(("GET", "/slow", slow), ("GET", "/quick", echo)))) as client:
        waiting = asyncio.create_task(client.get("/slow"))
        assert (await client.get("/quick")).status_code == 201
        gate.set()
        assert (await waiting).text == "slow"


def test_two_steps_for_one_path_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"steps 'step-0' and 'step-1' both answer GET /a/:other"):
        project(tmp_path, steps=steps(("GET", "/a/{id}", echo), ("GET", "/a/:other", echo)))


async def test_cors_follows_the_allowed_origins(tmp_path: Path) -> None:
    made = steps(("POST", "/a", echo))
    origin = {"origin": "https://app.example"}
    async with web(project(tmp_path, steps=made, server={"allowed_origins": ["https://app.example"]})) as client:
        assert (await client.post("/a", headers=origin)).headers["access-control-allow-origin"] == origin["origin"]
        foreign = await client.post("/a", headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in foreign.headers
    async with web(project(tmp_path, steps=made)) as client:
        assert "access-control-allow-origin" not in (await client.post("/a", headers=origin)).headers


async def test_health_and_the_client_module(tmp_path: Path) -> None:
    motia = project(tmp_path)
    async with web(motia) as client:
        answer = await client.get("/healthz")
        assert (answer.status_code, answer.json()["status"]) == (200, "ok")
        assert answer.json()["storages"] == {"default": "ok"}
        module = await client.get("/client.js")
        assert module.headers["content-type"].startswith("text/javascript")
        assert "connectStream" in module.text
        assert "connectStream" in (await client.get("/client.d.ts")).text
        await motia.storages["default"].close()
        answer = await client.get("/healthz")
        assert (answer.status_code, answer.json()["storages"]) == (503, {"default": "unavailable"})


async def save(input: Any, ctx: Any) -> None:
    await ctx.streams.documents.set("g", input.request.path_params["id"], input.request.body)


def plain_server(app: Any) -> uvicorn.Server:
    """uvicorn as others run it, without our transport."""
    return uvicorn.Server(uvicorn.Config(app, port=0, ws="websockets-sansio", log_level="warning"))


async def test_mounted_in_another_application(tmp_path: Path) -> None:
    motia = project(tmp_path, steps=steps(("PUT", "/docs/{id}", save)))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        async with motia:
            yield

    app = FastAPI(lifespan=lifespan)
    app.mount("/live", asgi_app(motia))

    @app.get("/own")
    async def own() -> str:
        return "own"

    async with serve(motia, plain_server(app)) as server:
        client = await server.http()
        socket = await server.connect("/live/anything")
        assert (await socket.joined("g"))["event"] == {"type": "sync", "data": []}
        assert (await client.get("/own")).json() == "own"
        assert (await client.put("/live/docs/a%2Fb", json={"n": 1})).status_code == 204
        frame = await socket.told("create")
        assert (frame["id"], frame["event"]) == ("a/b", {"type": "create", "data": {"id": "a/b", "n": 1}})
        assert (await client.get("/live/client.js")).status_code == 200
        assert (await client.put("/docs/x", json={})).status_code == 404


async def test_mounted_and_not_opened_says_what_to_do(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    app = FastAPI()
    motia = project(tmp_path)
    app.mount("/live", asgi_app(motia))
    async with serve(motia, plain_server(app)) as server:
        assert (await (await server.http()).get("/live/docs")).status_code == 500
    assert "enter it in the lifespan" in capfd.readouterr().err


async def test_alone_it_opens_and_closes_with_its_own_lifespan(tmp_path: Path) -> None:
    motia = project(tmp_path)
    async with serve(motia, plain_server(asgi_app(motia))) as server:
        assert motia.is_open
        socket = await server.connect()
        await socket.joined("g")
        await server.docs.set("g", "x", {"n": 1})
        await socket.told("create")
    assert not motia.is_open
