"""Group commit: calls that share a transaction stay apart; cancelling and closing (A7, F3, F4)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from motia_core.errors import BackendError, Conflict, UpdateError
from motia_core.model import ABSENT, Write


async def test_calls_that_share_a_transaction_fail_alone(bench: Any, words: Any, plain: Any) -> None:
    adapter = await bench.open()
    watching = await bench.watch(adapter)
    await words.write(adapter, words.put("g", "text", {"t": "x"}))
    holder = plain()
    holder.execute("BEGIN IMMEDIATE")  # so that all that follows waits, and is drained together
    bad_operation = {"type": "increment", "path": "t", "by": 1}
    attempts = []
    for n in range(30):
        attempts.append(words.write(adapter, words.put("g", f"good{n}", {"n": n})))
        attempts.append(words.write(adapter, words.put("g", "text", {}, expect=ABSENT)))
        attempts.append(words.write(adapter, words.change("g", "text", bad_operation)))
        # A batch whose last write fails: the first ones must not be seen either.
        attempts.append(
            adapter.write(
                words.DOCS,
                [
                    words.put("g", "never", {}),
                    words.remove("g", "text"),
                    words.put("g", f"good{n}", {"n": -1}),
                    words.put("g", f"good{n}", {}, expect=ABSENT),
                ],
            )
        )
    tasks = [asyncio.create_task(attempt) for attempt in attempts]
    await asyncio.sleep(0)
    holder.execute("COMMIT")
    results: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result).__name__ for result in results[:4]] == ["WriteResult", "Conflict", "UpdateError", "Conflict"]
    assert [result.type for result in results[::4]] == ["create"] * 30
    assert all(isinstance(result, Conflict) for result in results[1::4] + results[3::4])
    assert all(isinstance(result, UpdateError) for result in results[2::4])
    await watching.until(lambda w: len(w.changes) >= 31)
    head = await adapter.head(words.DOCS)
    await watching.until(lambda w: w.position >= head)
    assert [(change.type, change.id) for change in watching.changes] == [
        ("create", "text"),
        *(("create", f"good{n}") for n in range(30)),
    ]
    assert {item.id: item.value for item in await adapter.list(words.DOCS, "g", after=None, limit=None)} == {
        "text": {"t": "x"},
        **{f"good{n}": {"n": n} for n in range(30)},
    }
    sequence = [int(change.position[:16], 16) for change in watching.changes]
    assert sequence == list(range(sequence[0], sequence[0] + 31))


async def test_shared_writes_of_one_item_see_each_other(bench: Any, words: Any) -> None:
    adapter = await bench.open()
    results: list[Any] = await asyncio.gather(
        words.write(adapter, words.put("g", "i", {"n": 0})),
        *(words.write(adapter, words.change("g", "i", {"type": "increment", "path": "n", "by": 1})) for _ in range(50)),
        words.write(adapter, words.remove("g", "i")),
        words.write(adapter, words.put("g", "i", {"n": 100}, expect=ABSENT)),
        return_exceptions=True,
    )
    assert [result.type for result in results] == ["create", *["update"] * 50, "delete", "create"]
    assert [result.old_value for result in results] == [None, *({"n": n} for n in range(51)), None]
    versions = [result.version for result in results]
    assert versions == sorted(set(versions))
    item = await adapter.get(words.DOCS, "g", "i")
    assert item is not None
    assert (item.value, item.version) == ({"n": 100}, versions[-1])


async def test_a_race_of_conditional_writes_has_one_winner(bench: Any, words: Any) -> None:
    one, two = await bench.open(), await bench.open()
    for n in range(20):
        attempts = (words.write((one, two)[k % 2], words.put("g", str(n), {"k": k}, expect=ABSENT)) for k in range(8))
        results = await asyncio.gather(*attempts, return_exceptions=True)
        assert sum(isinstance(result, Conflict) for result in results) == 7
    assert len(await one.list(words.DOCS, "g", after=None, limit=None)) == 20


async def test_a_batch_is_adjacent_and_all_or_nothing(bench: Any, words: Any) -> None:
    adapter = await bench.open()
    watching = await bench.watch(adapter)
    batches = [adapter.write(words.DOCS, [words.put("g", f"{b}-{n}", {}) for n in range(100)]) for b in range(10)]
    await asyncio.gather(*batches, *(words.write(adapter, words.put("single", str(n), {})) for n in range(50)))
    await watching.until(lambda w: len(w.changes) == 1050)
    order = [change.id.split("-")[0] for change in watching.changes if change.group_id == "g"]
    assert order == [str(b) for b in range(10) for _ in range(100)]
    groups = [change.group_id for change in watching.changes]
    for b in range(10):
        at = [c.id for c in watching.changes].index(f"{b}-0")
        assert groups[at : at + 100] == ["g"] * 100


async def test_a_value_sqlite_cannot_take_fails_alone(bench: Any, words: Any) -> None:
    """The core refuses such an id; should one come through, its neighbours are not to blame."""
    adapter = await bench.open()
    results: Any = await asyncio.gather(
        words.write(adapter, words.put("g", "good", {})),
        words.write(adapter, Write("set", "g", "\ud800", b"{}")),
        words.write(adapter, words.put("g", "fine", {})),
        return_exceptions=True,
    )
    good, bad, fine = results
    assert isinstance(bad, BackendError)
    assert (good.type, fine.type) == ("create", "create")
    assert len(await adapter.list(words.DOCS, "g", after=None, limit=None)) == 2


@pytest.mark.parametrize("rounds", [1, 3, 10])
async def test_cancelling_any_call_leaves_the_adapter_usable(bench: Any, words: Any, rounds: int) -> None:
    adapter = await bench.open()
    await words.write(adapter, words.put("g", "i", {"n": 0}))
    head = await adapter.head(words.DOCS)
    for n in range(rounds):
        calls = [
            adapter.write(words.DOCS, [words.put("g", "cancelled", {"n": n})]),
            adapter.get(words.DOCS, "g", "i"),
            adapter.list(words.DOCS, "g", after=None, limit=None),
            adapter.snapshot(words.DOCS, "g", None, limit=None),
            adapter.head(words.DOCS),
            anext(adapter.watch(words.DOCS, head)),
        ]
        tasks = [asyncio.ensure_future(call) for call in calls]
        for _ in range(n):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        result = await words.write(adapter, words.put("g", "i", {"n": n}))
        item = await adapter.get(words.DOCS, "g", "i")
        assert item is not None
        assert item.version == result.version
    watching = await bench.watch(adapter, head)
    await watching.until(lambda w: len([c for c in w.changes if c.id == "i"]) == rounds)


async def test_a_cancelled_write_that_waits_for_a_lock_is_not_done(bench: Any, words: Any, plain: Any) -> None:
    adapter = await bench.open(timeout=30.0)
    await words.write(adapter, words.put("g", "i", {}))
    holder = plain()
    holder.execute("BEGIN IMMEDIATE")
    first = asyncio.create_task(words.write(adapter, words.put("g", "first", {})))
    await asyncio.sleep(0.05)  # lets the writer thread take it; right either way
    second = asyncio.create_task(words.write(adapter, words.put("g", "second", {})))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    holder.execute("COMMIT")
    await first
    assert await adapter.get(words.DOCS, "g", "second") is None


async def test_close_finishes_what_was_asked_for_ends_watches_and_leaves_no_thread(bench: Any, words: Any) -> None:
    adapter = await bench.open()
    watches = [await bench.watch(adapter) for _ in range(3)]
    writes = [asyncio.create_task(words.write(adapter, words.put("g", str(n), {}))) for n in range(300)]
    reads = [asyncio.create_task(adapter.list(words.DOCS, "g", after=None, limit=None)) for _ in range(10)]
    await asyncio.sleep(0)
    await adapter.close()
    assert words.adapter_threads() == []
    assert len(await asyncio.gather(*writes)) == 300
    await asyncio.gather(*reads)
    for watching in watches:
        await watching.end()
    assert [path.name for path in bench.path.parent.iterdir()] == ["streams.db"]
    await adapter.open()
    assert len(await adapter.list(words.DOCS, "g", after=None, limit=None)) == 300


async def test_close_twice_at_once_and_cancelled_open(bench: Any, words: Any) -> None:
    adapter = bench.make()
    for steps in range(5):
        opening = asyncio.create_task(adapter.open())
        for _ in range(steps):
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        await asyncio.gather(adapter.close(), adapter.close())
        assert words.adapter_threads() == []
    await adapter.open()
    await words.write(adapter, words.put("g", "i", {}))


async def test_a_watch_that_is_closed_leaves_nothing_behind(bench: Any, words: Any) -> None:
    adapter = await bench.open()
    for _ in range(20):
        watch = adapter.watch(words.DOCS, await adapter.head(words.DOCS))
        await anext(watch)
        await watch.aclose()
    task = asyncio.current_task()
    assert asyncio.all_tasks() == {task}
    await words.write(adapter, words.put("g", "i", {}))
