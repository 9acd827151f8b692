"""What is billed, counted by the gateway: the table in the adapter's README."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from motia_core.streams import Stream
from motia_core.testing import Reader
from tests.adapters.firestore.conftest import Lab, listening, upkeep_done


class Bill:
    """What was read, written and deleted since the last look."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._before: Counter[str] = Counter()
        self.since()

    def since(self) -> tuple[int, int, int]:
        """Reads, writes and deletes."""
        now = Counter({name: self._lab.gateway.billed[name] for name in ("reads", "writes", "deletes")})
        new = now - self._before
        self._before = now
        return new["reads"], new["writes"], new["deletes"]


async def _warm(lab: Lab, **options: Any) -> Stream[dict[str, Any]]:
    docs = await lab.stream(**options)
    await docs.set("g", "warm", {"n": 0})
    await upkeep_done(docs)
    return docs


async def test_writes(lab: Lab) -> None:
    docs = await _warm(lab)
    bill = Bill(lab)
    await docs.set("g", "x", {"n": 1})
    assert bill.since() == (1, 3, 0), "a new item: read, then item, log and the check of the log's end"
    await docs.set("g", "x", {"n": 2})
    assert bill.since() == (0, 3, 0), "one that this process wrote last is known"
    await docs.update("g", "x", [{"type": "increment", "path": "n", "by": 1}])
    assert bill.since() == (0, 3, 0)
    await docs.delete("g", "x")
    assert bill.since() == (0, 2, 1)
    await docs.delete("g", "x")
    assert bill.since()[1:] == (0, 0), "deleting nothing writes nothing"
    async with docs.batch() as batch:
        for number in range(10):
            batch.set("g", f"batch{number}", {"n": number})
    assert bill.since() == (10, 12, 0), "a batch has one entry in the log"
    await docs.set("g", "brief", {"n": 1}, ttl=600)
    assert bill.since() == (1, 4, 0), "and its deadline"
    await docs.send({"groupId": "g"}, {"type": "ping", "data": {}})
    assert bill.since() == (0, 2, 0)


async def test_reads_and_joins(lab: Lab) -> None:
    docs = await _warm(lab)
    for number in range(9):
        await docs.set("g", f"{number}", {"n": number})
    bill = Bill(lab)
    await docs.get("g", "1")
    assert bill.since() == (1, 0, 0)
    await docs.list("g")
    assert bill.since() == (10, 0, 0)
    await docs.list("g", limit=3)
    assert bill.since() == (3, 0, 0)
    readers = [Reader(docs.watch("g"))]
    await readers[0].count(1)
    await listening(docs)
    first = bill.since()
    assert first[1:] == (0, 0)
    assert 11 <= first[0] <= 15, "the group's items, the log's end, and what begins the watch"
    readers.append(Reader(docs.watch("g")))
    await readers[1].count(1)
    assert bill.since() == (0, 0, 0), "the core knows the group as long as nothing changes"
    await docs.set("g", "1", {"n": 2})
    for reader in readers:
        await reader.count(2)
    bill.since()
    readers.append(Reader(docs.watch("g")))
    await readers[2].count(1)
    later = bill.since()
    assert later[1:] == (0, 0)
    assert later[0] <= 11, "the group's items, and the log's end"
    for reader in readers:
        await reader.stop()


@pytest.mark.parametrize("length", [10, 500])
async def test_a_change_costs_the_same_however_long_the_log_is(lab: Lab, length: int) -> None:
    """One read for the whole process, whatever the number of its subscribers."""
    docs = await _warm(lab)
    async with docs.batch() as batch:
        for number in range(length):
            batch.set("other", f"{number}", {"n": number})
    for number in range(length // 10):
        await docs.set("g", "old", {"n": number})
    readers = [Reader(docs.watch("g")) for _ in range(50)]
    for reader in readers:
        await reader.count(1)
    await listening(docs)
    await docs.set("g", "x", {"n": 0})
    for reader in readers:
        await reader.count(2)
    bill = Bill(lab)
    for number in range(20):
        await docs.set("g", "x", {"n": number + 1})
        for reader in readers:
            await reader.count(3 + number)
    reads, writes, _ = bill.since()
    for reader in readers:
        await reader.stop()
    assert writes == 60
    assert reads <= 22, "one for each change; a few may be read twice"
