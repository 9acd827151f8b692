"""Where triggers begin, and what becomes of them when processes and steps come and go (D1, D3, D5, D6)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from motia_core.adapter import Retention
from motia_core.errors import ConfigError, MotiaError
from motia_core.model import Batch, Change, StreamSpec, Write
from motia_core.triggers import RunInfo, Runner, TriggerStatus
from motia_core.triggers.records import CONTROL, WORKERS

from .conftest import DOCS, Seen, World, trigger, until, until_async

KEY = ("step", "stream", "docs", "0")


async def test_a_new_trigger_begins_now_and_now_is_before_start_returns(world: World) -> None:
    await world.put("old", {"n": 0})
    seen = Seen()
    await world.run(trigger(seen))
    await world.put("new", {"n": 1})
    await until(lambda: seen.runs)
    assert seen.values() == [1]


async def test_or_at_the_beginning(world: World) -> None:
    for n in range(5):
        await world.put("old", {"n": n})
    seen = Seen()
    await world.run(trigger(seen, start="beginning"))
    await until(lambda: seen.values() == [0, 1, 2, 3, 4])


async def test_a_restart_goes_on_where_it_stopped(world: World) -> None:
    seen = Seen()
    first = await world.run(trigger(seen))
    await world.put("i", {"n": 0})
    await until(lambda: seen.runs)
    await first.stop()
    await world.put("i", {"n": 1})
    await world.run(trigger(seen))
    await until(lambda: len(seen.runs) == 2)
    assert seen.values() == [0, 1]
    assert [info.epoch for info in seen.infos] == [1, 2]


async def test_D1_a_watch_that_a_defect_ends_is_begun_again(world: World) -> None:
    adapter: Any = await world.client()
    whole, defects = adapter.watch, [KeyError("a defect")]

    async def watch(stream: StreamSpec, after: str) -> AsyncGenerator[Batch, None]:
        async with aclosing(whole(stream, after)) as batches:
            async for batch in batches:
                if stream == DOCS and batch.changes and defects:
                    raise defects.pop()
                yield batch

    adapter.watch = watch
    seen = Seen()
    await world.run(trigger(seen), adapter=adapter)
    await world.put("i", {"n": 0})
    await until(lambda: seen.values() == [0])
    assert not defects
    assert "stream 'docs' cannot be read: KeyError('a defect')" in [report.message for report in world.reports]


async def test_a_stop_waits_for_handlers_and_hands_over_at_once(world: World) -> None:
    async def act(change: Change, info: RunInfo) -> None:
        await asyncio.sleep(0.3)

    seen = Seen()
    seen.act = act
    first = await world.run(trigger(seen))
    await world.put("i", {"n": 0})
    await until(lambda: seen.runs)
    await first.stop()
    (status,) = await first.status()
    assert {part.owner for part in status.partitions} == {None}
    assert status.workers == ()
    await world.run(trigger(seen))
    await world.put("i", {"n": 1})
    await until(lambda: len(seen.runs) == 2)
    assert seen.values() == [0, 1]


async def test_a_stop_cancels_what_does_not_end_and_counts_no_attempt(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("motia_core.triggers.runner.HANDLERS_MAY_END", 0.1)
    cancelled = False

    async def act(change: Change, info: RunInfo) -> None:
        nonlocal cancelled
        if not cancelled:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                cancelled = True
                raise

    seen = Seen()
    seen.act = act
    first = await world.run(trigger(seen))
    await world.put("i", {"n": 0})
    await until(lambda: seen.runs)
    await first.stop()
    assert cancelled
    await world.run(trigger(seen))
    await until(lambda: len(seen.runs) == 2)
    assert [attempt for _, _, attempt in seen.runs] == [1, 1]


async def test_what_failed_waits_across_a_restart_with_its_attempts(world: World) -> None:
    async def act(change: Change, info: RunInfo) -> None:
        raise ValueError("no")

    seen = Seen()
    seen.act = act
    first = await world.run(trigger(seen, backoff=1e6, backoff_cap=1e6))
    await world.put("i", {"n": 0})
    await world.put("i", {"n": 1})
    await until(lambda: seen.runs)
    await first.stop()
    second = await world.run(trigger(seen, backoff=0.0))
    letters = await second.dead_letters(second.triggers[0].key)
    await until_async(lambda: _count(letters, 2))
    assert [(value["n"], attempt) for _, value, attempt in seen.runs] == [
        (0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3),
    ]  # fmt: skip


async def _count(letters: object, count: int) -> bool:
    return len(await letters.list()) == count  # type: ignore[attr-defined]


async def test_three_workers_share_the_partitions_and_take_over_from_each_other(world: World) -> None:
    seen = Seen()
    runners = [await world.run(trigger(seen, partitions=7)) for _ in range(3)]

    async def shares() -> list[int] | None:
        found = sorted(len(runner.partitions()) for runner in runners)
        return found if sum(found) == 7 and found[0] == 2 else None

    assert await until_async(shares) == [2, 2, 3]
    for n in range(50):
        await world.put(f"i{n}", {"n": n})
    await until(lambda: len(seen.runs) == 50)

    await runners[0].abort()  # a crash: nothing is given back
    runners.pop(0)

    async def halves() -> bool:
        return sorted(len(runner.partitions()) for runner in runners) == [3, 4]

    for n in range(50, 100):
        await world.put(f"i{n}", {"n": n})
    await until_async(halves)
    await until(lambda: len(set(seen.values())) == 100)
    await runners[0].stop()
    await until(lambda: len(runners[1].partitions()) == 7)


async def test_changes_that_are_gone_are_reported_and_the_rest_is_handled(world: World) -> None:
    world.retention = Retention(count=10)
    writer = await world.client()
    seen = Seen()
    first = await world.run(trigger(seen))
    await world.put("i", {"n": 0})
    await until(lambda: seen.runs)
    await first.stop()
    for n in range(1, 60):
        await writer.write(DOCS, [Write("set", "g", "i", b'{"n":%d}' % n)])

    async def trimmed() -> bool:
        return await writer.floor(DOCS) > seen.infos[0].position

    await until_async(trimmed)
    await writer.write(DOCS, [Write("set", "g", "i", b'{"n":60}')])
    second = await world.run(trigger(seen))
    await until(lambda: 60 in seen.values())
    assert seen.values() == [0, *range(61 - len(seen.runs) + 1, 61)]
    assert "gap" in world.kinds()
    gaps = await (await second.dead_letters(second.triggers[0].key)).gaps()
    assert {gap.start < gap.end for gap in gaps} == {True}
    assert len(gaps) == 4


async def test_a_quiet_stream_raises_no_alarm(world: World) -> None:
    seen = Seen()
    first = await world.run(trigger(seen))
    await first.stop()
    await world.run(trigger(seen))
    await world.put("i", {"n": 1})
    await until(lambda: seen.runs)
    assert "gap" not in world.kinds()


async def test_a_step_that_is_renamed_keeps_its_place(world: World) -> None:
    seen = Seen()
    first = await world.run(trigger(seen, "old"))
    await world.put("i", {"n": 0})
    await until(lambda: seen.runs)
    await first.stop()
    await world.put("i", {"n": 1})
    second = await world.run(trigger(seen, "new", previous=("old", "stream", "docs", "0")))
    await until(lambda: len(seen.runs) == 2)
    assert [status.name for status in await second.status()] == ["new/stream/docs"]
    assert "unknown" not in world.kinds()


async def test_a_trigger_without_a_step_is_reported_kept_and_dropped_by_command(world: World) -> None:
    seen = Seen()
    first = await world.run(trigger(seen, "gone"))
    await first.stop()
    runner = await world.run(trigger(seen, "here"))
    assert [(report.kind, report.trigger) for report in world.reports] == [("unknown", "gone/stream/docs/0")]
    assert {status.name: status.declared for status in await runner.status()} == {
        "gone/stream/docs": False,
        "here/stream/docs": True,
    }
    with pytest.raises(ConfigError, match="has a step"):
        await runner.drop(runner.triggers[0].key)
    await runner.drop(first.triggers[0].key)
    assert [status.name for status in await runner.status()] == ["here/stream/docs"]
    assert len(await world.adapter.list_groups(CONTROL, after=None, limit=None)) == 3
    with pytest.raises(MotiaError, match="holds no trigger 'gone/stream/docs/0'"):
        await runner.drop(first.triggers[0].key)


@pytest.mark.parametrize(("before", "after"), [(4, 9), (9, 4), (3, 1)])
async def test_the_number_of_partitions_changes_under_way(world: World, before: int, after: int) -> None:
    async def act(change: Change, info: RunInfo) -> None:
        if change.id == "bad":
            raise ValueError("no")

    seen = Seen()
    seen.act = act
    runner = await world.run(trigger(seen, partitions=before, backoff=0.1, attempts=6))
    await world.put("bad", {"n": -1})
    for n in range(100):
        await world.put(f"i{n % 9}", {"n": n})
    await runner.resize(runner.triggers[0].key, after)
    for n in range(100, 200):
        await world.put(f"i{n % 9}", {"n": n})

    async def changed() -> TriggerStatus | None:
        (status,) = await runner.status()
        return status if len(status.partitions) == after and all(part.owner for part in status.partitions) else None

    status = await until_async(changed)
    assert {part.epoch for part in status.partitions} >= {2} or status.partitions[0].epoch > 1
    for n in range(200, 300):
        await world.put(f"i{n % 9}", {"n": n})
    await until(lambda: len(set(seen.values())) == 301)
    for item in range(9):
        assert seen.values(f"i{item}") == list(range(item, 300, 9))
    letters = await runner.dead_letters(runner.triggers[0].key)
    await until_async(letters.list)
    assert [attempt for id, _, attempt in seen.runs if id == "bad"] == [1, 2, 3, 4, 5, 6]
    with pytest.raises(MotiaError, match="from 1 to"):
        await runner.resize(runner.triggers[0].key, 0)


async def test_the_number_of_partitions_changes_though_an_owner_has_died(world: World) -> None:
    seen = Seen()
    runners = [await world.run(trigger(seen), lease=0.5) for _ in range(2)]
    await until(lambda: all(len(runner.partitions()) == 2 for runner in runners))
    await runners[0].resize(KEY, 3)
    await runners[1].abort()
    await until(lambda: len(runners[0].partitions()) == 3)
    for n in range(20):
        await world.put(f"i{n}", {"n": n})
    await until(lambda: sorted(seen.values()) == list(range(20)))


async def test_a_rename_takes_the_trigger_from_workers_that_know_the_old_name(world: World) -> None:
    """While a new version is rolled out: nothing is handled twice, and nothing begins anew."""
    old, new = Seen(), Seen()
    former = await world.run(trigger(old))
    await until(lambda: len(former.partitions()) == 4)
    for n in range(20):
        await world.put(f"i{n}", {"n": n})
    await until(lambda: len(old.runs) == 20)
    latter = await world.run(trigger(new, "new", previous=KEY))
    await until(lambda: len(latter.partitions()) == 4)
    for n in range(20, 40):
        await world.put(f"i{n}", {"n": n})
    await until(lambda: len(old.runs) + len(new.runs) >= 40)
    assert sorted(old.values() + new.values()) == list(range(40))
    assert not former.partitions()
    assert [status.key[0] for status in await latter.status()] == ["new"]
    await former.stop()


async def test_what_a_worker_runs_is_not_dropped(world: World) -> None:
    seen = Seen()
    runner = await world.run(trigger(seen), lease=0.5)
    stranger = Runner(await world.client(), [], lease=0.5)
    with pytest.raises(ConfigError, match="is run by worker w"):
        await stranger.drop(KEY)
    await runner.abort()  # its record stays, as after a crash
    await stranger.drop(KEY)
    assert not await stranger.status()


async def test_a_worker_that_was_declared_dead_drops_everything_and_begins_a_new_life(world: World) -> None:
    async def act(change: Change, info: RunInfo) -> None:
        if info.epoch == 1:
            await asyncio.sleep(3600)

    seen = Seen()
    seen.act = act
    runner = await world.run(trigger(seen))
    await world.put("i", {"n": 0})
    await until(lambda: seen.runs)
    me = runner.lease.id
    await world.adapter.write(CONTROL, [Write("delete", WORKERS, me)])
    await until(lambda: len(seen.runs) == 2)
    assert runner.lease.id != me
    assert "fenced" in world.kinds()
    assert [info.epoch for info in seen.infos] == [1, 2]


async def test_two_that_believe_they_own_a_partition_the_older_is_fenced(world: World) -> None:
    """RELIABILITY row 23: its checkpoint is refused."""
    seen, usurper = Seen(), Seen()
    older = await world.run(trigger(seen, partitions=1), lease=1_000.0)  # beats every 200 s: it hears nothing
    await world.put("i", {"n": 0})
    await until(lambda: seen.runs)
    await until(lambda: not older.partitions()[0].dirty)
    await world.adapter.write(CONTROL, [Write("delete", WORKERS, older.lease.id)])
    younger = await world.run(trigger(usurper, partitions=1))
    await until(lambda: len(younger.partitions()) == 1)
    await world.put("i", {"n": 1})
    await until(lambda: usurper.values() == [1])
    await until(lambda: not older.partitions())
    assert "fenced" in world.kinds()
    await world.put("i", {"n": 2})
    await until(lambda: usurper.values() == [1, 2])
    (status,) = await younger.status()
    assert status.partitions[0].epoch == 2
    assert seen.values() in ([0], [0, 1])


async def test_a_trigger_that_another_worker_runs_is_no_stranger(world: World) -> None:
    await world.run(trigger(Seen(), "one"))
    await world.run(trigger(Seen(), "two"))
    assert world.reports == []


async def test_two_triggers_with_one_key_are_refused() -> None:
    from motia_core.adapter import StorageSettings
    from motia_core.memory import MemoryAdapter

    with pytest.raises(ConfigError, match="two triggers have the key"):
        Runner(MemoryAdapter(StorageSettings("default")), [trigger(Seen()), trigger(Seen())])


@pytest.mark.parametrize("world", ["memory"], indirect=True)
async def test_a_store_that_was_emptied_is_reported_and_goes_on(world: World) -> None:
    seen = Seen()
    runner = await world.run(trigger(seen))
    await world.put("i", {"n": 0})
    await until(lambda: seen.runs)
    world.store.wipe()
    await world.put("i", {"n": 1})
    await until(lambda: seen.values() == [0, 1])
    assert "reset" in world.kinds()
    await runner.stop()


async def test_nothing_is_left_behind(world: World) -> None:
    before = asyncio.all_tasks()
    seen = Seen()
    runner = await world.run(trigger(seen), adapter=world.adapter)
    await world.put("i", {"n": 0})
    await until(lambda: seen.runs)
    await runner.stop()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    parked = [group for group in await world.adapter.list_groups(CONTROL, after=None, limit=None) if "parked" in group]
    assert parked == []
