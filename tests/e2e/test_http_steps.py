"""HTTP steps over real sockets: routes, bodies, answers, errors."""

from __future__ import annotations

import asyncio
import datetime
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from motia_core import StreamConfig, http, step
from motia_core.errors import (
    AccessDenied,
    BackendUnavailable,
    Conflict,
    GroupTooLarge,
    InvalidName,
    MotiaError,
    OutcomeUnknown,
    PositionExpired,
    SchemaError,
    UpdateError,
)
from motia_core.steps import Step
from motia_core.testing.harness import eventually

from .serving import Served, project, serve
from .sockets import RawSocket


class Item(BaseModel):
    title: str
    size: int = 0


async def echo(input: Any, ctx: Any) -> Any:
    request = input.request
    return {
        "status": 200,
        "body": {
            "path": request.path,
            "method": request.method,
            "pathParams": request.path_params,
            "queryParams": request.query_params,
            "body": request.body,
            "same": input.body == request["body"],
            "type": type(request.body).__name__,
            "trigger": [ctx.trigger.type, ctx.trigger.index],
            "header": request.headers.get("x-extra"),
        },
    }


def made(name: str, trigger: Any, handler: Any = echo) -> Step:
    return step({"name": name, "triggers": trigger if isinstance(trigger, list) else [trigger]}, handler)


@asynccontextmanager
async def stepping(folder: Path, *steps: Step, **options: Any) -> AsyncIterator[tuple[httpx.AsyncClient, Served]]:
    async with serve(project(folder, steps=steps, **options)) as server:
        yield await server.http(), server


async def test_http_parameters_are_decoded_once_and_may_hold_a_slash(tmp_path: Path) -> None:
    steps = [
        made("braces", http("GET", "/docs/{group}/{id}")),
        made("colon", http("GET", "/colon/:group/:id/end")),
        made("plain", http("GET", "/docs/new/{id}")),
        made("root", http("GET", "/")),
        made("accents", http("GET", "/é/ü")),
    ]
    async with stepping(tmp_path, *steps) as (client, _):
        for path, expected in {
            "/docs/a/b": {"group": "a", "id": "b"},
            "/docs/a%2Fb/c%20d": {"group": "a/b", "id": "c d"},
            "/docs/%C3%A9/%F0%9F%98%80": {"group": "é", "id": "😀"},
            "/docs/a+b/c%2Bd": {"group": "a+b", "id": "c+d"},
            "/docs/%2525/%252F": {"group": "%25", "id": "%2F"},
            "/docs/a;v=1/b,c:d@e": {"group": "a;v=1", "id": "b,c:d@e"},
            "/docs/x/%3Fq%23f": {"group": "x", "id": "?q#f"},
            "/docs/a/b/": {"group": "a", "id": "b"},
            "/colon/a/b%2F/end": {"group": "a", "id": "b/"},
            "/docs/new/b": {"id": "b"},
            "/": {},
            "/%C3%A9/%C3%BC": {},
        }.items():
            answer = await client.get(path)
            assert (path, answer.status_code) == (path, 200)
            assert answer.json()["pathParams"] == expected, path
        for path in ("/docs/a", "/docs/a/b/c", "/docs//b", "/docs/a//", "/docsx/a/b", "/colon/a/b", "/Docs/a/b"):
            answer = await client.get(path)
            assert (path, answer.status_code, answer.json()) == (path, 404, {"error": "not found"})
        query = await client.get("/docs/a/b?x=1&y=a%20b&y=c&empty=", headers={"X-Extra": "1"})
        assert query.json()["header"] == "1"
        assert query.json()["queryParams"] == {"x": "1", "y": "c", "empty": ""}


async def test_http_methods_and_what_is_allowed(tmp_path: Path) -> None:
    async def created(input: Any, ctx: Any) -> Any:
        return {"status": 201, "body": "made", "headers": {"x-step": "made"}}

    async def head(input: Any, ctx: Any) -> Any:
        return {"headers": {"x-step": "head"}}

    steps = [
        made("both", [http("GET", "/docs/{id}"), http("PUT", "/docs/:name")]),
        made("post", http("POST", "/docs/{id}"), created),
        made("own head", http("HEAD", "/own"), head),
        made("own get", http("GET", "/own")),
        made("own options", http("OPTIONS", "/own"), created),
        made("writes", http("DELETE", "/writes")),
    ]
    async with stepping(tmp_path, *steps) as (client, _):
        assert (await client.get("/docs/a")).json()["trigger"] == ["http", 0]
        put = await client.put("/docs/a")
        assert put.json()["trigger"] == ["http", 1]
        assert put.json()["pathParams"] == {"name": "a"}
        posted = await client.post("/docs/a")
        assert (posted.status_code, posted.text, posted.headers["x-step"]) == (201, "made", "made")
        refused = await client.patch("/docs/a")
        assert (refused.status_code, refused.json()) == (405, {"error": "method not allowed"})
        assert refused.headers["allow"] == "GET, HEAD, OPTIONS, POST, PUT"
        options = await client.options("/docs/a")
        assert (options.status_code, options.content) == (204, b"")
        assert options.headers["allow"] == "GET, HEAD, OPTIONS, POST, PUT"
        got, headed = await client.get("/docs/a"), await client.head("/docs/a")
        assert (headed.status_code, headed.content) == (200, b"")
        assert headed.headers["content-length"] == got.headers["content-length"]
        assert (await client.head("/own")).headers["x-step"] == "head"
        assert (await client.options("/own")).status_code == 201
        headless = await client.head("/writes")
        assert headless.status_code == 405
        assert headless.headers["allow"] == "DELETE, OPTIONS"
        assert (await client.options("/nothing")).status_code == 404
        assert (await client.request("BREW", "/docs/a")).status_code in (400, 405)
        assert (await client.get("/docs/a")).status_code == 200


BODIES: list[tuple[dict[str, Any], Any, str]] = [
    ({}, None, "NoneType"),
    ({"json": {"a": [1, 2.5, None, "é"]}}, {"a": [1, 2.5, None, "é"]}, "dict"),
    ({"json": [1]}, [1], "list"),
    ({"json": None}, None, "NoneType"),
    ({"content": b"5"}, 5, "int"),
    ({"content": b'{"a":1}', "headers": {"content-type": "application/vnd.api+json; charset=utf-8"}}, {"a": 1}, "dict"),
    ({"content": b'{"a":1}', "headers": {"content-type": "APPLICATION/JSON"}}, {"a": 1}, "dict"),
    ({"content": "früh".encode(), "headers": {"content-type": "text/plain"}}, "früh", "str"),
    ({"data": {"a": "1", "b": "x y"}}, "a=1&b=x+y", "str"),
    ({"content": b"", "headers": {"content-type": "application/json"}}, None, "NoneType"),
]


async def test_http_bodies(tmp_path: Path) -> None:
    async with stepping(tmp_path, made("echo", http("POST", "/echo"))) as (client, _):
        for options, body, kind in BODIES:
            shown = (await client.post("/echo", **options)).json()
            assert (shown["body"], shown["type"], shown["same"]) == (body, kind, True)

        async def chunks() -> AsyncIterator[bytes]:
            for part in (b'{"a"', b":", b"1}"):
                yield part

        assert (await client.post("/echo", content=chunks())).json()["body"] == {"a": 1}
        for content, kind, message in [
            (b"{", "application/json", "the body is not valid JSON: "),
            (b'{"a":NaN}', "", "the body is not valid JSON: "),
            (b"\xff", "application/json", "the body is not valid JSON: "),
            (b"[" * 990 + b"9223372036854775808" + b"]" * 990, "", "nested too deep"),
            (b"[" * 100_000, "application/json", "the body is not valid JSON: "),
            (b"\xff\xfe", "text/plain", "the body is neither JSON nor UTF-8 text"),
        ]:
            answer = await client.post("/echo", content=content, headers={"content-type": kind} if kind else {})
            assert answer.status_code == 400
            assert answer.json()["error"].startswith(message)


WRONG_BODIES: list[dict[str, Any]] = [{}, {"json": []}, {"content": b"text", "headers": {"content-type": "text/plain"}}]


async def test_http_a_body_schema_names_the_path(tmp_path: Path) -> None:
    steps = [
        made("model", http("POST", "/model", body_schema=Item)),
        made("schema", http("POST", "/schema", body_schema={"type": "object", "required": ["title"]})),
    ]
    async with stepping(tmp_path, *steps) as (client, _):
        assert (await client.post("/model", json={"title": "x", "size": 3})).json()["body"] == {"title": "x", "size": 3}
        assert (await client.post("/schema", json={"title": 1})).status_code == 200
        wrong = await client.post("/model", json={"title": "x", "size": "3"})
        assert (wrong.status_code, wrong.json()) == (400, {"error": "body $.size: Input should be a valid integer"})
        for path in ("/model", "/schema"):
            for options in WRONG_BODIES:
                answer = await client.post(path, **options)
                assert answer.status_code == 400
                assert answer.json()["error"].startswith("body $: ")
        missing = await client.post("/schema", json={})
        assert missing.json() == {"error": 'body $: "title" is a required property'}


async def test_http_a_body_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("motia_core.server.asgi.MAX_BODY", 10_000)
    async with stepping(tmp_path, made("echo", http("POST", "/echo"))) as (client, _):
        fits = json.dumps("x" * 9_998)
        assert (await client.post("/echo", content=fits)).status_code == 200
        for body in (fits + " ", "x" * 5_000_000):
            try:
                answer = await client.post("/echo", content=body)
            except httpx.TransportError:
                continue  # the answer came while the body was still on its way
            assert (answer.status_code, answer.json()) == (413, {"error": "a body may have 10000 bytes"})
        assert (await client.post("/echo", content=fits)).status_code == 200


class Broken:
    def __getattr__(self, name: str) -> Any:
        raise ValueError("hunter2")


ANSWERS: dict[str, tuple[Any, int, bytes, str | None]] = {
    "nothing": (None, 204, b"", None),
    "empty": ({}, 200, b"", None),
    "status": ({"status": 202}, 202, b"", None),
    "object": ({"body": {"a": 1}}, 200, b'{"a":1}', "application/json"),
    "list": ({"body": []}, 200, b"[]", "application/json"),
    "number": ({"body": 0}, 200, b"0", "application/json"),
    "false": ({"body": False}, 200, b"false", "application/json"),
    "text": ({"body": "früh"}, 200, "früh".encode(), "text/plain; charset=utf-8"),
    "empty text": ({"body": ""}, 200, b"", None),
    "bytes": ({"body": b"\x00\xff"}, 200, b"\x00\xff", "application/octet-stream"),
    "model": ({"body": Item(title="x")}, 200, b'{"title":"x","size":0}', "application/json"),
    "model inside": ({"body": {"of": [Item(title="x")]}}, 200, b'{"of":[{"title":"x","size":0}]}', "application/json"),
    "html": ({"body": "<p>", "headers": {"Content-Type": "text/html"}}, 200, b"<p>", "text/html"),
    "redirect": ({"status": 303, "headers": {"location": "/é"}}, 303, b"", None),
    "teapot": ({"status": 418, "body": {"error": "short and stout"}}, 418, b'{"error":"short and stout"}', None),
}
NONSENSE: dict[str, Any] = {
    "text": "text",
    "bytes": b"bytes",
    "list": [],
    "number": 200,
    "true": True,
    "model": Item(title="x"),
    "tuple": (200, "body"),
    "other keys": {"title": "x"},
    "one key too many": {"status": 200, "data": {}},
    "status of text": {"status": "200"},
    "status of truth": {"status": True},
    "status 99": {"status": 99},
    "status 101": {"status": 101},
    "status 600": {"status": 600},
    "body with 204": {"status": 204, "body": "x"},
    "body with 304": {"status": 304, "body": {}},
    "object": {"body": object()},
    "set": {"body": {1, 2}},
    "keys of numbers": {"body": {1: 2}},
    "too large a number": {"body": 2**70},
    "lone surrogate": {"body": "\ud800"},
    "broken": {"body": Broken()},
    "headers of text": {"headers": "x: 1"},
    "split header": {"headers": {"x-a": "1\r\nset-cookie: admin=1"}},
    "split name": {"headers": {"x-a: 1\r\nset-cookie": "admin=1"}},
    "header past latin-1": {"headers": {"x-a": "😀"}},
    "empty header name": {"headers": {"": "1"}},
    "own framing": {"headers": {"Content-Length": "1"}, "body": "longer"},
    "other framing": {"headers": {"transfer-encoding": "chunked"}},
}


def answering(answers: dict[str, Any]) -> Callable[..., Any]:
    async def handler(input: Any, ctx: Any) -> Any:
        found = answers[input.request.path_params["what"]]
        if isinstance(found, BaseException):
            raise found
        return found

    return handler


async def test_http_what_a_handler_may_return(tmp_path: Path) -> None:
    answers = {name: answer for name, (answer, *_) in ANSWERS.items()}
    cookies = {"headers": {"set-cookie": ["a=1", "b=2"], "X-Number": 5}, "body": datetime.date(2026, 1, 2)}
    handler = answering({**answers, "cookies": cookies})
    async with stepping(tmp_path, made("answers", http("GET", "/{what}"), handler)) as (client, _):
        for name, (_, status, body, kind) in ANSWERS.items():
            answer = await client.get(f"/{name}")
            assert (name, answer.status_code, answer.content) == (name, status, body)
            if kind is not None:
                assert answer.headers["content-type"] == kind
        answer = await client.get("/cookies")
        assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]
        assert answer.headers["x-number"] == "5"
        assert answer.json() == "2026-01-02"


async def test_http_nonsense_is_an_error_of_ours_and_says_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = made("plain", http("GET", "/plain/{what}"), lambda input, ctx: answering(NONSENSE)(input, ctx))
    async with stepping(tmp_path, made("answers", http("GET", "/{what}"), answering(NONSENSE)), plain) as (client, _):
        for name in NONSENSE:
            for path in (f"/{name}", f"/plain/{name}"):
                answer = await client.get(path)
                assert (name, answer.status_code, answer.json()) == (name, 500, {"error": "internal error"})
                assert "set-cookie" not in answer.headers
    failed = [record for record in caplog.records if record.name == "motia.http" and record.levelno == logging.ERROR]
    assert len(failed) == 2 * len(NONSENSE)
    assert all(record.exc_info for record in failed)


class OwnError(MotiaError):
    """One that nobody maps."""


RAISED: dict[str, tuple[BaseException, int, str]] = {
    "schema": (SchemaError("is no number", path="$.size"), 400, "$.size: is no number"),
    "name": (InvalidName("group id must not be empty"), 400, "group id must not be empty"),
    "denied": (AccessDenied("not for you", reason="secret reason"), 403, "not for you"),
    "conflict": (Conflict("item 'x' of group 'g' has changed"), 409, "item 'x' of group 'g' has changed"),
    "large": (GroupTooLarge("group 'g' holds more than 3 items"), 413, "group 'g' holds more than 3 items"),
    "away": (BackendUnavailable("redis at db.internal is away"), 503, "the storage cannot be reached"),
    "unknown": (
        OutcomeUnknown("redis at db.internal"),
        503,
        "the storage did not say whether it has done what was asked",
    ),
    "expired": (PositionExpired("position 12 is gone"), 500, "internal error"),
    "other": (OwnError("hunter2"), 500, "internal error"),
    "bug": (ZeroDivisionError("hunter2"), 500, "internal error"),
    "key": (KeyError("hunter2"), 500, "internal error"),
    "exit": (SystemExit(3), 500, "internal error"),
    "cancelled": (asyncio.CancelledError(), 500, "internal error"),
    "timeout": (TimeoutError(), 500, "internal error"),
}


async def test_http_what_a_handler_raises(tmp_path: Path) -> None:
    handler = answering({name: error for name, (error, *_) in RAISED.items()})

    async def update(input: Any, ctx: Any) -> Any:
        await ctx.streams.documents.update("g", "x", [{"type": "increment", "path": "title", "by": "many"}])

    steps = [made("raises", http("GET", "/{what}"), handler), made("update", http("POST", "/update"), update)]
    async with stepping(tmp_path, *steps) as (client, _):
        for name, (_, status, message) in RAISED.items():
            answer = await client.get(f"/{name}")
            assert (name, answer.status_code, answer.json()) == (name, status, {"error": message})
            assert "Traceback" not in answer.text
        answer = await client.post("/update")
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("operation 0: ")
    assert issubclass(UpdateError, MotiaError)


async def test_http_a_plain_handler_holds_up_nobody(tmp_path: Path) -> None:
    import threading

    release = threading.Event()

    def slow(input: Any, ctx: Any) -> Any:
        release.wait(20)
        return {"body": "slow"}

    async def quick(input: Any, ctx: Any) -> Any:
        return {"body": "quick"}

    steps = [made("slow", http("GET", "/slow"), slow), made("quick", http("GET", "/quick"), quick)]
    async with stepping(tmp_path, *steps) as (client, _):
        waiting = asyncio.create_task(client.get("/slow"))
        try:
            assert (await client.get("/quick")).text == "quick"
        finally:
            release.set()
        assert (await waiting).text == "slow"


async def test_http_a_client_that_goes_while_it_sends_is_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done = asyncio.Event()

    async def handler(input: Any, ctx: Any) -> Any:
        await ctx.streams.documents.set("g", "x", {"n": 1})
        done.set()

    async with stepping(tmp_path, made("echo", http("POST", "/echo"), handler)) as (client, server):
        for content, extra in ((b'{"half":', 100), (b"{}", 0)):
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            length = len(content) + extra
            writer.write(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (length, content))
            await writer.drain()
            writer.transport.abort()
        # The one that had said all it wanted is served, though nobody waits for the answer.
        await asyncio.wait_for(done.wait(), 10)
        assert (await client.post("/echo")).status_code == 204
        assert await server.docs.get("g", "x") == {"n": 1}
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_http_a_step_writes_and_subscribers_see_it(tmp_path: Path) -> None:
    async def handler(input: Any, ctx: Any) -> Any:
        result = await ctx.streams["documents"].set("g", input.request.path_params["id"], input.request.body)
        return {"status": 201 if result.type == "create" else 200, "body": {"position": result.position}}

    schema = {"type": "object", "required": ["title"]}
    stream = StreamConfig(name="documents", schema=schema)
    motia = project(tmp_path, stream, steps=[made("put", http("PUT", "/docs/{id}"), handler)])
    async with serve(motia) as server:
        client, http_client = await server.connect(), await server.http()
        await client.joined("g")
        answer = await http_client.put("/docs/a%2Fb", json={"title": "x"})
        assert answer.status_code == 201
        change = await client.at(answer.json()["position"])
        assert (change["id"], change["event"]) == ("a/b", {"type": "create", "data": {"id": "a/b", "title": "x"}})
        refused = await http_client.put("/docs/x", json={"name": "x"})
        assert (refused.status_code, refused.json()) == (400, {"error": '$: "title" is a required property'})
        refused = await http_client.put("/docs/%0A", json={"title": "x"})
        assert refused.status_code == 400
        assert "U+000A" in refused.json()["error"]
        refused = await http_client.put("/docs/" + "x" * 513, json={"title": "x"})
        assert refused.status_code == 400
        await client.settled()
        assert len(client.changes()) == 1


async def test_row_16_values_at_the_limit_through_a_step(tmp_path: Path) -> None:
    """What fits is stored to the last bit, one byte more is refused by name, and nothing is written."""

    async def handler(input: Any, ctx: Any) -> Any:
        await ctx.streams.documents.set("g", "x", input.body)

    async with stepping(tmp_path, made("put", http("PUT", "/x"), handler)) as (client, server):
        witness = await server.connect()
        await witness.joined("g")

        async def put(value: str) -> tuple[int, str]:
            answer = await client.put("/x", content=value.encode("utf-8", "surrogatepass"))
            return answer.status_code, answer.json()["error"] if answer.content else ""

        limit = 1_000_000
        full = json.dumps({"text": "é" * ((limit - len('{"text":""}')) // 2) + "x"}, ensure_ascii=False)
        full = full.replace(": ", ":")
        assert len(full.encode()) == limit
        assert await put(full) == (204, "")
        assert await put("  " + full + "  ") == (204, "")  # as it is stored, not as it was sent
        over = full.replace('x"}', 'xx"}')
        assert await put(over) == (400, "$: 1000001 bytes as compact JSON, 1000000 at most")
        deep = '{"a":' * 100 + "1" + "}" * 100
        assert await put(deep) == (204, "")
        status, message = await put('{"a":' * 101 + "1" + "}" * 101)
        assert (status, "nested deeper than 100 levels" in message) == (400, True)
        status, message = await put('{"a":' * 900 + "1" + "}" * 900)
        assert (status, "nested deeper than 100 levels" in message) == (400, True)
        assert (await put("[" * 200_000))[0] == 400
        for number in ("9223372036854775807", "-9223372036854775808", "1e308", "5e-324", "-0.0", "1.0"):
            assert await put(f'{{"n":{number}}}') == (204, "")
        for number in ("9223372036854775808", "-9223372036854775809", "1" + "0" * 400, "1e999"):
            status, message = await put(f'{{"n":{number}}}')
            assert (number, status) == (number, 400)
        for text in ("\\u0000", "\\ud800", "\udfff", "\x00"):
            status, message = await put(f'{{"text":"{text}"}}')
            assert (text, status) == (text, 400)
        for value in ("[]", "1", '"text"', "null", ""):
            status, message = await put(value)
            assert (value, status) == (value, 400)
            assert "an item must be an object" in message
        assert len(await server.docs.list("g")) == 1
        last = await server.docs.set("g", "last", {})
        await witness.at(last.position)
        assert witness.kinds().count("create") == 2
        assert len(witness.changes()) == 2 + 1 + 1 + 6


async def test_E4_cors_is_for_the_origins_of_the_settings(tmp_path: Path) -> None:
    steps = [made("get", http("GET", "/docs")), made("fails", http("GET", "/fails"), answering({}))]
    allowed = {"allowed_origins": ["https://app.example"]}
    async with stepping(tmp_path, *steps, server=allowed) as (client, _):
        asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "PUT"}
        asked["Access-Control-Request-Headers"] = "authorization, x-extra"
        preflight = await client.options("/docs", headers=asked)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://app.example"
        assert "PUT" in preflight.headers["access-control-allow-methods"]
        assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
        for path, status in (("/docs", 200), ("/nothing", 404), ("/fails", 500)):
            answer = await client.get(path, headers={"Origin": "https://app.example"})
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == "https://app.example"
        foreign = await client.options("/docs", headers={**asked, "Origin": "https://evil.example"})
        assert foreign.status_code == 400
        answer = await client.get("/docs", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in answer.headers
    async with stepping(tmp_path, *steps) as (client, _):
        answer = await client.get("/docs", headers={"Origin": "https://app.example"})
        assert "access-control-allow-origin" not in answer.headers


async def test_http_a_websocket_and_a_step_share_a_path(tmp_path: Path) -> None:
    async with stepping(tmp_path, made("root", http("GET", "/"))) as (client, server):
        assert (await client.get("/")).status_code == 200
        raw = await RawSocket.open(server.port)
        assert raw.status == 101
        raw.close()
        await eventually(lambda: _none(server), "the socket to be gone")


async def _none(server: Served) -> bool:
    return not server.motia.connections
