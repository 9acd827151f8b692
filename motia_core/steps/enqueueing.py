"""``ctx.enqueue``: what may be put on a topic, by whom, and who listens."""

from __future__ import annotations

import ast
import inspect
import logging
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from motia_core.errors import ConfigError, InvalidValue
from motia_core.schema import Check, compile_schema
from motia_core.steps.definitions import QueueTrigger, Step
from motia_core.triggers import Queue
from motia_core.values import encode

log = logging.getLogger("motia.queue")

Origin = tuple[str, str, int]
"""Which call of which run of which trigger: a second run of the same adds nothing (TRIGGERS, "Queues")."""


class Enqueuer:
    """Puts messages on the project's topics. Raises `ConfigError` for a listener's bad schema."""

    def __init__(self, steps: Iterable[Step]) -> None:
        self.queue: Queue | None = None
        """Set while the storage is open."""
        self._checks: dict[str, list[Check]] = {}
        self._declared: dict[str, frozenset[str]] = {}
        self._told: set[tuple[str, str]] = set()
        self.remarks: list[str] = []
        """What is odd about the steps' topics, for people."""
        steps = tuple(steps)
        for step in steps:
            self._declared[step.name] = frozenset(step.enqueues)
            for trigger in step.triggers:
                if isinstance(trigger, QueueTrigger):
                    check = compile_schema(f"{step.where}: queue({trigger.topic!r})", trigger.input)
                    self._checks.setdefault(trigger.topic, []).extend([check] if check else [])
        for step in steps:
            for topic in step.enqueues:
                if topic not in self._checks:
                    self.remarks.append(f"{step.where} enqueues {topic!r}, and no step of this project listens to it")
            for topic in sorted({*topics_in(step)} - {*step.enqueues}):
                self.remarks.append(
                    f"{step.where} enqueues {topic!r} and does not declare it: add it to its 'enqueues'"
                )

    @property
    def is_used(self) -> bool:
        """Whether any step declares a topic."""
        return bool(self._checks) or any(self._declared.values())

    async def put(self, message: Any, step: str | None = None, origin: Origin | None = None) -> str:
        """Put ``{"topic", "data"?, "key"?}`` on its topic; returns the message's id.

        Raises `InvalidValue` for a message of another shape, `SchemaError` for data that a
        listener of this project would refuse, and what the store raises.
        """
        if not isinstance(message, Mapping) or set(message) - {"topic", "data", "key"} or "topic" not in message:
            raise InvalidValue("must be {'topic': ..., 'data': ..., 'key': ... (optional)}", path="message")
        topic, data = message["topic"], message.get("data")
        if not isinstance(topic, str) or not topic:
            raise InvalidValue(f"must be text, not {type(topic).__name__}", path="message.topic")
        if self.queue is None:
            raise ConfigError(f"enqueue to {topic!r}: no step declares 'enqueues' or listens with queue()")
        self._remark(topic, step)
        for check in self._checks.get(topic, ()):
            check(data, encode(data, path="$.data"))
        return await self.queue.enqueue(topic, data, key=message.get("key"), origin=origin)

    def _remark(self, topic: str, step: str | None) -> None:
        """Say once that a step did not declare what it does; the message goes out all the same."""
        if step in self._declared and topic not in self._declared[step] and (step, topic) not in self._told:
            self._told.add((step, topic))
            log.warning("step %r enqueues %r, which its 'enqueues' does not declare", step, topic)


def topics_in(step: Step) -> Iterator[str]:
    """Topics that stand as text in a handler's own calls of ``enqueue``, as far as its source can be read."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(step.handler)))  # type: ignore[arg-type]
    except (OSError, TypeError, SyntaxError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "enqueue":
            for argument in node.args[:1]:
                if isinstance(argument, ast.Dict):
                    yield from _constants(argument)


def _constants(message: ast.Dict) -> Iterator[str]:
    for key, value in zip(message.keys, message.values, strict=True):
        named = isinstance(key, ast.Constant) and key.value == "topic"
        if named and isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value.value
