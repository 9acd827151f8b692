"""News that brings its changes: taken by who stands right before them, closed to strangers, and free to be lost."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import asyncpg
import pytest
from motia_adapters.postgresql.bells import Bell
from motia_adapters.postgresql.database import News

from motia_core.model import StreamSpec, Write
from motia_core.testing.harness import Reader, eventually
from tests.adapters.postgresql.conftest import Database

SPEC = StreamSpec("documents")


def ids(reader: Reader) -> list[Any]:
    return [change.id for batch in reader.seen for change in batch.changes]


async def follow(adapter: Any, writer: Any, count: int, size: int = 10) -> list[Any]:
    """What a watch tells of so many writes of all kinds, by this adapter and by another."""
    reader = Reader(adapter.watch(SPEC, await adapter.head(SPEC)))
    await reader.count(1)

    async def hears() -> bool:
        return bool(adapter._bells.hears)

    await eventually(hears, "news to come in")
    value = b'{"text":"' + b"x" * size + b'"}'
    for number in range(count):
        one = writer if number % 2 else adapter
        writes = [Write("set", "g", f"{number}", value)]
        if number % 5 == 0:
            writes.append(Write("event", "g", f"{number} event", b"[1]", event_type="seen"))
        await one.write(SPEC, writes)
    expected = [
        id for number in range(count) for id in (f"{number}", f"{number} event") if " " not in id or number % 5 == 0
    ]
    await reader.until(lambda _: len(ids(reader)) >= len(expected))
    await reader.stop()
    assert ids(reader) == expected
    return reader.seen


async def test_small_writes_arrive_without_a_read(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    async with database.opened() as adapter, database.opened() as writer:
        await adapter.prepare(SPEC)
        called: list[str] = []
        call = adapter.database.call

        async def calling(function: str, arguments: Any) -> Any:
            called.append(function)
            return await call(function, arguments)

        monkeypatch.setattr(adapter.database, "call", calling)
        batches = await follow(adapter, writer, 100)
        assert called.count("changes") < 20, called
        # It is the same as what the log says.
        told = [change for batch in batches for change in batch.changes]
        read, _ = await adapter.opened(SPEC).reads.changes(batches[0].position)
        assert list(read.changes) == told


@pytest.mark.parametrize("size", [10, 5_900, 9_000])
async def test_news_may_be_large_lost_or_told_twice(
    database: Database, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    dice = random.Random(size)
    ring = Bell.ring

    def ringing(self: Bell, news: News | None = None) -> None:
        for _ in range(dice.choice([0, 1, 1, 1, 2])):
            ring(self, news)

    monkeypatch.setattr(Bell, "ring", ringing)
    async with database.opened() as adapter, database.opened() as writer:
        await adapter.prepare(SPEC)
        await follow(adapter, writer, 60, size)


async def test_a_reader_that_is_slow_keeps_little(database: Database) -> None:
    async with database.opened() as adapter:
        await adapter.prepare(SPEC)
        watch = adapter.watch(SPEC, await adapter.head(SPEC))
        await anext(watch)
        bells = adapter._bells

        async def hears() -> bool:
            return bells.hears

        await eventually(hears, "news to come in")
        for number in range(200):
            await adapter.write(SPEC, [Write("set", "g", f"{number}", b"{}")])
        (bell,) = bells._bells["motia", "documents"]

        async def full() -> bool:
            return bell.look

        await eventually(full, "the news to be too much")
        assert len(bell.offered) <= 64
        seen: list[Any] = []
        while len(seen) < 200:
            seen += [change.id for change in (await anext(watch)).changes]
        assert seen == [f"{number}" for number in range(200)]
        await watch.aclose()


async def test_strangers_do_not_hear_values(database: Database) -> None:
    """Whoever may connect may LISTEN to any channel that they know by name."""
    role = database.url.rsplit("/", 1)[1] + "_stranger"
    await database.psql.run(f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA motia TO {role}")
    try:
        stranger = await asyncpg.connect(database.url.replace("postgres@", f"{role}@"))
        for sql in ("SELECT motia.channel()", "SELECT channel FROM motia.news", "SELECT motia.wake('a', 'b', NULL)"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await stranger.fetchval(sql)
        heard: list[object] = []
        await stranger.add_listener("motia", lambda *news: heard.append(news))
        async with database.opened() as adapter:
            await adapter.prepare(SPEC)
            await follow(adapter, adapter, 5)
            seen = await stranger.fetch("SELECT query FROM pg_stat_activity WHERE query ILIKE '%listen%'")
        await asyncio.sleep(0)
        assert not heard
        assert not [row for row in seen if "motia_" in row["query"]]
        await stranger.close()
    finally:
        await database.psql.run(f"DROP OWNED BY {role}; DROP ROLE {role}")
