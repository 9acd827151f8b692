"""Clause D7: queues and the clock, by the real runner on the backend."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from motia_core.adapter import Adapter, Retention
from motia_core.model import Change
from motia_core.testing.durable import LEASE, Running, Seen, able, settled, when
from motia_core.testing.harness import World, eventually
from motia_core.testing.suite import Suite
from motia_core.triggers import QUEUE, Queue, RunInfo, Runner, Trigger, cron_trigger, queue_trigger

TOPIC = "orders"


def listener(handle: Any, name: str = "listener", **options: Any) -> Trigger:
    """A queue trigger of the tests."""
    return queue_trigger(TOPIC, key=(name, "queue", TOPIC, "0"), handle=handle, backoff=0.01, **options)


def numbers(seen: Seen) -> list[int]:
    """What the messages said, in the order of their runs."""
    return [change.data["data"]["n"] for change, _ in seen.runs]


class Queues(Suite):
    """Queue steps and cron (SEMANTICS D7)."""

    async def test_D7_each_message_is_handled_once_and_then_removed(self, world: World) -> None:
        adapter = await _storage(world)
        queue, seen = Queue(adapter), Seen()
        for n in range(10):
            await queue.enqueue(TOPIC, {"n": n})  # nobody runs yet
        async with Running(adapter, [listener(seen.handle)]):
            await settled(seen, 10)
            for n in range(10, 20):
                await queue.enqueue(TOPIC, {"n": n})
            await settled(seen, 20)
            await eventually(lambda: _is_empty(adapter), "handled messages to be removed")
        assert sorted(numbers(seen)) == list(range(20))

    async def test_D7_messages_of_one_key_are_handled_in_order(self, world: World) -> None:
        adapter = await _storage(world)
        queue = Queue(adapter)
        handled: dict[str, list[int]] = {"a": [], "b": []}
        failed = False

        async def handle(change: Change, run: RunInfo) -> None:
            nonlocal failed
            key, n = change.data["key"], change.data["data"]["n"]
            if (key, n) == ("a", 3) and not failed:
                failed = True
                raise RuntimeError("once")
            await asyncio.sleep(0.001 * (n % 3))
            handled[key].append(n)

        async with Running(adapter, [listener(handle)]):
            for n in range(12):
                for key in handled:
                    await queue.enqueue(TOPIC, {"n": n}, key=key)
            await eventually(when(lambda: sum(map(len, handled.values())) == 24), "all messages")
        assert handled == {"a": list(range(12)), "b": list(range(12))}

    async def test_D7_no_retention_loses_a_message(self, world: World) -> None:
        adapter = await _storage(world, retention=Retention(count=20))
        queue, seen = Queue(adapter), Seen()
        async with Running(adapter, [listener(seen.handle)]):
            await queue.enqueue(TOPIC, {"n": 0})
            await settled(seen, 1)
        first = await adapter.head(QUEUE)
        for n in range(1, 200):
            await queue.enqueue(TOPIC, {"n": n})
        count = 200

        async def trimmed() -> bool:
            nonlocal count
            await queue.enqueue(TOPIC, {"n": count})
            count += 1
            return await adapter.floor(QUEUE) > first

        await eventually(trimmed, "the log to be trimmed")
        async with Running(await world.adapter(retention=Retention(count=20)), [listener(seen.handle)]):
            await settled(seen, count)
        assert sorted(set(numbers(seen))) == list(range(count))

    async def test_D7_every_listener_gets_a_message_before_it_goes(self, world: World) -> None:
        adapter = await _storage(world)
        queue, one, other = Queue(adapter), Seen(), Seen()
        async with Running(adapter, [listener(one.handle, "one"), listener(other.handle, "other")]):
            for n in range(5):
                await queue.enqueue(TOPIC, {"n": n})
            await settled(one, 5)
            await settled(other, 5)
        assert sorted(numbers(one)) == sorted(numbers(other)) == list(range(5))

    async def test_D7_what_one_run_enqueues_twice_is_there_once(self, world: World) -> None:
        adapter = await _storage(world)
        queue, seen = Queue(adapter), Seen()
        origin = ("trigger", "position", 0)
        ids = [await queue.enqueue(TOPIC, {"n": 1}, origin=origin) for _ in range(3)]
        ids.append(await queue.enqueue(TOPIC, {"n": 2}, origin=("trigger", "position", 1)))
        assert len(set(ids)) == 2
        async with Running(adapter, [listener(seen.handle)]):
            await settled(seen, 2)
        assert sorted(numbers(seen)) == [1, 2]

    async def test_D7_a_tick_starts_once_in_the_whole_cluster(self, world: World) -> None:
        adapters = [await _storage(world)]
        if adapters[0].capabilities(QUEUE).multi_process:
            adapters += [await world.adapter(), await world.adapter()]
        seen = Seen()
        trigger = cron_trigger("* * * * * *", key=("clock", "cron", "* * * * * *", "0"), handle=seen.handle)
        runners = [Runner(adapter, [trigger], lease=LEASE) for adapter in adapters]
        await asyncio.gather(*(runner.start() for runner in runners))
        try:
            await settled(seen, 2)
            for runner in runners:  # whoever has it gives it back, and another goes on
                if runner.partitions() and len(runners) > 1:
                    await runner.stop()
                    break
            await settled(seen, 4)
        finally:
            await asyncio.gather(*(runner.stop() for runner in runners))
        ticks = [run.position for _, run in seen.runs]
        assert len(ticks) == len(set(ticks)), "a tick ran twice"
        assert ticks == sorted(ticks)


async def _storage(world: World, retention: Retention | None = None) -> Adapter:
    adapter = able(await world.adapter(retention=retention))
    if adapter.capabilities(QUEUE).history.level != "full":
        pytest.fail("hidden streams are managed: their history is full")
    await adapter.prepare(QUEUE)
    return adapter


async def _is_empty(adapter: Adapter) -> bool:
    return not await adapter.list(QUEUE, TOPIC, after=None, limit=1)
