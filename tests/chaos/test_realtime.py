"""Supabase: Realtime is down for minutes, and comes and goes, while others write; the stand-in of `tests/standins`."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import AsyncExitStack, aclosing

import pytest
from motia_adapters.postgresql.testing import Psql
from motia_adapters.supabase.adapter import SupabaseAdapter
from motia_adapters.supabase.options import SupabaseOptions

from motia_core.adapter import StorageSettings
from motia_core.model import StreamSpec, Write
from motia_core.testing.harness import eventually
from motia_core.testing.servers import PostgreSQL, start_or_skip

from ..stack.supabase import seen
from ..standins.supabase import SET_UP, Supabase, key
from .figures import SCALE, Figures, bounded

pytestmark = pytest.mark.chaos
SPEC = StreamSpec("documents")
DOWN = 180.0 * SCALE
"""Seconds of silence."""


@bounded
async def test_realtime_down_for_minutes_loses_nothing_and_heals(chance: random.Random, figures: Figures) -> None:
    server = PostgreSQL("-c", "fsync=off")
    await start_or_skip(server)
    psql = Psql(server.url)
    await psql.run(SET_UP)
    standin = Supabase(server.url)
    await standin.start()
    await psql.migrate(supabase=True)
    await seen(psql, standin.url, key())
    try:
        async with AsyncExitStack() as stack:
            options = SupabaseOptions.model_validate({"project_url": standin.url, "service_key": key()})
            adapters = [SupabaseAdapter(StorageSettings("live"), options) for _ in range(2)]
            for adapter in adapters:
                await adapter.open()
                stack.push_async_callback(adapter.close)
            writer, reader = adapters
            await writer.prepare(SPEC)
            sent: list[float] = []
            told: dict[str, float] = {}
            twice = 0
            enough = asyncio.Event()
            start = await reader.head(SPEC)

            async def listen() -> None:
                nonlocal twice
                async with aclosing(reader.watch(SPEC, start)) as batches:
                    async for batch in batches:
                        for change in batch.changes:
                            twice += (change.id or "") in told
                            told[change.id or ""] = time.monotonic()

            async def write() -> None:
                while not enough.is_set():
                    sent.append(time.monotonic())
                    await writer.write(SPEC, [Write("set", "g", f"{len(sent) - 1}", b"{}")])
                    await asyncio.sleep(chance.uniform(0, 0.2))

            async def settled(hears: bool) -> float:
                """Seconds until the reader knows whether news comes in."""
                began = time.monotonic()

                async def knows() -> bool:
                    return reader._bells.hears == hears

                await eventually(knows, f"hears to be {hears}")
                return time.monotonic() - began

            listening = asyncio.create_task(listen())
            await settled(True)
            writing = asyncio.create_task(write())
            await asyncio.sleep(2)
            standin.set_realtime(False)
            await settled(False)
            first = len(sent)
            await asyncio.sleep(DOWN)
            last = len(sent)
            standin.set_realtime(True)
            healed = await settled(True)
            for _ in range(10):
                standin.set_realtime(False)
                await asyncio.sleep(chance.uniform(0, 1))
                standin.set_realtime(True)
                await asyncio.sleep(chance.uniform(0, 1))
            await settled(True)
            await asyncio.sleep(2)
            enough.set()
            await writing

            async def all_told() -> bool:
                if listening.done():
                    listening.result()
                return len(told) == len(sent)

            await eventually(all_told, "everything to be told")
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
    finally:
        await standin.stop()
        await server.stop()
    assert list(told) == [f"{number}" for number in range(len(sent))]
    assert twice == 0
    figures.add(seconds_without_Realtime=DOWN, written_meanwhile=last - first, told=len(told))
    figures.add(seconds_until_it_was_heard_again=healed)
    figures.spread("told while it was down", [told[f"{number}"] - sent[number] for number in range(first, last)])
