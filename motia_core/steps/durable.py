"""Steps as the runner knows them: a durable trigger for each stream, state, queue and cron trigger of a step."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from motia_core.model import Change, StreamSpec
from motia_core.plugins import Plugins
from motia_core.schema import compile_schema
from motia_core.states import STATE
from motia_core.steps.context import Context, TriggerInfo
from motia_core.steps.definitions import CronTrigger, QueueTrigger, StateTrigger, Step, StreamTrigger
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
    condition = trigger.condition
    key = (step.name, kind, source, str(number))
    run_handler = runner_of(step)
    hooked = plugins.implements("motia_trigger_matches")

    def accepts(change: Change) -> bool:
        return (
            change.type in events
            and (group is None or change.group_id == group)
            and (wanted_id is None or change.id == wanted_id)
        )

    def info(change: Change, run: RunInfo | None) -> TriggerInfo:
        if run is None:
            return TriggerInfo(kind, index, change.position)
        return TriggerInfo(kind, index, change.position, run.epoch, run.attempt)

    async def matches(change: Change) -> bool:
        if hooked and not await _plugins_agree(plugins, trigger, change):
            return False
        if condition is None:
            return True
        answer = condition(read(change), make_context(step, info(change, None), None))
        return bool(await answer if inspect.isawaitable(answer) else answer)

    async def handle(change: Change, run: RunInfo) -> None:
        await run_handler(read(change), make_context(step, info(change, run), (run.uid, change.position)))

    return Trigger(
        key=key,
        previous=None if step.previous is None else (step.previous, kind, source, str(number)),
        stream=spec,
        handle=handle,
        accepts=accepts,
        matches=matches if hooked or condition is not None else None,
        start=trigger.start,
        **limits(step),
    )


def limits(step: Step) -> dict[str, Any]:
    """A step's `Delivery`, as options of a `Trigger`."""
    delivery = step.delivery
    return {
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


def message_trigger(step: Step, index: int, number: int, trigger: QueueTrigger, make_context: MakeContext) -> Trigger:
    """What runs a step on the messages of a topic."""
    condition = trigger.condition
    key = (step.name, "queue", trigger.topic, str(number))
    run_handler = runner_of(step)
    check = compile_schema(f"{step.where}: queue({trigger.topic!r})", trigger.input)

    def read(change: Change) -> Any:
        data = change.data["data"]
        if check is not None:
            check(data, encode(data))
        return queue_input(data)

    async def matches(change: Change) -> bool:
        assert condition is not None
        info = TriggerInfo("queue", index, change.position)
        answer = condition(read(change), make_context(step, info, None))
        return bool(await answer if inspect.isawaitable(answer) else answer)

    async def handle(change: Change, run: RunInfo) -> None:
        info = TriggerInfo("queue", index, change.position, run.epoch, run.attempt)
        # A message is known by its id: its position may be made anew.
        await run_handler(read(change), make_context(step, info, (run.uid, change.id or "")))

    return queue_trigger(
        trigger.topic,
        key=key,
        previous=None if step.previous is None else (step.previous, *key[1:]),
        handle=handle,
        matches=matches if condition is not None else None,
        **limits(step),
    )


def tick_trigger(step: Step, index: int, number: int, trigger: CronTrigger, make_context: MakeContext) -> Trigger:
    """What runs a step at the times of a cron expression."""
    condition = trigger.condition
    key = (step.name, "cron", trigger.expression, str(number))
    run_handler = runner_of(step)

    def read(change: Change) -> Input:
        return cron_input(trigger.expression, change.timestamp, change.data["missed"])

    async def matches(change: Change) -> bool:
        assert condition is not None
        info = TriggerInfo("cron", index, change.position)
        answer = condition(read(change), make_context(step, info, None))
        return bool(await answer if inspect.isawaitable(answer) else answer)

    async def handle(change: Change, run: RunInfo) -> None:
        info = TriggerInfo("cron", index, change.position, run.epoch, run.attempt)
        await run_handler(read(change), make_context(step, info, (run.uid, change.position)))

    return cron_trigger(
        trigger.expression,
        key=key,
        previous=None if step.previous is None else (step.previous, *key[1:]),
        handle=handle,
        matches=matches if condition is not None else None,
        timezone=trigger.timezone,
        catch_up=trigger.catch_up,
        **limits(step),
    )


async def _plugins_agree(plugins: Plugins, trigger: StreamTrigger | StateTrigger, change: Change) -> bool:
    answers: Iterable[Any] = await plugins.call("motia_trigger_matches", trigger=trigger, change=change)
    return all(answer is None or bool(answer) for answer in answers)
