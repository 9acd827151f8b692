"""What a step is: a handler and the triggers that run it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import BaseModel

from motia_core.errors import ConfigError, InvalidName
from motia_core.names import check_id, check_stream_name

Handler = Callable[[Any, Any], Awaitable[Any] | Any]
"""``handler(input, ctx)``, async or plain."""

Condition = Callable[[Any, Any], Awaitable[bool] | bool]
"""``condition(input, ctx)``: whether to run, async or plain."""

EventType = Literal["create", "update", "delete", "event"]

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


@dataclass(frozen=True, slots=True)
class StateTrigger:
    """Runs when a state value changes."""

    group_id: str | None = None
    key: str | None = None
    condition: Condition | None = None


Trigger = HttpTrigger | StreamTrigger | QueueTrigger | CronTrigger | StateTrigger


@dataclass(frozen=True, slots=True)
class Step:
    """A named handler with its triggers. Made by `step`."""

    name: str
    triggers: tuple[Trigger, ...]
    handler: Handler | None = None
    enqueues: tuple[str, ...] = ()
    description: str = ""
    flows: tuple[str, ...] = ()

    def handle(self, handler: Handler) -> Step:
        """The same step with a handler: ``default = step({...}).handle(fn)``, or as a decorator."""
        if not callable(handler):
            raise ConfigError(f"step {self.name!r}: the handler must be a function")
        return replace(self, handler=handler)


def step(config: Mapping[str, Any], handler: Handler | None = None) -> Step:
    """Declare a step: ``{"name", "triggers", "enqueues"?, "description"?, "flows"?}`` and its handler.

    Raises `ConfigError` that names the step and what is wrong.
    """
    allowed = {"name", "triggers", "enqueues", "description", "flows"}
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
) -> StreamTrigger:
    """Run on a stream's changes, of one group or item if given; ``events`` says of which kinds."""
    what = f"stream({name!r})"
    try:
        check_stream_name(name)
        for value, label in ((group_id, "group_id"), (item_id, "item_id")):
            if value is not None:
                check_id(value, label)
    except InvalidName as error:
        raise ConfigError(f"{what}: {error}") from None
    kinds = ("create", "update", "delete", "event")
    if isinstance(events, str) or not events or any(event not in kinds for event in events):
        raise ConfigError(f"{what}: events must be a list of {', '.join(kinds)}")
    return StreamTrigger(name, group_id, item_id, condition, tuple(events))


def queue(
    topic: str,
    *,
    input: type[BaseModel] | Mapping[str, Any] | None = None,
    condition: Condition | None = None,
) -> QueueTrigger:
    """Run on each message that `ctx.enqueue` puts on a topic."""
    if not isinstance(topic, str) or not topic:
        raise ConfigError(f"queue({topic!r}): the topic must be text")
    return QueueTrigger(topic, input, condition)


def cron(expression: str, *, condition: Condition | None = None) -> CronTrigger:
    """Run at the times of a cron expression; six fields begin with seconds."""
    if not isinstance(expression, str) or len(expression.split()) not in (5, 6):
        raise ConfigError(f"cron({expression!r}): an expression has five fields, or six with seconds first")
    return CronTrigger(expression, condition)


def state(*, group_id: str | None = None, key: str | None = None, condition: Condition | None = None) -> StateTrigger:
    """Run when state changes, of one group or key if given."""
    return StateTrigger(group_id, key, condition)


def _texts(name: str, config: Mapping[str, Any], key: str) -> tuple[str, ...]:
    values = config.get(key, ())
    if isinstance(values, str) or not all(isinstance(value, str) for value in values):
        raise ConfigError(f"step {name!r}: {key!r} must be a list of text")
    return tuple(values)
