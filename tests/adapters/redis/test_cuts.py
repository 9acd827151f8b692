"""RELIABILITY in short: restarts and cut connections under load, trims and wipes, racing creates."""

from __future__ import annotations

import asyncio
from typing import Any

from motia_core.adapter import Retention
from motia_core.errors import BackendError, OutcomeUnknown
from motia_core.hub import Hub
from motia_core.model import Write
from motia_core.streams import Stream
from motia_core.testing.harness import Reader
from motia_core.testing.history import check_history
from motia_core.testing.proxy import Proxy

WRITERS = 6


class Load:
    """Writers that note which of their sets were acknowledged; an outage is tried again."""

    def __init__(self, lab: Any, adapter: Any) -> None:
        self.acknowledged: list[str] = []
        self.unknown = 0
        self._stop = False
        self._tasks = [asyncio.create_task(self._write(lab, adapter, number)) for number in range(WRITERS)]

    async def _write(self, lab: Any, adapter: Any, number: int) -> None:
        turn = 0
        while not self._stop:
            turn += 1
            try:
                result = await lab.put(adapter, f"{number}", {"turn": turn})
                self.acknowledged.append(result.position)
            except OutcomeUnknown:
                self.unknown += 1
            except BackendError:
                await asyncio.sleep(0.005)

    async def count(self, more: int) -> None:
        """Wait for so many more acknowledged sets."""
        goal = len(self.acknowledged) + more
        async with asyncio.timeout(20):
            while len(self.acknowledged) < goal:  # noqa: ASYNC110 (nobody rings)
                await asyncio.sleep(0.005)

    async def stop(self) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)


async def _judge(lab: Any, adapter: Any, start: str, load: Load, entries: list[Any]) -> None:
    await load.stop()
    log = await lab.log(adapter, start)
    stored = await adapter.snapshot(lab.docs, "g", None, limit=None)
    final = {("g", item.id): item.value for item in stored.items}
    verdict = check_history(log, final)
    assert verdict, verdict
    positions = [change.position for change in log]
    assert set(load.acknowledged) <= set(positions), "an acknowledged set was lost"
    assert len(positions) <= len(load.acknowledged) + load.unknown, "a set was applied twice"
    assert [entry.position for entry in entries] == positions, "the subscriber missed, repeated or reordered something"


async def _subscribe(lab: Any, adapter: Any) -> tuple[Hub, Reader]:
    hub = Hub(adapter, lab.docs)
    reader = Reader(Stream(lab.docs, adapter, hub).watch("g"))
    await reader.count(1)
    return hub, reader


async def _told(reader: Reader, position: str) -> list[Any]:
    await reader.until(lambda seen: seen[-1].position >= position)
    await reader.stop()
    assert [entry.type for entry in reader.seen].count("sync") == 1, "a resync was not called for"
    return reader.seen[1:]


async def _reaches(reader: Reader, position: str) -> None:
    """Wait until the subscriber has been told why its history is gone, and is past a position."""
    await reader.until(lambda seen: seen[-1].position >= position and _resynced(seen))


def _resynced(seen: list[Any]) -> bool:
    return any(entry.type == "sync" for entry in seen[1:])


async def test_restarts_lose_nothing_that_was_acknowledged(lab: Any) -> None:
    server = await lab.serve()
    adapter = await lab.connect(server.port)
    start = await adapter.head(lab.docs)
    hub, reader = await _subscribe(lab, adapter)
    load = Load(lab, adapter)
    for turn in range(5):
        await load.count(100)
        if turn % 2:
            await server.kill()
            await server.start()
        else:
            await server.restart()
    await load.count(100)
    await load.stop()
    await _judge(lab, adapter, start, load, await _told(reader, await adapter.head(lab.docs)))
    await hub.close()


async def test_cut_connections_lose_nothing_that_was_acknowledged(lab: Any) -> None:
    server = await lab.serve()
    async with Proxy(server.port) as proxy:
        adapter = await lab.connect(proxy.port, timeout=0.5)
        start = await adapter.head(lab.docs)
        hub, reader = await _subscribe(lab, adapter)
        load = Load(lab, adapter)
        for turn in range(20):
            await load.count(20)
            if turn % 10 == 9:
                proxy.mode = "hole"
                await asyncio.sleep(0.6)
                proxy.mode = "pass"
            proxy.cut()
        await load.count(50)
        await load.stop()
        await _judge(lab, adapter, start, load, await _told(reader, await adapter.head(lab.docs)))
        await hub.close()
        await adapter.close()


async def test_a_half_open_connection_is_noticed(lab: Any) -> None:
    server = await lab.serve()
    async with Proxy(server.port) as proxy, asyncio.timeout(15):
        adapter, direct = await lab.connect(proxy.port, timeout=1.0), await lab.connect(server.port)
        hub, reader = await _subscribe(lab, adapter)
        before = proxy.connections
        proxy.mode = "hole"
        written = await lab.put(direct, "x", {"n": 1})
        while proxy.connections < before + 2:  # noqa: ASYNC110 (nobody rings)
            await asyncio.sleep(0.01)
        proxy.mode = "pass"
        proxy.cut()
        await reader.until(lambda seen: seen[-1].position == written.position)
        await reader.stop()
        await hub.close()
        await adapter.close()


async def test_trims_and_wipes_end_in_an_explicit_resync(lab: Any) -> None:
    server = await lab.serve()
    adapter = await lab.connect(server.port, retention=Retention(count=10))
    hub, reader = await _subscribe(lab, adapter)
    for turn in range(3):
        await lab.ask(server.port, "FLUSHALL")
        await _reaches(reader, (await lab.put(adapter, "x", {"turn": turn})).position)
    syncs = [entry for entry in reader.seen[1:] if entry.type == "sync"]
    assert syncs
    assert all(entry.reason for entry in syncs)
    await reader.stop()
    await hub.close()


async def test_of_eight_racing_creates_one_creates(lab: Any) -> None:
    server = await lab.serve()
    adapters = [await lab.connect(server.port) for _ in range(8)]
    for key in range(50):
        write = Write("set", "g", f"{key}", b"{}")
        results = await asyncio.gather(*(adapter.write(lab.docs, [write]) for adapter in adapters))
        assert sorted(result.type for (result,) in results) == ["create"] + ["update"] * 7


async def test_increments_of_several_processes_are_all_counted(lab: Any) -> None:
    server = await lab.serve()
    adapters = [await lab.connect(server.port) for _ in range(4)]

    async def work(adapter: Any) -> None:
        for _ in range(25):
            await adapter.write(lab.docs, [lab.increment("x")])

    async with asyncio.timeout(60):
        await asyncio.gather(*(work(adapter) for adapter in adapters for _ in range(8)))
    assert (await adapters[0].get(lab.docs, "g", "x")).value == {"n": 4 * 8 * 25}
