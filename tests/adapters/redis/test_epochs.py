"""Lost, emptied, replaced and failed-over servers: what is lost is refused, what is kept goes on."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
from motia_adapters.redis.history import parse_position
from motia_adapters.redis.keys import keys_of

from motia_core.errors import PositionExpired

KEYS = keys_of("test", "docs")
FAST = ("--repl-diskless-sync-delay", "0", "--shutdown-timeout", "0")


async def _expired(lab: Any, adapter: Any, positions: list[str]) -> None:
    for position in positions:
        with pytest.raises(PositionExpired) as caught:
            await lab.log(adapter, position)
        assert caught.value.position == position
        assert caught.value.floor is not None


async def _write(lab: Any, adapter: Any, numbers: range) -> list[str]:
    return [(await lab.put(adapter, "x", {"n": number})).position for number in numbers]


@pytest.mark.parametrize("how", ["FLUSHALL", "DEL all", "DEL meta", "DEL log", "wipe"])
async def test_what_is_gone_is_refused_by_adapters_that_saw_it(lab: Any, how: str) -> None:
    server = await lab.serve()
    adapter = await lab.connect(server.port)
    old = [await adapter.head(lab.docs), *await _write(lab, adapter, range(3))]
    if how == "FLUSHALL":
        await lab.ask(server.port, "FLUSHALL")
    elif how == "DEL all":
        await lab.ask(server.port, "DEL", *await lab.ask(server.port, "KEYS", f"{KEYS.prefix}*"))
    elif how == "DEL meta":
        await lab.ask(server.port, "DEL", KEYS.meta)
    elif how == "DEL log":
        await lab.ask(server.port, "DEL", KEYS.log)
    else:
        await server.wipe()

    async def back() -> bool:
        return bool(await adapter.head(lab.docs))

    await lab.eventually(back, "the server to answer")
    if how == "DEL log":  # the last position has lost nothing
        assert await lab.log(adapter, old.pop()) == []
    await _expired(lab, adapter, old)
    new = await _write(lab, adapter, range(9))
    assert min(new) > max(old)
    await _expired(lab, adapter, old)
    assert [change.position for change in await lab.log(adapter, new[0])] == new[1:]


async def test_a_restart_begins_an_epoch_and_expires_nothing(lab: Any) -> None:
    server = await lab.serve()
    adapter = await lab.connect(server.port)
    positions = [await adapter.head(lab.docs)]
    for turn in range(3):
        await server.restart()

        async def written(turn: int = turn) -> bool:
            positions.append((await lab.put(adapter, "x", {"n": turn})).position)
            return True

        await lab.eventually(written, "a write after the restart")
    places = [parse_position(position) for position in positions]
    assert len({place.epoch for place in places if place}) == 4
    assert [place.seq for place in places if place] == [0, 1, 2, 3]
    for at, position in enumerate(positions):
        assert [change.position for change in await lab.log(adapter, position)] == positions[at + 1 :]


async def test_an_older_dump_refuses_what_came_after_it(lab: Any, tmp_path: Path) -> None:
    server = await lab.serve()
    adapter = await lab.connect(server.port)
    kept = await _write(lab, adapter, range(3))
    await server.kill()
    shutil.copytree(server.folder, tmp_path / "copy")
    await server.start()

    async def back() -> bool:
        return bool(await adapter.head(lab.docs))

    await lab.eventually(back, "the server to answer")
    lost = await _write(lab, adapter, range(3, 6))
    await server.kill()
    shutil.rmtree(server.folder)
    shutil.copytree(tmp_path / "copy", server.folder)
    await server.start()
    await lab.eventually(back, "the older server to answer")
    await _expired(lab, adapter, lost)
    new = await _write(lab, adapter, range(10, 16))
    await _expired(lab, adapter, lost)
    assert not {*lost} & {*new}
    for at, position in enumerate(kept):
        assert [change.position for change in await lab.log(adapter, position)] == [*kept[at + 1 :], *new]


async def test_a_failover_that_loses_writes_refuses_them(lab: Any) -> None:
    primary, replica = await lab.serve(*FAST), await lab.serve(*FAST)
    adapter = await lab.connect(primary.port)
    kept = await _write(lab, adapter, range(3))
    await lab.ask(replica.port, "REPLICAOF", "127.0.0.1", primary.port)

    async def synced() -> bool:
        found = await lab.ask(replica.port, "HGET", KEYS.meta, "s")
        return bool(found == b"3")

    await lab.eventually(synced, "the replica to have it all")
    await lab.ask(replica.port, "REPLICAOF", "NO", "ONE")
    lost = await _write(lab, adapter, range(3, 6))  # the old primary did not hear of it
    await primary.kill()
    after = await lab.connect(replica.port)
    await _expired(lab, after, lost)
    new = await _write(lab, after, range(10, 16))
    await _expired(lab, after, lost)
    assert not {*lost} & {*new}
    for at, position in enumerate(kept):
        assert [change.position for change in await lab.log(after, position)] == [*kept[at + 1 :], *new]


async def test_a_primary_that_failed_back_under_an_open_connection_is_noticed(lab: Any) -> None:
    """Its run id is the same as ever; only the replication id tells."""
    primary, other = await lab.serve(*FAST), await lab.serve(*FAST)
    adapter = await lab.connect(primary.port)
    kept = await _write(lab, adapter, range(2))
    await lab.ask(other.port, "REPLICAOF", "127.0.0.1", primary.port)

    async def holds(port: int, number: bytes) -> bool:
        link = (await lab.ask(port, "INFO", "replication")).decode()
        return "master_link_status:up" in link and await lab.ask(port, "HGET", KEYS.meta, "s") == number

    await lab.eventually(lambda: holds(other.port, b"2"), "the replica to have it all")
    await lab.ask(other.port, "REPLICAOF", "NO", "ONE")
    lost = await _write(lab, adapter, range(2, 5))
    await lab.ask(primary.port, "REPLICAOF", "127.0.0.1", other.port)
    await lab.eventually(lambda: holds(primary.port, b"2"), "the old primary to follow")
    await lab.ask(primary.port, "REPLICAOF", "NO", "ONE")
    new = await _write(lab, adapter, range(10, 14))
    await _expired(lab, adapter, lost)
    assert not {*lost} & {*new}
    assert [change.position for change in await lab.log(adapter, kept[0])] == [kept[1], *new]


async def test_a_watch_that_waits_is_told_that_its_history_is_gone(lab: Any) -> None:
    server = await lab.serve()
    adapter = await lab.connect(server.port)
    watch = adapter.watch(lab.docs, (await _write(lab, adapter, range(1)))[0])
    assert not (await anext(watch)).changes
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    await lab.ask(server.port, "FLUSHALL")  # nobody rings
    async with asyncio.timeout(20):
        with pytest.raises(PositionExpired):
            await waiting
