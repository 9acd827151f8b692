"""HTTP steps without a web framework: finding the step, running it, reading its answer."""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import orjson
from pydantic import BaseModel

from motia_core.errors import (
    AccessDenied,
    BackendError,
    ConfigError,
    Conflict,
    GroupTooLarge,
    InvalidName,
    InvalidValue,
    MotiaError,
    OutcomeUnknown,
    SchemaError,
    UpdateError,
)
from motia_core.plugins import is_no_failure
from motia_core.schema import Check, compile_schema
from motia_core.steps.context import Context, TriggerInfo
from motia_core.steps.definitions import HttpTrigger, Step
from motia_core.steps.inputs import Input
from motia_core.values import decode_foreign

log = logging.getLogger("motia.http")

ContextFactory = Callable[[str, TriggerInfo], Context]

_STATUS: tuple[tuple[tuple[type[MotiaError], ...], int], ...] = (
    ((InvalidValue, InvalidName, UpdateError), 400),
    ((AccessDenied,), 403),
    ((Conflict,), 409),
    ((GroupTooLarge,), 413),
    ((BackendError,), 503),
)


_BODILESS = (204, 205, 304)
_FRAMING = ("content-length", "transfer-encoding", "connection")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+\Z")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\xa0-\xff]*\Z")


@dataclass(frozen=True, slots=True)
class Response:
    """An answer, ready to be sent."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class Route:
    """One HTTP trigger of one step."""

    step: Step
    trigger: HttpTrigger
    index: int
    check: Check | None


class HttpSteps:
    """All HTTP steps of a project. Raises `ConfigError` when two claim one path."""

    def __init__(self, steps: Iterable[Step], make_context: ContextFactory) -> None:
        self._make_context = make_context
        self._routes: list[Route] = []
        taken: dict[tuple[str, tuple[str | None, ...]], Step] = {}
        for step in steps:
            for index, trigger in enumerate(step.triggers):
                if not isinstance(trigger, HttpTrigger):
                    continue
                key = (trigger.method, tuple(None if isinstance(part, tuple) else part for part in trigger.segments))
                if key in taken:
                    raise ConfigError(
                        f"steps {taken[key].name!r} and {step.name!r} both answer {trigger.method} {trigger.path}"
                    )
                taken[key] = step
                check = compile_schema(f"{step.where}: body of {trigger.method} {trigger.path}", trigger.body_schema)
                self._routes.append(Route(step, trigger, index, check))
        # Text before parameters, so that /docs/new wins over /docs/{id}.
        self._routes.sort(key=lambda route: [isinstance(segment, tuple) for segment in route.trigger.segments])

    def __len__(self) -> int:
        return len(self._routes)

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]] | set[str]:
        """The route of a (still percent-encoded) path with its parameters, or the methods it allows.

        Who answers GET answers HEAD, unless a step of its own does.
        """
        parts = [unquote(part) for part in path.strip("/").split("/")] if path.strip("/") else []
        found: dict[str, tuple[Route, dict[str, str]]] = {}
        for route in self._routes:
            parameters = _match(route.trigger.segments, parts)
            if parameters is not None:
                found.setdefault(route.trigger.method, (route, parameters))
        if "GET" in found:
            found.setdefault("HEAD", found["GET"])
        if method in found:
            return found[method]
        return {*found, "OPTIONS"} if found else set()

    async def run(
        self,
        route: Route,
        *,
        path: str,
        path_params: Mapping[str, str],
        query_params: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes,
    ) -> Response:
        """Run a route's handler. Never raises: what goes wrong is a response, and logged."""
        name = route.step.name
        try:
            request = Input(
                method=route.trigger.method,
                path=path,
                pathParams=dict(path_params),
                queryParams=dict(query_params),
                headers=dict(headers),
                body=_read_body(body, headers.get("content-type", ""), route.check),
            )
        except (InvalidValue, ValueError) as error:
            return _error(400, str(error))
        ctx = self._make_context(name, TriggerInfo("http", route.index))
        assert route.step.handler is not None
        try:
            given = {"type": "http", "request": request, "body": request["body"]}
            if inspect.iscoroutinefunction(route.step.handler):
                answer = await route.step.handler(Input(given), ctx)
            else:
                answer = await asyncio.to_thread(route.step.handler, Input(given), ctx)
                if inspect.isawaitable(answer):
                    answer = await answer
            return _read_answer(answer)
        except MotiaError as error:
            for kinds, status in _STATUS:
                if isinstance(error, kinds):
                    ctx.logger.info("step %s: %s", name, error)
                    return _error(status, str(error) if status < 500 else _trouble(error))
            log.exception("step %s failed", name)
        except BaseException as error:
            if is_no_failure(error):
                raise
            log.exception("step %s failed", name)
        return _error(500, "internal error")


def _match(segments: tuple[str | tuple[str], ...], parts: list[str]) -> dict[str, str] | None:
    if len(segments) != len(parts):
        return None
    parameters: dict[str, str] = {}
    for segment, part in zip(segments, parts, strict=True):
        if isinstance(segment, tuple):
            if not part:
                return None
            parameters[segment[0]] = part
        elif segment != part:
            return None
    return parameters


def _read_body(body: bytes, content_type: str, check: Check | None) -> Any:
    """JSON where the request says so (or says nothing); text else; ``None`` where there is no body."""
    kind = content_type.partition(";")[0].strip().lower()
    value: Any = None
    if body:
        if kind in ("", "application/json") or kind.endswith("+json"):
            try:
                value = decode_foreign(body)
            except orjson.JSONDecodeError as error:
                raise ValueError(f"the body is not valid JSON: {error}") from None
        else:
            try:
                value = body.decode()
            except UnicodeDecodeError:
                raise ValueError("the body is neither JSON nor UTF-8 text") from None
    if check is not None:
        try:
            check(value, orjson.dumps(value))
        except SchemaError as error:
            raise ValueError(f"body {error}") from None
    return value


def _read_answer(answer: Any) -> Response:
    """``{"status", "body", "headers"}``, or nothing at all."""
    if answer is None:
        return Response(204, (), b"")
    if not isinstance(answer, Mapping) or set(answer) - {"status", "body", "headers"}:
        raise TypeError("a handler returns None or {'status': ..., 'body': ..., 'headers': ...}")
    status = answer.get("status", 200)
    if isinstance(status, bool) or not isinstance(status, int) or not 200 <= status <= 599:
        raise TypeError(f"status {status!r} is no HTTP status (200 to 599)")
    body, kind = _encode_body(answer.get("body"))
    if body and status in _BODILESS:
        raise TypeError(f"an answer of status {status} has no body")
    headers = [pair for name, value in dict(answer.get("headers") or {}).items() for pair in _header(name, value)]
    if body and not any(name == "content-type" for name, _ in headers):
        headers.append(("content-type", kind))
    return Response(status, tuple(headers), body)


def _header(name: Any, value: Any) -> Iterator[tuple[str, str]]:
    """A header as it may be sent; a list of values makes one line each. Raises ``TypeError``."""
    key = str(name).lower()
    if not _HEADER_NAME.match(key) or key in _FRAMING:
        raise TypeError(f"{key[:80]!r} is no header that a handler may set")
    for text in map(str, value if isinstance(value, (list, tuple)) else [value]):
        if not _HEADER_VALUE.match(text):
            raise TypeError(f"the value of header {key!r} holds characters that no header may hold")
        yield key, text


def _encode_body(body: Any) -> tuple[bytes, str]:
    if body is None:
        return b"", ""
    if isinstance(body, str):
        return body.encode(), "text/plain; charset=utf-8"
    if isinstance(body, bytes):
        return body, "application/octet-stream"
    return orjson.dumps(body, default=_dump), "application/json"


def _dump(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    raise TypeError(f"{type(value).__name__} is not a JSON type")


def _trouble(error: MotiaError) -> str:
    if isinstance(error, OutcomeUnknown):
        return "the storage did not say whether it has done what was asked"
    return "the storage cannot be reached"


def _error(status: int, message: str) -> Response:
    return Response(status, (("content-type", "application/json"),), orjson.dumps({"error": message}))
