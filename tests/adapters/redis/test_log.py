"""The log and large groups: retention by age and count, snapshots of many pages, other processes' writes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from motia_adapters.redis import reads
from motia_adapters.redis.keys import keys_of

from motia_core.adapter import Retention
from motia_core.errors import PositionExpired
from motia_core.model import Write

KEYS = keys_of("test", "docs")


async def test_old_entries_go_by_age_and_the_floor_goes_with_them(lab: Any) -> None:
    server = await lab.serve()
    adapter = await lab.connect(server.port, retention=Retention(count=None, age=0.5))
    old = [(await lab.put(adapter, f"{n}", {"n": n})).position for n in range(250)]
    await server.restart()  # the rest is of another epoch

    async def trimmed() -> bool:
        await lab.put(adapter, "later", {})
        return bool(await adapter.floor(lab.docs) >= old[-1])

    await lab.eventually(trimmed, "the log to be trimmed")
    with pytest.raises(PositionExpired) as caught:
        await lab.log(adapter, old[-2])
    assert caught.value.floor is not None
    floor = await adapter.floor(lab.docs)
    assert all(change.position > floor for change in await lab.log(adapter, floor))

    async def empty() -> bool:
        return bool(await adapter.floor(lab.docs) == await adapter.head(lab.docs))

    await lab.eventually(empty, "a quiet log to be empty")
    assert await lab.log(adapter, await adapter.floor(lab.docs)) == []
    after = await lab.put(adapter, "after", {})
    assert await adapter.head(lab.docs) == after.position


@pytest.mark.parametrize(("count", "age", "kept"), [(7, None, 7), (1, None, 1), (None, 1e-6, 0), (None, 3600, 50)])
async def test_trimming_keeps_exactly_what_retention_covers(lab: Any, count: Any, age: Any, kept: int) -> None:
    server = await lab.serve()
    plain = await lab.connect(server.port, retention=Retention(count=None))
    positions = [(await lab.put(plain, "x", {"n": n})).position for n in range(50)]
    await lab.connect(server.port, retention=Retention(count=count, age=age))

    async def trimmed() -> bool:
        return bool(await lab.ask(server.port, "XLEN", KEYS.log) == kept)

    await lab.eventually(trimmed, f"{kept} entries to be left")
    floor = await plain.floor(lab.docs)
    assert [change.position for change in await lab.log(plain, floor)] == positions[50 - kept :]


async def test_a_snapshot_of_many_pages_is_true_to_one_position(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "PAGE_ITEMS", 50)
    server = await lab.serve()
    adapter, other = await lab.connect(server.port), await lab.connect(server.port)
    start = await adapter.head(lab.docs)
    for first in range(0, 600, 100):
        await adapter.write(lab.docs, [Write("set", "g", f"{n:04}", b'{"n":0}') for n in range(first, first + 100)])
    stop = False

    async def write(seed: int) -> None:
        turn = seed
        while not stop:
            turn = (turn * 7 + 13) % 600
            await lab.put(other, f"{turn:04}", {"n": turn})
            await other.write(lab.docs, [Write("delete", "g", f"{(turn * 3) % 600:04}")])

    writers = [asyncio.create_task(write(seed)) for seed in range(3)]
    snapshots = [await adapter.snapshot(lab.docs, "g", None, limit=None) for _ in range(15)]
    limited = await adapter.snapshot(lab.docs, "g", None, limit=120)
    stop = True
    await asyncio.gather(*writers)
    log = await lab.log(adapter, start)
    for snapshot in [*snapshots, limited]:
        state: dict[str, Any] = {}
        for change in log:
            if change.position <= snapshot.position:
                state.pop(str(change.id), None)
                if change.type != "delete":
                    state[str(change.id)] = (change.json, change.version)
        found = {item.id: (item.json, item.version) for item in snapshot.items}
        expected = dict(sorted(state.items())[: len(found) if snapshot is limited else None])
        assert found == expected
        assert [item.id for item in snapshot.items] == sorted(found)
    assert len(limited.items) == 120
    assert len({snapshot.position for snapshot in snapshots}) > 1, "nothing was written meanwhile"


async def test_large_values_make_small_pages(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "PAGE_BYTES", 100_000)
    server = await lab.serve()
    adapter = await lab.connect(server.port)
    start = await adapter.head(lab.docs)
    for number in range(30):
        await lab.put(adapter, f"{number:02}", {"text": "x" * 20_000})
    assert len(await lab.log(adapter, start)) == 30
    snapshot = await adapter.snapshot(lab.docs, "g", None, limit=None)
    assert [item.id for item in snapshot.items] == [f"{number:02}" for number in range(30)]
    assert len(await adapter.list(lab.docs, "g", after="04", limit=None)) == 25


async def test_a_watch_goes_on_when_announcements_fail(lab: Any) -> None:
    server = await lab.serve()
    adapter = await lab.connect(server.port)
    watch = adapter.watch(lab.docs, await adapter.head(lab.docs))
    await anext(watch)
    for number in range(3):
        await lab.ask(server.port, "CLIENT", "KILL", "TYPE", "pubsub")
        written = await lab.put(adapter, "x", {"n": number})
        async with asyncio.timeout(20):
            assert (await anext(watch)).position == written.position
    await watch.aclose()


async def test_a_process_that_lost_every_race_gives_up_with_a_conflict(lab: Any) -> None:
    """Its rival changes the item before each of its attempts."""
    from motia_adapters.redis.capabilities import UPDATE_ATTEMPTS

    from motia_core.errors import Conflict

    server = await lab.serve()
    adapter, rival = await lab.connect(server.port), await lab.connect(server.port)
    await lab.put(adapter, "x", {"n": 0})
    writer = adapter._of(lab.docs).writer
    call, attempts = writer._call, 0

    async def raced(*arguments: Any) -> Any:
        nonlocal attempts
        if arguments[0]:
            attempts += 1
            await lab.put(rival, "x", {"n": attempts})
        return await call(*arguments)

    writer._call = raced
    with pytest.raises(Conflict, match=f"lost {UPDATE_ATTEMPTS} races"):
        await adapter.write(lab.docs, [lab.increment("x")])
    assert attempts == UPDATE_ATTEMPTS
    assert (await rival.get(lab.docs, "g", "x")).value == {"n": UPDATE_ATTEMPTS}
