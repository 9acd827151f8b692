"""What travels with the bell: few changes need no look at the log, and nobody has to believe a message."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from motia_adapters.redis.items import announced
from motia_adapters.redis.keys import keys_of

from motia_core.model import Change, Write
from motia_core.values import encode

KEYS = keys_of("test", "docs")
COUNT = 40


async def following(lab: Any, adapter: Any, changes: list[Change], count: int) -> None:
    async with aclosing(adapter.watch(lab.docs, await adapter.head(lab.docs))) as batches:
        async for batch in batches:
            changes += batch.changes
            if len(changes) >= count:
                return


async def reads(lab: Any, port: int) -> int:
    """How often the log was read."""
    info = (await lab.ask(port, "INFO", "commandstats")).decode()
    return sum(
        int(line.split("calls=")[1].split(",")[0]) for line in info.splitlines() if line.startswith("cmdstat_xrange:")
    )


async def test_few_changes_are_told_without_a_look_at_the_log(lab: Any) -> None:
    server = await lab.serve()
    reader, writer = await lab.connect(server.port), await lab.connect(server.port)
    start = await reader.head(lab.docs)
    seen: list[Change] = []
    watching = asyncio.create_task(following(lab, reader, seen, COUNT))
    writes = [
        Write("set", "g", "ü/:*{}", encode({"n": 1, "text": "\U0001f600"})),
        Write("set", "g", "mortal", b"{}", ttl=3600),
        lab.increment("x"),
        Write("event", "g", None, encode({"to": "all"}), event_type="wave"),
        Write("event", "g", "x", None, event_type="nod"),
        Write("delete", "g", "x"),
        Write("set", "other", "a", b'{"l":[]}'),
        Write("set", "g", "ü/:*{}", b"{}"),
    ]
    async with asyncio.timeout(20):
        while not reader._bells._heard:  # noqa: ASYNC110 (the watch is subscribed, or will be told so)
            await asyncio.sleep(0.01)
        before = await reads(lab, server.port)
        for number in range(COUNT):
            await writer.write(lab.docs, [writes[number % len(writes)]])
            while len(seen) <= number:  # noqa: ASYNC110
                await asyncio.sleep(0)
        await watching
    after = await reads(lab, server.port)
    assert seen == await lab.log(reader, start)
    assert after - before < COUNT / 2


@pytest.mark.parametrize("size", [1_000, 50_000])
async def test_many_or_large_changes_come_from_the_log(lab: Any, size: int) -> None:
    server = await lab.serve()
    reader, writer = await lab.connect(server.port), await lab.connect(server.port)
    start = await reader.head(lab.docs)
    seen: list[Change] = []
    watching = asyncio.create_task(following(lab, reader, seen, 100))
    values = [encode({"n": number, "text": "x" * size}) for number in range(100)]
    async with asyncio.timeout(20):
        await asyncio.gather(
            *(writer.write(lab.docs, [Write("set", "g", str(n), value)]) for n, value in enumerate(values))
        )
        await watching
    assert seen == await lab.log(reader, start)


async def test_nobody_has_to_believe_a_message(lab: Any) -> None:
    """Garbage, cut off announcements, and entries from a place that is not the next one."""
    server = await lab.serve()
    reader, writer = await lab.connect(server.port), await lab.connect(server.port)
    start = await reader.head(lab.docs)
    seen: list[Change] = []
    watching = asyncio.create_task(following(lab, reader, seen, 30))
    lies = [b"garbage", b"\x00" * 15, b"\xff" * 64, bytes([30]) + b"\x00" * 13 + b"\x05" + b"9-9u", b"x"]
    async with asyncio.timeout(20):
        for number in range(30):
            await lab.ask(server.port, "PUBLISH", KEYS.channel, lies[number % len(lies)])
            await lab.put(writer, "x", {"n": number})
        await watching
    assert seen == await lab.log(reader, start)


@pytest.mark.parametrize("news", [b"garbage", b"\x00" * 14, b"\x01" + b"\x00" * 14, b"\x00" * 11 + b"\xff" * 9])
def test_what_is_no_announcement_is_refused(news: bytes) -> None:
    with pytest.raises(ValueError, match="announcement"):
        announced(news)


async def test_a_copy_in_another_database_announces_nothing_here(lab: Any) -> None:
    """Channels belong to the whole server; a copy of the keys goes on with the same positions."""
    server = await lab.serve()
    mine = await lab.connect(server.port)
    start = (await lab.put(mine, "x", {"n": 1})).position
    for key in await lab.ask(server.port, "KEYS", "*"):
        await lab.ask(server.port, "COPY", key, key, "DB", 1)
    copy = await lab.connect(server.port, db=1)
    seen: list[Change] = []
    async with asyncio.timeout(20), aclosing(mine.watch(lab.docs, start)) as batches:
        await anext(batches)
        following = asyncio.create_task(anext(batches))
        while (await lab.ask(server.port, "PUBSUB", "NUMSUB", KEYS.channel))[1] == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await lab.put(copy, "theirs", {"n": 2})
        await lab.put(mine, "mine", {"n": 3})
        seen += (await following).changes
    assert [change.id for change in seen] == ["mine"]
