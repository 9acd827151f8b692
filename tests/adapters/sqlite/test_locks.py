"""Another program that holds a transaction open (B2, F1)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from motia_core.errors import BackendUnavailable


async def test_writes_wait_for_a_held_transaction_and_keep_their_order(bench: Any, words: Any, plain: Any) -> None:
    one, two = await bench.open(timeout=30.0), await bench.open(timeout=30.0)
    await words.write(one, words.put("g", "before", {}))
    watching = await bench.watch(two)
    holder = plain()
    holder.execute("BEGIN IMMEDIATE")
    writes = [
        asyncio.create_task(words.write(adapter, words.put("g", f"{adapter is one}{n}", {"n": n})))
        for n in range(20)
        for adapter in (one, two)
    ]
    # Reads go on meanwhile, and nothing of what waits can be seen.
    for _ in range(5):
        assert [item.id for item in await two.list(words.DOCS, "g", after=None, limit=None)] == ["before"]
    assert not any(task.done() for task in writes)
    holder.execute("COMMIT")
    results = await asyncio.gather(*writes)
    await watching.until(lambda w: len(w.changes) == len(results))
    assert {result.position for result in results} == {change.position for change in watching.changes}
    for adapter in (True, False):
        numbers = [change.data["n"] for change in watching.changes if change.id.startswith(str(adapter))]
        assert numbers == list(range(20))


async def test_a_lock_that_is_held_too_long_fails_the_write_and_nothing_is_written(
    bench: Any, words: Any, plain: Any
) -> None:
    adapter = await bench.open(timeout=0.3)
    holder = plain()
    holder.execute("BEGIN IMMEDIATE")
    errors = await asyncio.wait_for(
        asyncio.gather(*(words.write(adapter, words.put("g", str(n), {})) for n in range(10)), return_exceptions=True),
        words.DEADLINE,
    )
    for error in errors:
        assert isinstance(error, BackendUnavailable)
        assert str(bench.path) in str(error)
        assert "timeout" in str(error)
        assert error.__cause__ is not None
    assert len(set(map(id, errors))) == 10
    holder.execute("ROLLBACK")
    assert await adapter.list_groups(words.DOCS, after=None, limit=None) == []
    assert (await words.write(adapter, words.put("g", "0", {}))).type == "create"


async def test_each_call_waits_for_its_own_timeout(bench: Any, words: Any, plain: Any) -> None:
    adapter = await bench.open(timeout=2.0)
    holder = plain()
    holder.execute("BEGIN IMMEDIATE")
    first, second, third = [
        asyncio.create_task(later(delay, words.write(adapter, words.put("g", str(delay), {}))))
        for delay in (0, 0.2, 1.7)
    ]
    for task in (first, second):
        with pytest.raises(BackendUnavailable):
            await asyncio.wait_for(task, words.DEADLINE)
    holder.execute("ROLLBACK")
    assert (await third).id == "1.7"


async def later(delay: float, call: Any) -> Any:
    await asyncio.sleep(delay)
    return await call


async def test_opening_a_locked_file_fails_in_time_and_works_later(bench: Any, words: Any, plain: Any) -> None:
    await (await bench.open()).close()
    holder = plain()
    holder.execute("BEGIN IMMEDIATE")
    adapter = bench.make(timeout=0.2)
    with pytest.raises(BackendUnavailable, match="another program"):
        await asyncio.wait_for(adapter.open(), words.DEADLINE)
    holder.execute("ROLLBACK")
    await adapter.open()
    await words.write(adapter, words.put("g", "i", {}))


async def test_a_reader_that_holds_its_snapshot_blocks_nobody(bench: Any, words: Any, plain: Any) -> None:
    adapter = await bench.open(timeout=1.0)
    await words.write(adapter, words.put("g", "i", {}))
    reader = plain()
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM motia_items").fetchone() == (1,)
    for n in range(50):
        await words.write(adapter, words.put("g", str(n), {"filler": "x" * 10_000}))
    assert reader.execute("SELECT count(*) FROM motia_items").fetchone() == (1,)
    assert len(await adapter.list(words.DOCS, "g", after=None, limit=None)) == 51
