"""What mapped storage is billed, counted by a stand-in that listens as production does: the table in the README."""

from __future__ import annotations

from typing import Any

import pytest

from motia_core.testing.harness import Reader, eventually, read_log
from tests.adapters.firestore.conftest import DOCS, Till


async def test_writes_and_reads(till: Till) -> None:
    docs = await till.stream()
    till.since()
    await docs.set("g", "x", {"n": 1})
    assert till.since() == (1, 1, 0)
    await docs.set("g", "x", {"n": 1})
    assert till.since() == (1, 0, 0), "an equal value is not written"
    await docs.update("g", "x", [{"type": "increment", "path": "n", "by": 1}])
    assert till.since() == (1, 1, 0)
    await docs.delete("g", "x")
    assert till.since() == (1, 0, 1)
    async with docs.batch() as batch:
        for number in range(10):
            batch.set("g", f"{number}", {"n": number})
    assert till.since() == (10, 10, 0)
    await docs.get("g", "1")
    assert till.since() == (1, 0, 0)
    await docs.list("g")
    assert till.since() == (10, 0, 0)
    await docs.send({"groupId": "g"}, {"type": "ping", "data": {}})
    till.since()
    await docs.send({"groupId": "g"}, {"type": "ping", "data": {}})
    assert till.since() == (0, 2, 0), "an entry, and the check of the one before"


@pytest.mark.parametrize("size", [10, 300])
async def test_a_change_is_one_read_for_each_process_whatever_it_maps(till: Till, size: int) -> None:
    """However many documents and subscribers there are; only beginning to watch costs a read for each document."""
    writer = await till.stream()
    for start in range(0, size, 100):
        async with writer.batch() as batch:
            for number in range(start, min(start + 100, size)):
                batch.set("other", f"{number}", {"n": number})
    await writer.set("g", "x", {"n": -1})
    watcher = await till.stream()
    till.since()
    readers = [Reader(watcher.watch("g")) for _ in range(50)]
    for reader in readers:
        await reader.count(1)
    begun = till.since()
    assert begun[1:] == (0, 0)
    assert size + 1 <= begun[0] <= size + 10, "all documents once, and what begins the watch"
    for number in range(20):
        await writer.set("g", "x", {"n": number})
        for reader in readers:
            await reader.count(2 + number)
    reads, writes, _ = till.since()
    assert writes == 20
    assert reads - 20 <= 20 + 2, "each set reads its item; each change is told once by the listener"
    readers.append(Reader(watcher.watch("g")))
    await readers[-1].count(1)
    assert till.since()[0] <= 2, "a join reads its group's documents, and what time it is"
    for reader in readers:
        await reader.stop()


async def test_deletes_events_and_going_on(till: Till) -> None:
    writer, watcher = await till.stream(), await till.stream()
    adapter: Any = watcher.hub.adapter
    for id in ("a", "b"):
        await writer.set("g", id, {"n": 1})
    await writer.send({"groupId": "g"}, {"type": "first", "data": {}})
    reader = Reader(adapter.watch(DOCS, await adapter.head(DOCS)))
    await reader.count(1)
    position = await adapter.head(DOCS)
    till.since()
    await writer.delete("g", "a")
    await reader.until(lambda batches: any(change.id == "a" for batch in batches for change in batch.changes))
    assert till.since() == (2, 0, 1), "the writer reads the item; who hears of the delete reads its last value"
    await writer.send({"groupId": "g"}, {"type": "ping", "data": {}})
    await reader.until(lambda batches: any(c.type == "event" for batch in batches for c in batch.changes))
    reads, writes, _ = till.since()
    assert (reads, writes) == (2, 2), "an event is told by the listener, and read"
    await reader.stop()
    later = await till.stream()
    other: Any = later.hub.adapter
    await other.head(DOCS)
    till.since()

    async def told() -> bool:
        return any(change.id == "a" for change in await read_log(other, DOCS, position))

    await eventually(told, "the delete, in a process that did not see it")
    assert till.since()[0] <= 12, "the documents of then, names only, and what differs"


async def test_coming_back(till: Till) -> None:
    """To the process that was left it costs nothing; elsewhere those who stand at one place share a comparison."""
    docs, elsewhere = await till.stream(), await till.stream()
    for number in range(20):
        await docs.set("g", f"{number}", {"n": number})
    reader = Reader(docs.watch("g"))
    await reader.count(1)
    result = await docs.set("g", "0", {"n": -1})
    position = (await reader.count(2))[-1].position
    await reader.stop()
    other = Reader(elsewhere.watch("g"))
    await other.count(1)
    await docs.set("g", "1", {"n": -2})
    await other.count(2)
    till.since()
    for stream, most in ((docs, 2), (elsewhere, 20 + 5)):  # a listener may be asked meanwhile where it stands
        readers = [Reader(stream.watch("g", after=position)) for _ in range(50)]
        for reader in readers:
            (change,) = await reader.count(1)
            assert (change.type, change.id, change.data) == ("update", "1", {"n": -2})
            assert change.position > position > result.position
            await reader.stop()
        assert till.since()[0] <= most
    await other.stop()
