"""What a handler gets beside its input: ``ctx``."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from motia_core.errors import ConfigError
from motia_core.states import State
from motia_core.steps.enqueueing import Enqueuer
from motia_core.streams import Stream


class Streams(Mapping[str, Stream[dict[str, Any]]]):
    """The project's streams: ``ctx.streams["documents"]`` or ``ctx.streams.documents``."""

    def __init__(self, streams: Mapping[str, Stream[dict[str, Any]]]) -> None:
        self._streams = streams

    def __getitem__(self, name: str) -> Stream[dict[str, Any]]:
        try:
            return self._streams[name]
        except KeyError:
            known = ", ".join(sorted(self._streams)) or "none"
            raise UnknownStream(f"there is no stream {name!r}; defined: {known}") from None

    def __getattr__(self, name: str) -> Stream[dict[str, Any]]:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self[name]
        except UnknownStream as error:
            raise AttributeError(str(error)) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._streams)

    def __len__(self) -> int:
        return len(self._streams)


class UnknownStream(ConfigError, KeyError):
    """A stream that the project does not define."""

    def __str__(self) -> str:
        return str(self.args[0])


class StepLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger whose ``extra=`` may hold any keys: they arrive as ``record.fields``."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Keep the user's keys from colliding with those of a log record."""
        fields = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, {**kwargs, "extra": {"fields": fields}}


@dataclass(frozen=True, slots=True)
class TriggerInfo:
    """Why a handler runs."""

    type: str
    """"http", "stream", "queue", "cron", "state", or "join"."""
    index: int = 0
    """Which of its step's triggers."""
    position: str = ""
    """Of a durable trigger: the place of its change. The same in every run of it."""
    epoch: int = 0
    """Of a durable trigger: grows whenever its work changes hands. With the position it guards
    effects on other systems against a process that was paused and comes back."""
    attempt: int = 1
    """Of a durable trigger: 1 for the first."""


@dataclass(frozen=True, slots=True)
class Context:
    """``ctx``: the project's streams and state, a logger, and why this runs."""

    streams: Streams
    state: State
    trigger: TriggerInfo
    trace_id: str
    """32 hexadecimal digits, to tell the log lines of one run from others'."""
    name: str
    """Of the step or hook that runs."""
    _enqueuer: Enqueuer
    _origin: tuple[str, str] | None = None
    _calls: Iterator[int] = field(default_factory=count)

    async def enqueue(self, message: Mapping[str, Any]) -> str:
        """Put ``{"topic", "data", "key"?}`` on a topic, for the steps that listen to it; returns the message's id.

        Messages with one ``key`` are handled one after the other, others at once. In a
        durable trigger a second run of the same change adds nothing, as long as it makes
        the same calls. Raises `InvalidValue` or `SchemaError` for what no listener takes.
        """
        number = next(self._calls)
        origin = None if self._origin is None else (*self._origin, number)
        return await self._enqueuer.put(message, self.name, origin)

    @property
    def logger(self) -> StepLogger:
        """Logs under ``motia.step.NAME``; each record carries the step and the trace."""
        logger = logging.getLogger(f"motia.step.{self.name}")
        return StepLogger(logger, {"step": self.name, "trace_id": self.trace_id})


_traces = random.Random()  # names, not secrets: the system's own source is fifty times slower


def new_trace() -> str:
    """A trace id."""
    return f"{_traces.getrandbits(128):032x}"
