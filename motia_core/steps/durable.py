"""Steps as the runner knows them: a durable trigger for each stream, state, queue and cron trigger of a step."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from operator import attrgetter
from typing import Any

from motia_core.model import Change, StreamSpec
from motia_core.plugins import Plugins
from motia_core.schema import compile_schema
from motia_core.states import STATE
from motia_core.steps.context import Context, TriggerInfo
from motia_core.steps.definitions import Condition, CronTrigger, QueueTrigger, StateTrigger, Step, StreamTrigger
from motia_core.steps.inputs import Input, cron_input, queue_input, state_input, stream_input
from motia_core.steps.threads import in_thread
from motia_core.triggers import RunInfo, Trigger, cron_trigger, queue_trigger
from motia_core.values import encode

MakeContext = Callable[[Step, TriggerInfo, tuple[str, str] | None], Context]
"""Makes the ``ctx`` of one run of a step: why it runs, and what names the run in all processes
(a condition has none: what it enqueues is its own affair)."""


def change_trigger(
    step: Step,
    index: int,
    number: int,
    trigger: StreamTrigger | StateTrigger,
    make_context: MakeContext,
    plugins: Plugins,
) -> Trigger:
    """What runs a step on the changes of a stream, or of state. ``number``: among equals of its step."""
    if isinstance(trigger, StreamTrigger):
        spec, kind, source, wanted_id = StreamSpec(trigger.stream), "stream", trigger.stream, trigger.item_id
        read: Callable[[Change], Input] = stream_input
    else:
        spec, kind, source, wanted_id = STATE, "state", "", trigger.key
        read = state_input
    group, events = trigger.group_id, frozenset(trigger.events)

    def accepts(change: Change) -> bool:
        return (
            change.type in events
            and (group is None or change.group_id == group)
            and (wanted_id is None or change.id == wanted_id)
        )

    async def plugins_agree(change: Change) -> bool:
        answers: Iterable[Any] = await plugins.call("motia_trigger_matches", trigger=trigger, change=change)
        return all(answer is None or bool(answer) for answer in answers)

    return Trigger(
        stream=spec,
        accepts=accepts,
        start=trigger.start,
        **_options(
            step,
            index,
            (step.name, kind, source, str(number)),
            trigger.condition,
            read,
            make_context,
            guard=plugins_agree if plugins.implements("motia_trigger_matches") else None,
        ),
    )


def message_trigger(step: Step, index: int, number: int, trigger: QueueTrigger, make_context: MakeContext) -> Trigger:
    """What runs a step on the messages of a topic."""
    check = compile_schema(f"{step.where}: queue({trigger.topic!r})", trigger.input)

    def read(change: Change) -> Any:
        data = change.data["data"]
        if check is not None:
            check(data, encode(data))
        return queue_input(data)

    def message(change: Change) -> str:
        return change.id or ""  # its position may be made anew

    key = (step.name, "queue", trigger.topic, str(number))
    options = _options(step, index, key, trigger.condition, read, make_context, origin=message)
    return queue_trigger(trigger.topic, **options)


def tick_trigger(step: Step, index: int, number: int, trigger: CronTrigger, make_context: MakeContext) -> Trigger:
    """What runs a step at the times of a cron expression."""

    def read(change: Change) -> Input:
        return cron_input(trigger.expression, change.timestamp, change.data["missed"])

    key = (step.name, "cron", trigger.expression, str(number))
    options = _options(step, index, key, trigger.condition, read, make_context)
    return cron_trigger(trigger.expression, timezone=trigger.timezone, catch_up=trigger.catch_up, **options)


def _options(
    step: Step,
    index: int,
    key: tuple[str, ...],
    condition: Condition | None,
    read: Callable[[Change], Any],
    make_context: MakeContext,
    *,
    guard: Callable[[Change], Awaitable[bool]] | None = None,
    origin: Callable[[Change], str] = attrgetter("position"),
) -> dict[str, Any]:
    """The options of a `Trigger` that do not depend on what it follows.

    ``read`` makes a change the handler's input; ``guard`` is asked before the condition;
    ``origin`` is what names the change in all processes, for what its run enqueues.
    """
    kind, run_handler, delivery = key[1], runner_of(step), step.delivery

    async def matches(change: Change) -> bool:
        if guard is not None and not await guard(change):
            return False
        if condition is None:
            return True
        answer = condition(read(change), make_context(step, TriggerInfo(kind, index, change.position), None))
        return bool(await answer if inspect.isawaitable(answer) else answer)

    async def handle(change: Change, run: RunInfo) -> None:
        info = TriggerInfo(kind, index, change.position, run.epoch, run.attempt)
        await run_handler(read(change), make_context(step, info, (run.uid, origin(change))))

    return {
        "key": key,
        "previous": None if step.previous is None else (step.previous, *key[1:]),
        "handle": handle,
        "matches": None if guard is None and condition is None else matches,
        "attempts": delivery.attempts,
        "backoff": delivery.backoff,
        "timeout": delivery.timeout,
        "concurrency": delivery.concurrency,
    }


def runner_of(step: Step) -> Callable[[Any, Context], Awaitable[Any]]:
    """What runs a step's handler; a plain function in a thread, so that it holds nobody up.

    What a handler returns is nobody's: durable triggers answer nobody.
    """
    handler = step.handler
    assert handler is not None
    if inspect.iscoroutinefunction(handler):
        return handler

    async def run(input: Any, ctx: Context) -> None:
        answer = await in_thread(handler, input, ctx)
        if inspect.isawaitable(answer):
            await answer

    return run
