"""Queues: the same rules as streams, and no retention loses a message (D7)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from motia_core.adapter import Retention
from motia_core.errors import InvalidName, InvalidValue
from motia_core.model import Change
from motia_core.triggers import QUEUE, Queue, RunInfo, Trigger, queue_trigger
from motia_core.triggers import queues as queues_module

from .conftest import Seen, World, until, until_async


def listener(seen: Seen, name: str = "worker", **options: Any) -> Trigger:
    options.setdefault("backoff", 0.05)
    options.setdefault("attempts", 3)
    options.setdefault("partitions", 4)
    return queue_trigger("mail", key=(name, "queue", "mail", "0"), handle=seen, **options)


def data(seen: Seen) -> list[Any]:
    return [value["data"] for _, value, _ in seen.runs]


async def is_empty(world: World) -> bool:
    return not await world.adapter.list(QUEUE, "mail", after=None, limit=None)


async def prepared(world: World) -> Queue:
    await world.adapter.prepare(QUEUE)
    return Queue(world.adapter)


async def test_messages_are_handled_and_removed(world: World) -> None:
    queue = await prepared(world)
    seen = Seen()
    await world.run(listener(seen))
    await queue.enqueue("other", {"n": -1})
    for n in range(20):
        await queue.enqueue("mail", {"n": n})
    await until(lambda: sorted(value["n"] for value in data(seen)) == list(range(20)))
    await until_async(lambda: is_empty(world))
    assert len(await world.adapter.list(QUEUE, "other", after=None, limit=None)) == 1


async def test_messages_with_one_key_are_handled_in_order(world: World) -> None:
    queue = await prepared(world)

    async def act(change: Change, info: RunInfo) -> None:
        await asyncio.sleep(0.001 * (change.data["data"] % 3))

    seen = Seen()
    seen.act = act
    await world.run(listener(seen))
    for n in range(40):
        await queue.enqueue("mail", n, key=f"k{n % 4}")
    await until(lambda: len(seen.runs) == 40)
    for k in range(4):
        assert [n for n in data(seen) if n % 4 == k] == list(range(k, 40, 4))


async def test_what_lay_there_before_is_handled_too(world: World) -> None:
    queue = await prepared(world)
    for n in range(10):
        await queue.enqueue("mail", n, key="k")
    seen = Seen()
    first = await world.run(listener(seen))
    await queue.enqueue("mail", 10, key="k")
    await until(lambda: data(seen) == list(range(11)))
    await until_async(lambda: is_empty(world))
    await first.stop()
    await queue.enqueue("mail", 11, key="k")
    await world.run(listener(seen))
    await until(lambda: data(seen) == list(range(12)))


async def test_no_retention_loses_a_message(world: World) -> None:
    world.retention = Retention(count=5)
    adapter = await world.client()
    queue = await prepared(world)
    queue = Queue(adapter)
    seen = Seen()
    first = await world.run(listener(seen))
    await first.stop()
    start = await adapter.head(QUEUE)
    for n in range(60):
        await queue.enqueue("mail", n, key="k")

    async def trimmed() -> bool:
        return await adapter.floor(QUEUE) > start

    await until_async(trimmed)
    await world.run(listener(seen))
    await until(lambda: data(seen) == list(range(60)))
    await until_async(lambda: is_empty(world))
    assert "gap" not in world.kinds()


async def test_without_a_crash_no_message_is_handled_twice_though_the_log_is_gone(world: World) -> None:
    world.retention = Retention(count=5)
    adapter = await world.client()
    await prepared(world)
    queue = Queue(adapter)
    seen = Seen()
    first = await world.run(listener(seen))
    for n in range(50):
        await queue.enqueue("mail", n)
    await until(lambda: len(seen.runs) == 50)
    await first.stop()
    assert await is_empty(world), "a successor would find what is settled"
    start, n = await adapter.head(QUEUE), 50
    while await adapter.floor(QUEUE) <= start:
        await queue.enqueue("mail", n)
        n += 1
    await world.run(listener(seen))
    await until(lambda: len(seen.runs) >= n)
    await until_async(lambda: is_empty(world))
    assert sorted(data(seen)) == list(range(n))


async def test_a_message_of_a_run_that_is_repeated_is_put_there_once(world: World) -> None:
    queue = await prepared(world)
    ids = {await queue.enqueue("mail", n, origin=("uid", "position", 1)) for n in range(2)}
    ids.add(await queue.enqueue("mail", 2, origin=("uid", "position", 2)))
    assert len(ids) == 2
    items = await world.adapter.list(QUEUE, "mail", after=None, limit=None)
    assert sorted(item.value["data"] for item in items) == [0, 2]


async def test_a_message_that_always_fails_is_a_dead_letter_and_leaves_the_queue(world: World) -> None:
    queue = await prepared(world)

    async def act(change: Change, info: RunInfo) -> None:
        raise ValueError("no")

    seen = Seen()
    seen.act = act
    runner = await world.run(listener(seen))
    await queue.enqueue("mail", "bad")
    letters = await runner.dead_letters(runner.triggers[0].key)
    (letter,) = await until_async(letters.list)
    assert letter.change.data["data"] == "bad"
    assert [attempt for _, _, attempt in seen.runs] == [1, 2, 3]
    await until_async(lambda: is_empty(world))


async def test_with_two_listeners_a_message_waits_for_both(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues_module, "SWEEP", 0.5)
    monkeypatch.setattr("motia_core.triggers.flush.PROGRESS_INTERVAL", 0.5)
    queue = await prepared(world)
    gate = asyncio.Event()

    async def act(change: Change, info: RunInfo) -> None:
        await gate.wait()

    quick, slow = Seen(), Seen()
    slow.act = act
    runner = await world.run(listener(quick, "quick"), listener(slow, "slow"))
    await until(lambda: len(runner.partitions()) == 8 and not any(p.fresh or p.gap for p in runner.partitions()))
    await queue.enqueue("mail", 1)
    await until(lambda: quick.runs and slow.runs)
    await asyncio.sleep(2.5)
    assert not await is_empty(world)
    gate.set()
    await until_async(lambda: is_empty(world))


async def test_what_cannot_be_a_message_is_refused(world: World) -> None:
    queue = await prepared(world)
    with pytest.raises(InvalidName, match="topic"):
        await queue.enqueue("", 1)
    with pytest.raises(InvalidName, match="key must be text"):
        await queue.enqueue("mail", 1, key=1)  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match=r"\$\.data"):
        await queue.enqueue("mail", float("nan"))
    with pytest.raises(InvalidValue, match="1000000 at most"):
        await queue.enqueue("mail", "x" * 1_000_001)
