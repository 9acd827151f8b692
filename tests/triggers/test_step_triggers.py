"""Steps' own triggers, through `Motia`: filters, conditions, hooks, inputs, contexts, queues."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from motia_core import Motia, StreamConfig, hookimpl, http, queue, state, step, stream
from motia_core.errors import InvalidValue, SchemaError
from motia_core.model import Change
from motia_core.steps import Step
from motia_core.testing.harness import eventually

STREAMS = [StreamConfig(name="documents"), StreamConfig(name="users")]


@asynccontextmanager
async def running(*steps: Step, plugins: Sequence[object] = ()) -> AsyncIterator[Motia]:
    async with Motia(streams=STREAMS, steps=steps, storage={"default": "memory://"}, plugins=plugins) as motia:
        yield motia


async def until(check: Callable[[], bool], what: str) -> None:
    async def checked() -> bool:
        return check()

    await eventually(checked, what)


class Recorder:
    """A handler that keeps what it gets."""

    def __init__(self) -> None:
        self.runs: list[tuple[Any, Any]] = []

    async def handle(self, input: Any, ctx: Any) -> None:
        self.runs.append((input, ctx))


async def test_filters_and_kinds_choose_the_changes() -> None:
    recorder, last = Recorder(), Recorder()
    chosen = [
        stream("documents", group_id="g", item_id="x", events=["update"]),
        stream("documents", group_id="h", events=["event"]),
    ]
    steps = [
        step({"name": "chosen", "triggers": chosen}, recorder.handle),
        step({"name": "last", "triggers": [stream("users")]}, last.handle),
    ]
    async with running(*steps) as motia:
        documents = motia.streams["documents"]
        for group in ("g", "h"):
            for id in ("x", "y"):
                await documents.set(group, id, {"n": 1})
                await documents.set(group, id, {"n": 2})
                await documents.delete(group, id)
        await documents.send({"groupId": "h", "id": "x"}, {"type": "hello", "data": {"n": 3}})
        await documents.send({"groupId": "g", "id": "x"}, {"type": "hello"})
        await motia.streams["users"].set("all", "u", {})
        await until(lambda: len(recorder.runs) >= 2 and bool(last.runs), "the chosen changes")
    told = sorted((ctx.trigger.index, input.event.type, input.id) for input, ctx in recorder.runs)
    assert told == [(0, "update", "x"), (1, "event", "x")]
    event = next(input for input, ctx in recorder.runs if ctx.trigger.index == 1)
    assert (event.event.event_type, event["event"]["eventType"], event.event.data) == ("hello", "hello", {"n": 3})


async def test_an_input_reads_both_ways_and_a_context_says_why() -> None:
    recorder = Recorder()
    async with running(step({"name": "read", "triggers": [stream("documents")]}, recorder.handle)) as motia:
        result = await motia.streams["documents"].set("g", "x", {"title": "Plan", "groupId": "its own"})
        await until(lambda: bool(recorder.runs), "the run")
    input, ctx = recorder.runs[0]
    assert set(input) == {"type", "timestamp", "streamName", "groupId", "id", "event"}
    assert input["type"] == input.type == "stream"
    assert (input.stream_name, input.streamName, input["streamName"]) == ("documents",) * 3
    assert (input.group_id, input["groupId"], input.id) == ("g", "g", "x")
    assert (input.event.type, input["event"]["type"]) == ("create", "create")
    assert input.event.data == {"title": "Plan", "groupId": "its own"}
    assert type(input.timestamp) is int
    assert input.timestamp == int(result.timestamp)
    assert (ctx.trigger.type, ctx.trigger.index, ctx.trigger.attempt) == ("stream", 0, 1)
    assert ctx.trigger.position == result.position
    assert ctx.trigger.epoch >= 1
    assert len(ctx.trace_id) == 32
    with pytest.raises(AttributeError, match="the input has no 'group'; it has type, timestamp"):
        _ = input.group


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_a_condition_decides(kind: str) -> None:
    recorder = Recorder()

    def plain(input: Any, ctx: Any) -> bool:
        assert ctx.streams["documents"].name == "documents"
        return bool(input.event.data["n"] % 2)

    async def asynchronous(input: Any, ctx: Any) -> bool:
        return await ctx.state.get("allow", str(input.event.data["n"])) is not None

    trigger = stream("documents", condition=plain if kind == "plain" else asynchronous)
    async with running(step({"name": "odd", "triggers": [trigger]}, recorder.handle)) as motia:
        for n in (1, 3):
            await motia.state.set("allow", str(n), True)
        for n in range(5):
            await motia.streams["documents"].set("g", f"{n}", {"n": n})
        await until(lambda: len(recorder.runs) == 2, "the odd ones")
        await motia.streams["documents"].set("g", "5", {"n": 3})
        await until(lambda: len(recorder.runs) == 3, "one more")
    assert sorted(input.event.data["n"] for input, _ in recorder.runs) == [1, 3, 3]


class Guard:
    """A plugin that keeps drafts from every trigger."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []

    @hookimpl
    async def motia_trigger_matches(self, trigger: Any, change: Change) -> bool | None:
        self.asked.append((type(trigger).__name__, change.id))
        return False if change.data.get("draft") else None


async def test_a_plugin_narrows_what_matches() -> None:
    recorder, guard = Recorder(), Guard()
    steps = [step({"name": "publish", "triggers": [stream("documents", condition=lambda i, c: True)]}, recorder.handle)]
    async with running(*steps, plugins=[guard]) as motia:
        await motia.streams["documents"].set("g", "a", {"draft": True})
        await motia.streams["documents"].set("g", "b", {})
        await until(lambda: bool(recorder.runs) and len(guard.asked) >= 2, "the document that is no draft")
    assert [input.id for input, _ in recorder.runs] == ["b"]
    assert sorted(guard.asked) == [("StreamTrigger", "a"), ("StreamTrigger", "b")]


async def test_state_triggers_see_values() -> None:
    recorder = Recorder()
    trigger = state(group_id="workspaces", events=["update", "delete"])
    async with running(step({"name": "watch", "triggers": [trigger]}, recorder.handle)) as motia:
        await motia.state.set("workspaces", "w", {"members": []})
        await motia.state.update("workspaces", "w", [{"type": "append", "path": "members", "value": "u"}])
        await motia.state.set("others", "w", 1)
        await motia.state.delete("workspaces", "w")
        await until(lambda: len(recorder.runs) == 2, "update and delete")
    inputs = [input for input, _ in recorder.runs]
    assert [(input.event.type, input.key, input.group_id) for input in inputs] == [
        ("update", "w", "workspaces"),
        ("delete", "w", "workspaces"),
    ]
    assert all(input.value == input.event.data == {"members": ["u"]} for input in inputs)


async def test_one_step_may_have_triggers_of_every_kind() -> None:
    recorder = Recorder()
    triggers = [http("POST", "/run"), stream("documents"), queue("work"), state(key="k")]
    async with running(step({"name": "all", "triggers": triggers}, recorder.handle)) as motia:
        await motia.streams["documents"].set("g", "x", {})
        await motia.state.set("s", "k", 1)
        await motia.enqueue({"topic": "work", "data": {"n": 7}})
        await until(lambda: len(recorder.runs) == 3, "three kinds")
    assert sorted((ctx.trigger.type, ctx.trigger.index) for _, ctx in recorder.runs) == [
        ("queue", 2),
        ("state", 3),
        ("stream", 1),
    ]
    message = next(input for input, ctx in recorder.runs if ctx.trigger.type == "queue")
    assert (message, message.n) == ({"n": 7}, 7)


async def test_messages_of_another_shape_are_refused_where_they_are_put() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    recorder = Recorder()
    steps = [step({"name": "count", "triggers": [queue("work", input=schema)]}, recorder.handle)]
    async with running(*steps) as motia:
        for message in ({}, {"topic": "work", "more": 1}, "work", {"topic": 5}):
            with pytest.raises(InvalidValue):
                await motia.enqueue(message)  # type: ignore[arg-type]
        with pytest.raises(SchemaError, match='"n" is a required property'):
            await motia.enqueue({"topic": "work", "data": {}})
        await motia.enqueue({"topic": "work", "data": {"n": 1}})
        await until(lambda: bool(recorder.runs), "the message that fits")
    assert [input for input, _ in recorder.runs] == [{"n": 1}]


async def test_odd_topics_are_reported_at_start(caplog: pytest.LogCaptureFixture) -> None:
    async def talk(input: Any, ctx: Any) -> None:
        await ctx.enqueue({"topic": "undeclared", "data": 1})

    steps = [step({"name": "talk", "triggers": [stream("documents")], "enqueues": ["nobody-listens"]}, talk)]
    with caplog.at_level(logging.WARNING, "motia"):
        async with running(*steps):
            pass
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert "enqueues 'nobody-listens', and no step of this project listens to it" in said
    assert "enqueues 'undeclared' and does not declare it: add it to its 'enqueues'" in said
    assert said.count("step 'talk' (") == 2
    assert "test_step_triggers.py:" in said
