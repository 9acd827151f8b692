"""What a handler sees: order, retries, dead letters, time limits, conditions (D1, D2, D4)."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from dataclasses import replace

import pytest

from motia_core.errors import ConfigError, MotiaError
from motia_core.model import Change, Write
from motia_core.triggers import RunInfo, Trigger

from .conftest import DOCS, Seen, World, trigger, until, until_async


async def test_every_change_is_handled_once_and_an_items_in_order(world: World) -> None:
    seen = Seen()
    await world.run(trigger(seen))
    for n in range(100):
        await world.put(f"i{n % 7}", {"n": n})
    await until(lambda: len(seen.runs) == 100)
    for item in range(7):
        assert seen.values(f"i{item}") == list(range(item, 100, 7))
    assert {info.attempt for info in seen.infos} == {1}
    assert all(info.epoch == 1 and info.position for info in seen.infos)


async def test_one_item_at_a_time_and_different_items_side_by_side(world: World) -> None:
    running: set[str | None] = set()
    most = 0

    async def act(change: Change, info: RunInfo) -> None:
        nonlocal most
        assert change.id not in running
        running.add(change.id)
        most = max(most, len(running))
        await asyncio.sleep(0.02)
        running.remove(change.id)

    seen = Seen()
    seen.act = act
    await world.run(trigger(seen, concurrency=3))
    for n in range(30):
        await world.put(f"i{n % 6}", {"n": n})
    await until(lambda: len(seen.runs) == 30 and not running)
    assert most == 3


async def test_a_failing_change_is_tried_n_times_while_its_item_waits_and_others_go_on(world: World) -> None:
    async def act(change: Change, info: RunInfo) -> None:
        if change.data["n"] == 0:
            raise ValueError("never")

    seen = Seen()
    seen.act = act
    runner = await world.run(trigger(seen))
    await world.put("bad", {"n": 0})
    await world.put("bad", {"n": 1})
    for n in range(10, 20):
        await world.put("good", {"n": n})
    await until(lambda: seen.values("bad") == [0, 0, 0, 1] and len(seen.values("good")) == 10)
    assert [attempt for id, value, attempt in seen.runs if value["n"] == 0] == [1, 2, 3]

    letters = await runner.dead_letters(runner.triggers[0].key)
    (letter,) = await letters.list()
    assert (letter.change.id, letter.change.data, letter.attempts) == ("bad", {"n": 0}, 3)
    assert letter.error == "ValueError: never"
    assert [status.last_error for status in await runner.status()] == ["ValueError: never"]


async def test_failures_are_logged_and_a_dead_letter_is_reported(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(change: Change, info: RunInfo) -> None:
        raise ValueError("no good")

    seen = Seen()
    seen.act = act
    await world.run(trigger(seen, attempts=2))
    await world.put("bad", {"n": 1})
    await until(lambda: "dead" in world.kinds())
    (report,) = [report for report in world.reports if report.kind == "dead"]
    assert report.message == "create of g/bad is given up after 2 attempts, as a dead letter: ValueError: no good"
    failed = [record for record in caplog.records if "attempt" in record.getMessage() and record.exc_info]
    assert [record.getMessage() for record in failed] == [
        f"trigger step/stream/docs: attempt {n} of 2 for create of g/bad failed: ValueError: no good" for n in (1, 2)
    ]


async def test_a_dead_letter_is_retried_and_dropped_by_command(world: World) -> None:
    broken = True

    async def act(change: Change, info: RunInfo) -> None:
        if broken:
            raise ValueError("not yet")

    seen = Seen()
    seen.act = act
    runner = await world.run(trigger(seen, attempts=1))
    for n in range(3):
        await world.put(f"i{n}", {"n": n})
    letters = await runner.dead_letters(runner.triggers[0].key)
    found = await until_async(lambda: _exactly(letters, 3))
    await letters.drop(found[0].id)
    broken = False
    assert await letters.retry() == 2
    await until_async(lambda: _exactly(letters, 0, True))
    await until(lambda: len(seen.runs) == 5)
    assert {id for id, _, _ in seen.runs[3:]} == {letter.change.id for letter in found[1:]}
    assert [attempt for _, _, attempt in seen.runs[3:]] == [1, 1]
    with pytest.raises(MotiaError, match="there is no dead letter 'nonsense'"):
        await letters.retry("nonsense")
    with pytest.raises(MotiaError, match="there is no dead letter 'nonsense'"):
        await letters.drop("nonsense")


async def _exactly(letters: object, count: int, empty_is_true: bool = False) -> object:
    found = await letters.list()  # type: ignore[attr-defined]
    return (found or empty_is_true) if len(found) == count else None


async def test_a_change_too_large_for_a_batch_with_its_record_is_given_up_without_its_data(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It blocks neither its item nor the partition."""
    seen = Seen()

    async def act(change: Change, info: RunInfo) -> None:
        if change.id == "large" and "x" in change.data:
            raise ValueError("no")

    seen.act = act
    client = await world.client()
    capabilities = client.capabilities
    monkeypatch.setattr(client, "capabilities", lambda spec: replace(capabilities(spec), max_batch_bytes=50_000))
    runner = await world.run(trigger(seen, partitions=1, attempts=2), adapter=client)
    await world.put("large", {"x": "x" * 60_000})
    await world.put("large", {"n": 1})
    await until(lambda: seen.values("large")[-1:] == [1])
    (letter,) = await (await runner.dead_letters(runner.triggers[0].key)).list()
    assert letter.change.json is None
    assert "did not fit" in (letter.error or "")
    await runner.stop()
    (status,) = await runner.status()
    assert status.partitions[0].owner is None


async def test_a_slow_handler_is_cancelled_and_tried_again(world: World) -> None:
    async def act(change: Change, info: RunInfo) -> None:
        if info.attempt == 1:
            await asyncio.sleep(3600)

    seen = Seen()
    seen.act = act
    runner = await world.run(trigger(seen, timeout=0.1))
    await world.put("slow", {"n": 1})
    await world.put("slow", {"n": 2})
    await until(lambda: seen.values() == [1, 1, 2])
    assert (await runner.status())[0].last_error == "timed out"


async def test_a_handler_that_ignores_its_cancellation_keeps_its_item_blocked_and_is_reported(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("motia_core.triggers.crew.STUCK_AFTER", 0.2)
    end = asyncio.Event()

    async def act(change: Change, info: RunInfo) -> None:
        while change.data["n"] == 1 and not end.is_set():
            try:
                await end.wait()
            except asyncio.CancelledError:
                continue

    seen = Seen()
    seen.act = act
    await world.run(trigger(seen, timeout=0.1))
    await world.put("stuck", {"n": 1})
    await world.put("stuck", {"n": 2})
    await world.put("other", {"n": 3})
    await until(lambda: "stuck" in world.kinds() and seen.values("other") == [3])
    assert seen.values("stuck") == [1]
    end.set()
    await until(lambda: seen.values("stuck") == [1, 2])


async def test_a_condition_decides_and_one_that_raises_is_a_failed_attempt(world: World) -> None:
    async def matches(change: Change) -> bool:
        await asyncio.sleep(0)
        if change.data["n"] == 7:
            raise KeyError("condition")
        return bool(change.data["n"] % 2)

    seen = Seen()
    runner = await world.run(trigger(seen, matches=matches))
    for n in range(10):
        await world.put(f"i{n}", {"n": n})
    letters = await runner.dead_letters(runner.triggers[0].key)
    (letter,) = await until_async(letters.list)
    assert letter.change.data == {"n": 7}
    assert letter.attempts == 3
    assert "condition" in (letter.error or "")
    await until(lambda: sorted(seen.values()) == [1, 3, 5, 9])


async def test_only_accepted_changes_are_handled(world: World) -> None:
    seen = Seen()
    await world.run(trigger(seen, accepts=lambda change: change.type == "delete" and change.group_id == "b"))
    for group in "ab":
        await world.put("i", {"n": 1}, group)
        await world.adapter.write(DOCS, [Write("delete", group, "i")])
    await until(lambda: seen.runs)
    await world.put("i", {"n": 2}, "b")
    await world.adapter.write(DOCS, [Write("delete", "b", "i")])
    await until(lambda: len(seen.runs) == 2)
    assert seen.values() == [1, 2]


async def test_custom_events_of_a_group_are_handled_too(world: World) -> None:
    seen = Seen()
    await world.run(trigger(seen))
    for n in range(3):
        await world.adapter.write(DOCS, [Write("event", "g", None, b'{"n":%d}' % n, event_type="note")])
    await until(lambda: seen.values(None) == [0, 1, 2])


async def test_a_flood_is_handled_whole(world: World) -> None:
    seen = Seen()
    await world.run(trigger(seen, window=64))
    for n in range(0, 6_000, 200):
        writes = [Write("set", "g", f"i{k % 50}", b'{"n":%d}' % k) for k in range(n, n + 200)]
        await world.adapter.write(DOCS, writes)
    await until(lambda: len(seen.runs) >= 6_000)
    assert len(seen.runs) == 6_000
    for item in range(50):
        assert seen.values(f"i{item}") == list(range(item, 6_000, 50))


async def test_a_slow_flood_is_read_no_faster_than_it_is_handled(world: World) -> None:
    gate = asyncio.Event()

    async def act(change: Change, info: RunInfo) -> None:
        await gate.wait()

    seen = Seen()
    seen.act = act
    runner = await world.run(trigger(seen, window=8, concurrency=4, partitions=2))
    for n in range(0, 10_000, 500):
        await world.adapter.write(DOCS, [Write("set", "g", f"i{k % 40}", b'{"n":%d}' % k) for k in range(n, n + 500)])
    await until(lambda: len(seen.runs) == 4)
    await until(lambda: all(partition.open >= 1_000 for partition in runner.partitions()))
    await asyncio.sleep(0.3)
    assert all(partition.open <= 3_000 for partition in runner.partitions())
    gate.set()
    await until(lambda: len(seen.runs) >= 10_000)
    for item in range(40):
        assert seen.values(f"i{item}") == list(range(item, 10_000, 40))


async def test_each_run_has_a_context_of_its_own(world: World) -> None:
    name: ContextVar[str] = ContextVar("name", default="nobody")
    found: list[str] = []

    async def act(change: Change, info: RunInfo) -> None:
        found.append(name.get())
        name.set(str(change.id))
        await asyncio.sleep(0)
        assert name.get() == change.id
        async with asyncio.timeout(5):
            await asyncio.sleep(0.001)

    seen = Seen()
    seen.act = act
    await world.run(trigger(seen, concurrency=2))
    for n in range(20):
        await world.put(f"i{n}", {"n": n})
    await until(lambda: len(found) == 20)
    assert set(found) == {"nobody"}


async def test_a_parked_change_keeps_its_value_to_the_last_bit(world: World) -> None:
    value = {"n": 2**63 - 1, "f": 1.0, "z": -0.0, "e": [], "o": {}, "t": "é😀", "x": {"a.b": [None]}}
    seen = Seen()

    async def act(change: Change, info: RunInfo) -> None:
        raise ValueError

    seen.act = act
    first = await world.run(trigger(seen, backoff=0.0, attempts=2))
    await world.put("i", value)
    letters = await first.dead_letters(first.triggers[0].key)
    (letter,) = await until_async(letters.list)
    assert repr(letter.change.data) == repr(value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attempts": 0}, "attempts must be a whole number, 1 or more"),
        ({"window": 1}, "window must be a whole number, 2 or more"),
        ({"partitions": 70_000}, "at most 65536"),
        ({"timeout": 0}, "timeout must be a number of seconds above 0"),
        ({"backoff": -1}, "backoff must be a number of seconds"),
        ({"start": "later"}, "start must be 'now' or 'beginning'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Trigger(**{"key": ("s",), "stream": DOCS, "handle": Seen(), **options})  # type: ignore[arg-type]
