"""What a step is: a handler and the triggers that run it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import BaseModel

from motia_core.errors import ConfigError, InvalidName
from motia_core.names import check_id, check_stream_name
from motia_core.triggers.cron import CatchUp, CronSchedule

Handler = Callable[[Any, Any], Awaitable[Any] | Any]
"""``handler(input, ctx)``, async or plain."""

Condition = Callable[[Any, Any], Awaitable[bool] | bool]
"""``condition(input, ctx)``: whether to run, async or plain."""

EventType = Literal["create", "update", "delete", "event"]

Start = Literal["now", "beginning"]
"""Where a trigger that was never there before begins: at what comes next, or at the oldest change that is kept."""

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")

_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}\Z|:([A-Za-z_][A-Za-z0-9_]*)\Z")


@dataclass(frozen=True, slots=True)
class HttpTrigger:
    """Runs on a request. ``segments``: of the path, text or ``(parameter,)``."""

    method: str
    path: str
    body_schema: type[BaseModel] | Mapping[str, Any] | None = None
    segments: tuple[str | tuple[str], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class StreamTrigger:
    """Runs on a stream's changes."""

    stream: str
    group_id: str | None = None
    item_id: str | None = None
    condition: Condition | None = None
    events: tuple[EventType, ...] = ("create", "update", "delete")
    start: Start = "now"


@dataclass(frozen=True, slots=True)
class QueueTrigger:
    """Runs on each message of a topic."""

    topic: str
    input: type[BaseModel] | Mapping[str, Any] | None = None
    condition: Condition | None = None


@dataclass(frozen=True, slots=True)
class CronTrigger:
    """Runs at the times of a cron expression, of five fields or six (seconds first)."""

    expression: str
    condition: Condition | None = None
    timezone: str = "UTC"
    catch_up: CatchUp = "latest"


@dataclass(frozen=True, slots=True)
class StateTrigger:
    """Runs when a state value changes."""

    group_id: str | None = None
    key: str | None = None
    condition: Condition | None = None
    events: tuple[EventType, ...] = ("create", "update", "delete")
    start: Start = "now"


Trigger = HttpTrigger | StreamTrigger | QueueTrigger | CronTrigger | StateTrigger


@dataclass(frozen=True, slots=True)
class Delivery:
    """How hard a step tries: for all its triggers but http, which answer at once or fail."""

    attempts: int = 5
    """Failed attempts after which a change, message or tick is a dead letter."""
    backoff: float = 1.0
    """Seconds that the first retry may wait; each further one twice as long, 60 at most."""
    timeout: float = 60.0
    """Seconds that one attempt may take."""
    concurrency: int = 16
    """Handlers of one trigger at once, in one process."""


@dataclass(frozen=True, slots=True)
class Step:
    """A named handler with its triggers. Made by `step`."""

    name: str
    triggers: tuple[Trigger, ...]
    handler: Handler | None = None
    enqueues: tuple[str, ...] = ()
    description: str = ""
    flows: tuple[str, ...] = ()
    delivery: Delivery = Delivery()
    previous: str | None = None
    """The name it had before: its triggers go on where those of that name stopped."""

    @property
    def where(self) -> str:
        """For messages: the step's name, and the file and line of its handler."""
        code = getattr(inspect.unwrap(self.handler), "__code__", None) if self.handler else None
        return f"step {self.name!r}" + (f" ({code.co_filename}:{code.co_firstlineno})" if code else "")

    def handle(self, handler: Handler) -> Step:
        """The same step with a handler: ``default = step({...}).handle(fn)``, or as a decorator."""
        handled = replace(self, handler=handler)
        if not callable(handler):
            raise ConfigError(f"step {self.name!r}: the handler must be a function")
        if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
            raise ConfigError(f"{handled.where}: the handler must not 'yield': it would never run")
        _check_call(handled.where, "handler", handler)
        for trigger in self.triggers:
            if not isinstance(trigger, HttpTrigger) and trigger.condition is not None:
                _check_call(handled.where, "condition", trigger.condition)
        return handled


def step(config: Mapping[str, Any], handler: Handler | None = None) -> Step:
    """Declare a step: ``{"name", "triggers", "enqueues"?, "description"?, "flows"?}`` and its handler.

    How hard it tries is said by ``"attempts"``, ``"backoff"``, ``"timeout"`` and
    ``"concurrency"`` (`Delivery`); a step that was renamed names its ``"previous"`` name.

    Raises `ConfigError` that names the step and what is wrong.
    """
    if not isinstance(config, Mapping):
        raise ConfigError(f"step() takes a dict, like {{'name': ..., 'triggers': [...]}}, not {type(config).__name__}")
    allowed = {"name", "triggers", "enqueues", "description", "flows", "previous", *_LIMITS}
    name = config.get("name")
    if not isinstance(name, str) or not name:
        raise ConfigError("a step needs a 'name' of text")
    unknown = sorted(set(config) - allowed)
    if unknown:
        raise ConfigError(f"step {name!r}: unknown key {unknown[0]!r}; allowed: {', '.join(sorted(allowed))}")
    triggers = config.get("triggers", ())
    if not isinstance(triggers, Sequence) or not all(isinstance(trigger, Trigger) for trigger in triggers):
        raise ConfigError(f"step {name!r}: 'triggers' must be a list of http(), stream(), queue(), cron() or state()")
    declared = Step(
        name,
        tuple(triggers),
        enqueues=_texts(name, config, "enqueues"),
        description=str(config.get("description", "")),
        flows=_texts(name, config, "flows"),
        delivery=_delivery(name, config),
        previous=_previous(name, config),
    )
    return declared if handler is None else declared.handle(handler)


def http(method: str, path: str, *, body_schema: type[BaseModel] | Mapping[str, Any] | None = None) -> HttpTrigger:
    """Run on requests: ``http("PATCH", "/docs/{id}")``, or ``"/docs/:id"``."""
    verb = method.upper() if isinstance(method, str) else ""
    if verb not in METHODS:
        raise ConfigError(f"http({method!r}, {path!r}): the method must be one of {', '.join(METHODS)}")
    if not isinstance(path, str) or not path.startswith("/"):
        raise ConfigError(f"http({method!r}, {path!r}): the path must begin with '/'")
    segments: list[str | tuple[str]] = []
    for part in path.strip("/").split("/") if path.strip("/") else []:
        found = _PARAMETER.match(part.strip())
        if found:
            parameter = found[1] or found[2]
            if (parameter,) in segments:
                raise ConfigError(f"http({method!r}, {path!r}): parameter {parameter!r} stands twice")
            segments.append((parameter,))
        elif any(mark in part for mark in "{}") or part.startswith(":"):
            raise ConfigError(f"http({method!r}, {path!r}): {part!r} is no parameter: write {{name}} or :name")
        else:
            segments.append(part)
    return HttpTrigger(verb, path, body_schema, tuple(segments))


def stream(
    name: str,
    *,
    group_id: str | None = None,
    item_id: str | None = None,
    condition: Condition | None = None,
    events: Sequence[EventType] = ("create", "update", "delete"),
    start: Start = "now",
) -> StreamTrigger:
    """Run on a stream's changes, of one group or item if given; ``events`` says of which kinds.

    ``start="beginning"``: a trigger that was never there before begins with the oldest
    change that is kept.
    """
    what = f"stream({name!r})"
    try:
        check_stream_name(name)
    except InvalidName as error:
        raise ConfigError(f"{what}: {error}") from None
    _check_ids(what, group_id=group_id, item_id=item_id)
    _check_condition(what, condition)
    _check_start(what, start)
    return StreamTrigger(name, group_id, item_id, condition, _kinds(what, events), start)


def queue(
    topic: str,
    *,
    input: type[BaseModel] | Mapping[str, Any] | None = None,
    condition: Condition | None = None,
) -> QueueTrigger:
    """Run on each message that `ctx.enqueue` puts on a topic."""
    if not isinstance(topic, str) or not topic:
        raise ConfigError(f"queue({topic!r}): the topic must be text")
    _check_ids(f"queue({topic!r})", topic=topic)
    _check_condition(f"queue({topic!r})", condition)
    return QueueTrigger(topic, input, condition)


def cron(
    expression: str, *, condition: Condition | None = None, timezone: str = "UTC", catch_up: CatchUp = "latest"
) -> CronTrigger:
    """Run at the times of a cron expression; six fields begin with seconds.

    ``timezone`` names where the times are meant, as in "Europe/Berlin". ``catch_up`` says
    which ticks run that were missed while no process ran: "all", the "latest" or "none".
    """
    what = f"cron({expression!r})"
    if not isinstance(expression, str) or len(expression.split()) not in (5, 6):
        raise ConfigError(f"{what}: an expression has five fields, or six with seconds first")
    CronSchedule(expression, timezone=timezone, catch_up=catch_up)
    _check_condition(what, condition)
    return CronTrigger(expression, condition, timezone, catch_up)


def state(
    *,
    group_id: str | None = None,
    key: str | None = None,
    condition: Condition | None = None,
    events: Sequence[EventType] = ("create", "update", "delete"),
    start: Start = "now",
) -> StateTrigger:
    """Run when state changes, of one group or key if given."""
    what = "state()"
    _check_ids(what, group_id=group_id, key=key)
    _check_condition(what, condition)
    _check_start(what, start)
    return StateTrigger(group_id, key, condition, _kinds(what, events), start)


_LIMITS = {
    "attempts": "a whole number above 0",
    "backoff": "a number of seconds, 0 or more",
    "timeout": "a number of seconds above 0",
    "concurrency": "a whole number above 0",
}


def _delivery(name: str, config: Mapping[str, Any]) -> Delivery:
    given: dict[str, Any] = {key: config[key] for key in _LIMITS if key in config}
    for key, value in given.items():
        kinds = (int,) if "whole" in _LIMITS[key] else (int, float)
        right = isinstance(value, kinds) and not isinstance(value, bool)
        if not right or not (0 if key == "backoff" else 1e-3) <= value < 1e9:
            raise ConfigError(f"step {name!r}: {key!r} must be {_LIMITS[key]}, not {value!r}")
    return Delivery(**given)


def _previous(name: str, config: Mapping[str, Any]) -> str | None:
    previous = config.get("previous")
    if previous is not None and (not isinstance(previous, str) or not previous or previous == name):
        raise ConfigError(f"step {name!r}: 'previous' must be the other name that it had")
    return previous


def _check_ids(what: str, **ids: Any) -> None:
    try:
        for label, value in ids.items():
            if value is not None:
                check_id(value, label)
    except InvalidName as error:
        raise ConfigError(f"{what}: {error}") from None


def _check_call(where: str, what: str, function: Callable[..., Any]) -> None:
    """A mistake that would fail at each change."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # not written in Python: nobody can tell
    try:
        signature.bind(None, None)
    except TypeError:
        raise ConfigError(f"{where}: its {what} must take (input, ctx), not {signature}") from None


def _check_condition(what: str, condition: Any) -> None:
    if condition is not None and not callable(condition):
        raise ConfigError(f"{what}: the condition must be a function of (input, ctx)")


def _check_start(what: str, start: Any) -> None:
    if start not in ("now", "beginning"):
        raise ConfigError(f"{what}: start must be 'now' or 'beginning', not {start!r}")


def _kinds(what: str, events: Any) -> tuple[EventType, ...]:
    kinds = ("create", "update", "delete", "event")
    if isinstance(events, str) or not isinstance(events, Sequence) or not events or set(events) - set(kinds):
        raise ConfigError(f"{what}: events must be a list of {', '.join(kinds)}")
    return tuple(events)


def _texts(name: str, config: Mapping[str, Any], key: str) -> tuple[str, ...]:
    values = config.get(key, ())
    if isinstance(values, str) or not all(isinstance(value, str) for value in values):
        raise ConfigError(f"step {name!r}: {key!r} must be a list of text")
    return tuple(values)
