"""Which positions are good after a restart, a restore, a replaced file (B3, B4)."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from motia_core.errors import BackendUnavailable, Conflict, PositionExpired


async def test_mere_restarts_expire_nothing(bench: Any, words: Any) -> None:
    positions, versions = [], {}
    for run in range(5):
        adapter = await bench.open()
        if run == 3:  # a run that writes nothing
            await adapter.close()
            continue
        positions.append(await adapter.head(words.DOCS))
        result = await words.write(adapter, words.put("g", f"i{run}", {"run": run}))
        positions.append(result.position)
        versions[f"i{run}"] = result.version
        await adapter.close()
    adapter = await bench.open()
    assert positions == sorted(positions)
    for at, position in enumerate(positions):
        watching = await bench.watch(adapter, position)
        assert [change.id for change in watching.changes] == [f"i{run}" for run in (0, 1, 2, 4)][(at + 1) // 2 :]
    for item in await adapter.list(words.DOCS, "g", after=None, limit=None):
        assert item.version == versions[item.id]
        await words.write(adapter, words.put("g", item.id, {}, expect=item.version))


async def test_a_restored_copy_refuses_the_lost_history_even_when_written_past_it(bench: Any, words: Any) -> None:
    copy = bench.path.with_name("copy.db")
    adapter = await bench.open()
    kept = await words.write(adapter, words.put("g", "kept", {}))
    await adapter.close()
    shutil.copy(bench.path, copy)
    await adapter.open()
    lost = [await words.write(adapter, words.put("g", "lost", {"n": n})) for n in range(5)]
    await adapter.close()
    shutil.copy(copy, bench.path)

    adapter = await bench.open()
    assert isinstance(await bench.refused(adapter, lost[-1].position).failed(), PositionExpired)
    again = [await words.write(adapter, words.put("g", "lost", {"n": n})) for n in range(10)]
    for result in lost:
        error = await bench.refused(adapter, result.position).failed()
        assert isinstance(error, PositionExpired)
        assert error.floor == await adapter.floor(words.DOCS)
        with pytest.raises(Conflict):
            await words.write(adapter, words.put("g", "lost", {}, expect=result.version))
    watching = await bench.watch(adapter, kept.position)
    assert [change.position for change in watching.changes] == [result.position for result in again]
    assert not {result.version for result in again} & {result.version for result in lost}


async def test_a_copy_restored_into_the_open_file_is_noticed(bench: Any, words: Any, plain: Any) -> None:
    adapter = await bench.open()
    kept = await words.write(adapter, words.put("g", "kept", {}))
    older = sqlite3.connect(":memory:")
    plain().backup(older)
    lost = [await words.write(adapter, words.put("g", "lost", {"n": n})) for n in range(5)]
    watching = await bench.watch(adapter)
    older.backup(plain())
    older.close()
    assert isinstance(await watching.failed(), PositionExpired)
    for n in range(10):
        await words.write(adapter, words.put("g", f"new{n}", {}))
    for result in lost:
        assert isinstance(await bench.refused(adapter, result.position).failed(), PositionExpired)
    watching = await bench.watch(adapter, kept.position)
    assert [change.id for change in watching.changes] == [f"new{n}" for n in range(10)]


async def test_a_copy_restored_and_written_past_before_anybody_looked(bench: Any, words: Any, plain: Any) -> None:
    adapter = await bench.open()
    await words.write(adapter, words.put("g", "kept", {}))
    older = sqlite3.connect(":memory:")
    plain().backup(older)
    lost = await words.write(adapter, words.put("g", "lost", {}))
    older.backup(plain())
    older.close()
    # Not watched, so the first to notice is the writer.
    for n in range(3):
        await words.write(adapter, words.put("g", f"new{n}", {}))
    assert isinstance(await bench.refused(adapter, lost.position).failed(), PositionExpired)


async def test_a_replaced_file_is_used_and_its_watches_expire(bench: Any, words: Any, plain: Any) -> None:
    other = await bench.open(bench.path.with_name("other.db"))
    await words.write(other, words.put("g", "other", {"file": "other"}))
    await other.close()
    adapter = await bench.open()
    first = await words.write(adapter, words.put("g", "first", {}))
    watching = await bench.watch(adapter)
    os.replace(bench.path.with_name("other.db"), bench.path)

    assert isinstance(await watching.failed(), PositionExpired)
    item = await adapter.get(words.DOCS, "g", "other")
    assert item is not None
    assert item.value == {"file": "other"}
    assert await adapter.get(words.DOCS, "g", "first") is None
    await words.write(adapter, words.put("g", "second", {}))
    assert plain().execute("SELECT id FROM motia_items ORDER BY id").fetchall() == [("other",), ("second",)]
    assert isinstance(await bench.refused(adapter, first.position).failed(), PositionExpired)


async def test_a_file_replaced_while_a_write_waits_for_a_lock(bench: Any, words: Any, plain: Any) -> None:
    other = await bench.open(bench.path.with_name("other.db"))
    await words.write(other, words.put("g", "other", {}))
    await other.close()
    adapter = await bench.open(timeout=30.0)
    holder = plain()
    holder.execute("BEGIN IMMEDIATE")
    waiting = asyncio.create_task(words.write(adapter, words.put("g", "i", {})))
    await asyncio.sleep(0.1)  # lets the writer thread begin to wait; right either way
    os.replace(bench.path.with_name("other.db"), bench.path)
    holder.execute("ROLLBACK")
    await waiting
    assert plain().execute("SELECT id FROM motia_items ORDER BY id").fetchall() == [("i",), ("other",)]


@pytest.mark.parametrize("folder", [False, True])
async def test_a_removed_file_is_made_anew(bench: Any, words: Any, tmp_path: Path, folder: bool) -> None:
    path = tmp_path / "data" / "deep" / "streams.db"
    adapter = await bench.open(path)
    lost = await words.write(adapter, words.put("g", "i", {}))
    watching = await bench.watch(adapter)
    if folder:
        shutil.rmtree(tmp_path / "data")
    else:
        path.unlink()
    result = await words.write(adapter, words.put("g", "j", {}))
    assert path.exists()
    assert [item.id for item in await adapter.list(words.DOCS, "g", after=None, limit=None)] == ["j"]
    assert isinstance(await watching.failed(), PositionExpired)
    assert isinstance(await bench.refused(adapter, lost.position).failed(), PositionExpired)
    watching = await bench.watch(adapter, await adapter.floor(words.DOCS))
    assert [change.position for change in watching.changes] == [result.position]


async def test_a_file_replaced_by_rubbish_fails_until_it_is_gone(bench: Any, words: Any) -> None:
    adapter = await bench.open(timeout=1.0)
    await words.write(adapter, words.put("g", "i", {}))
    rubbish = bench.path.with_name("rubbish")
    rubbish.write_bytes(b"no database " * 1000)
    os.replace(rubbish, bench.path)
    for attempt in (adapter.get(words.DOCS, "g", "i"), words.write(adapter, words.put("g", "i", {}))):
        with pytest.raises(Exception, match=r"streams\.db") as caught:
            await attempt
        assert type(caught.value).__name__ in ("BackendError", "BackendUnavailable")
    bench.path.unlink()
    assert (await words.write(adapter, words.put("g", "i", {}))).type == "create"


@pytest.mark.parametrize(
    "position", ["", "0", "rubbish", "0000000000000001", "0000000000000001-000000000000", "f" * 16 + "-" + "f" * 12]
)
async def test_positions_of_no_history_are_refused(bench: Any, words: Any, position: str) -> None:
    adapter = await bench.open()
    await words.write(adapter, words.put("g", "i", {}))
    error = await bench.refused(adapter, position).failed()
    assert isinstance(error, PositionExpired)
    assert error.position == position
    assert error.floor == await adapter.floor(words.DOCS)


async def test_a_position_ahead_of_the_store_is_refused(bench: Any, words: Any) -> None:
    adapter = await bench.open()
    result = await words.write(adapter, words.put("g", "i", {}))
    ahead = f"{int(result.position[:16], 16) + 1:016x}{result.position[16:]}"
    assert isinstance(await bench.refused(adapter, ahead).failed(), PositionExpired)


async def test_timestamps_and_positions_rise_over_restarts_and_a_clock_set_back(
    bench: Any, words: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    now = time.time()
    results = []
    for clock in (now, now - 3600, now + 3600, now - 7200):
        monkeypatch.setattr(time, "time", lambda clock=clock: clock)
        adapter = await bench.open()
        results += [await words.write(adapter, words.put("g", "i", {"n": n})) for n in range(3)]
        snapshot = await adapter.snapshot(words.DOCS, "g", None, limit=None)
        assert snapshot.timestamp == results[-1].timestamp
        await adapter.close()
    times = [result.timestamp for result in results]
    assert times == sorted(set(times))
    versions = [result.version for result in results]
    assert versions == sorted(set(versions))


async def test_calls_to_a_closed_adapter_say_so(bench: Any, words: Any) -> None:
    adapter = bench.make()
    await adapter.close()
    for _ in range(2):
        for attempt in (
            adapter.get(words.DOCS, "g", "i"),
            adapter.head(words.DOCS),
            adapter.write(words.DOCS, [words.put("g", "i", {})]),
            anext(adapter.watch(words.DOCS, "")),
        ):
            with pytest.raises(BackendUnavailable, match="not open"):
                await asyncio.wait_for(attempt, words.DEADLINE)
        await adapter.open()
        await adapter.open()
        await adapter.close()
        await adapter.close()
