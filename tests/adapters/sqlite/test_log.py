"""The log: retention and its mark, watches that fall behind, expiry (A10, B3, B4, B7)."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from motia_core.adapter import Retention
from motia_core.errors import PositionExpired, UnsupportedCapability
from motia_core.model import ABSENT, StreamSpec


async def eventually(words: Any, check: Any) -> None:
    """Wait until an awaitable condition holds."""
    async with asyncio.timeout(words.DEADLINE):
        while not await check():  # noqa: ASYNC110 (the state of a file has no event)
            await asyncio.sleep(0.01)


async def test_count_retention_keeps_the_newest_and_moves_the_floor(bench: Any, words: Any, plain: Any) -> None:
    adapter = await bench.open(retention=Retention(count=20))
    other = StreamSpec("other")
    await words.write(adapter, words.put("g", "kept", {}), other)
    start = await adapter.floor(words.DOCS)
    results = await asyncio.gather(*(words.write(adapter, words.put("g", str(n % 7), {"n": n})) for n in range(100)))
    expected = results[-21].position

    async def trimmed() -> bool:
        return bool(await adapter.floor(words.DOCS) == expected)

    await eventually(words, trimmed)
    assert plain().execute("SELECT count(*), min(seq) FROM motia_log WHERE stream != 1").fetchone()[0] == 20
    watching = await bench.watch(adapter, expected)
    assert [change.data["n"] for change in watching.changes] == list(range(80, 100))
    for position in (start, results[-22].position):
        error = await bench.refused(adapter, position).failed()
        assert isinstance(error, PositionExpired)
        assert error.floor == expected
    # Another stream keeps its own, and the items are untouched.
    assert len((await bench.watch(adapter, await adapter.floor(other), other)).changes) == 1
    assert len(await adapter.list(words.DOCS, "g", after=None, limit=None)) == 7


async def test_age_retention_trims_a_quiet_stream(bench: Any, words: Any) -> None:
    adapter = await bench.open(retention=Retention(count=None, age=0.2))
    result = await words.write(adapter, words.put("g", "i", {}))

    async def trimmed() -> bool:
        return bool(await adapter.floor(words.DOCS) == result.position)

    await eventually(words, trimmed)
    assert (await bench.watch(adapter, result.position)).changes == []


async def test_what_an_earlier_run_left_is_trimmed_to_the_new_retention(bench: Any, words: Any) -> None:
    adapter = await bench.open()
    results = [await words.write(adapter, words.put("g", "i", {"n": n})) for n in range(30)]
    await adapter.close()
    adapter = await bench.open(retention=Retention(count=5))

    async def trimmed() -> bool:
        return bool(await adapter.floor(words.DOCS) == results[-6].position)

    await eventually(words, trimmed)


async def test_watches_during_trims_see_all_or_are_told(bench: Any, words: Any) -> None:
    """Retention far smaller than what is written: a watch never skips in silence."""
    adapter = await bench.open(retention=Retention(count=100))
    reader = await bench.open(retention=Retention(count=None))
    done = asyncio.Event()

    async def follow() -> tuple[int, int]:
        seen = expired = 0
        position, expected = await reader.head(words.DOCS), None
        while not done.is_set():
            try:
                async with contextlib.aclosing(reader.watch(words.DOCS, position)) as watch:
                    async for batch in watch:
                        position = batch.position
                        for change in batch.changes:
                            number = change.data["n"]
                            assert expected is None or number == expected
                            expected = number + 1
                            seen += 1
                        if done.is_set():
                            break
                        if seen % 5 == 0:  # a slow one
                            await asyncio.sleep(0.05)
            except PositionExpired as error:
                expired += 1
                position, expected = error.floor or "no floor", None
        return seen, expired

    followers = [asyncio.create_task(follow()) for _ in range(3)]
    number = 0
    floor = await adapter.floor(words.DOCS)
    async with asyncio.timeout(60):
        while number < 20_000 or await adapter.floor(words.DOCS) == floor:
            await adapter.write(words.DOCS, [words.put("g", "i", {"n": number + i}) for i in range(200)])
            number += 200
    done.set()
    await words.write(adapter, words.put("g", "i", {"n": number}))
    for follower in followers:
        seen, _ = await follower
        assert seen


async def test_a_trim_past_a_live_watch_is_told(bench: Any, words: Any, plain: Any) -> None:
    """Somebody writes ten changes and trims five of them before the watch could look."""
    adapter = await bench.open()
    await words.write(adapter, words.put("g", "i", {}))
    watching = await bench.watch(adapter)
    other = plain()
    other.execute("BEGIN IMMEDIATE")
    (head,) = other.execute("SELECT seq FROM motia_clock").fetchone()
    for seq in range(head + 6, head + 11):
        other.execute(
            "INSERT INTO motia_log SELECT ?, stream, type, grp, id, json, ts + ?, NULL FROM motia_log WHERE seq = ?",
            (seq, seq - head, head),
        )
    other.execute("UPDATE motia_streams SET floor = ?", (head + 5,))
    other.execute("UPDATE motia_clock SET seq = ?, ts = ts + 10", (head + 10,))
    other.execute("COMMIT")
    error = await watching.failed()
    assert isinstance(error, PositionExpired)
    assert watching.changes == []
    assert len((await bench.watch(adapter, error.floor)).changes) == 5


async def test_a_watch_of_another_stream_that_joins_while_the_log_is_read(
    bench: Any, words: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from motia_adapters.sqlite import queries

    monkeypatch.setattr(queries, "PAGE", 2)
    one, two = await bench.open(), await bench.open()
    other = StreamSpec("other")
    done = False

    async def produce() -> None:
        number = 0
        while not done:
            await words.write(one, words.put("g", "i", {"n": number}))
            await words.write(one, words.put("g", "i", {"n": number}), other)
            number += 1

    producer = asyncio.create_task(produce())
    await bench.watch(two)
    position = await two.head(other)
    for _ in range(100):
        seen: list[int] = []
        async with contextlib.aclosing(two.watch(other, position)) as watch:
            position = await two.head(other)  # old enough for two pages when it is used
            async for batch in watch:
                seen += [change.data["n"] for change in batch.changes]
                if len(seen) > 20:
                    break
        assert seen == list(range(seen[0], seen[0] + len(seen)))
    done = True
    await producer


async def test_a_watch_that_stands_still_takes_bounded_memory_and_misses_nothing(bench: Any, words: Any) -> None:
    from motia_adapters.sqlite.tail import MAX_INBOX

    adapter = await bench.open()
    amount = 3 * MAX_INBOX
    async with contextlib.aclosing(adapter.watch(words.DOCS, await adapter.head(words.DOCS))) as watch:
        assert (await anext(watch)).changes == ()
        for start in range(0, amount, 512):
            await adapter.write(words.DOCS, [words.put("g", "i", {"n": start + i}) for i in range(512)])
        seen: list[int] = []
        async for batch in watch:
            assert len(batch.changes) <= MAX_INBOX
            seen += [change.data["n"] for change in batch.changes]
            if len(seen) >= amount:
                break
    assert seen == list(range(amount))


async def test_watches_that_begin_during_writes_miss_nothing(bench: Any, words: Any) -> None:
    one, two = await bench.open(), await bench.open()
    amount = 1_500
    watches: list[Any] = []

    async def produce(adapter: Any, group: str) -> None:
        for n in range(amount):
            await words.write(adapter, words.put(group, "i", {"n": n}))

    producers = [asyncio.create_task(produce(one, "one")), asyncio.create_task(produce(two, "two"))]
    start = await one.floor(words.DOCS)
    while not all(task.done() for task in producers):
        watches.append(await bench.watch((one, two)[len(watches) % 2], start))
        await asyncio.sleep(0.02)
    await asyncio.gather(*producers)
    assert len(watches) > 3
    for watching in watches:
        await watching.until(lambda w: len(w.changes) >= 2 * amount)
        assert [change.position for change in watching.changes] == [change.position for change in watches[0].changes]
        for group in ("one", "two"):
            numbers = [change.data["n"] for change in watching.changes if change.group_id == group]
            assert numbers == list(range(amount))


async def test_large_values_are_read_in_pages_of_bounded_size(bench: Any, words: Any) -> None:
    adapter = await bench.open()
    start = await adapter.head(words.DOCS)
    value = {"filler": "x" * 900_000}
    for n in range(12):
        await words.write(adapter, words.put("g", str(n), value))
    async with contextlib.aclosing(adapter.watch(words.DOCS, start)) as watch:
        sizes: list[int] = []
        async for batch in watch:
            sizes.append(len(batch.changes))
            assert all(change.data == value for change in batch.changes)
            if sum(sizes) == 12:
                break
    assert max(sizes) <= 5


async def test_an_expired_item_is_deleted_in_the_log_by_the_sweeper(bench: Any, words: Any) -> None:
    adapter = await bench.open()
    watching = await bench.watch(adapter)
    await words.write(adapter, words.put("g", "short", {"n": 1}, ttl=0.05))
    await words.write(adapter, words.put("g", "long", {"n": 2}, ttl=1000))
    await watching.until(lambda w: len(w.changes) == 3)
    assert [(change.type, change.id, change.data) for change in watching.changes] == [
        ("create", "short", {"n": 1}),
        ("create", "long", {"n": 2}),
        ("delete", "short", {"n": 1}),
    ]
    assert [(item.id, item.expires) for item in await adapter.list(words.DOCS, "g", after=None, limit=None)] == [
        ("long", True)
    ]


async def test_each_namespace_has_its_own_upkeep(bench: Any, words: Any, plain: Any) -> None:
    one = await bench.open(namespace="one", retention=Retention(count=1))
    two = await bench.open(namespace="two")
    for n in range(5):
        await words.write(two, words.put("two", str(n), {}, ttl=0.01))
    await two.close()
    for n in range(5):
        await words.write(one, words.put("one", str(n), {}, ttl=0.01))

    async def kept() -> bool:
        logged = plain().execute("SELECT grp FROM motia_log ORDER BY seq").fetchall()
        return bool(logged == [("two",)] * 5 + [("one",)])

    await eventually(words, kept)
    assert plain().execute("SELECT grp FROM motia_items").fetchall() == [("two",)] * 5


@pytest.mark.parametrize("kind", ["set", "update", "delete"])
async def test_writing_over_an_expired_item_logs_its_delete_first(
    bench: Any, words: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from motia_adapters.sqlite import upkeep

    monkeypatch.setattr(upkeep, "INTERVAL", 3600.0)  # no sweeper
    adapter = await bench.open()
    watching = await bench.watch(adapter)
    await words.write(adapter, words.put("g", "i", {"n": 1}, ttl=0.02))

    async def gone() -> bool:
        return await adapter.get(words.DOCS, "g", "i") is None

    await eventually(words, gone)
    assert await adapter.list_groups(words.DOCS, after=None, limit=None) == []
    assert await adapter.list(words.DOCS, "g", after=None, limit=None) == []
    assert (await adapter.snapshot(words.DOCS, "g", None, limit=None)).items == ()
    assert (await adapter.snapshot(words.DOCS, "g", "i", limit=None)).items == ()
    over = {
        "set": words.put("g", "i", {"n": 2}, expect=ABSENT),
        "update": words.change("g", "i", {"type": "increment", "path": "n", "by": 5}),
        "delete": words.remove("g", "i"),
    }[kind]
    (result,) = await adapter.write(words.DOCS, [over])
    assert (result is None) == (kind == "delete")
    if result is not None:
        assert (result.type, result.old_value) == ("create", None)
    await watching.until(lambda w: len(w.changes) == (2 if kind == "delete" else 3))
    kinds = [(change.type, change.data["n"]) for change in watching.changes]
    assert kinds == [
        ("create", 1),
        ("delete", 1),
        *{"set": [("create", 2)], "update": [("create", 5)], "delete": []}[kind],
    ]
    item = await adapter.get(words.DOCS, "g", "i")
    assert item is None or not item.expires


async def test_streams_without_a_log_cannot_be_watched_but_keep_versions(bench: Any, words: Any, plain: Any) -> None:
    adapter = await bench.open()
    hidden = StreamSpec("$state", hidden=True, log=False)
    head = await adapter.head(hidden)
    results = [await words.write(adapter, words.put("g", "i", {"n": n}, ttl=0.01), hidden) for n in range(3)]
    assert sorted({result.version for result in results}) == [result.version for result in results]
    assert await adapter.head(hidden) > head

    async def swept() -> bool:
        return bool(plain().execute("SELECT count(*) FROM motia_items").fetchone() == (0,))

    await eventually(words, swept)
    assert plain().execute("SELECT count(*) FROM motia_log").fetchone() == (0,)
    with pytest.raises(UnsupportedCapability):
        await anext(adapter.watch(hidden, head))
