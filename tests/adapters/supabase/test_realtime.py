"""Realtime only says "look": without it nothing is lost, and it is found again."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any

import pytest

from motia_core.model import StreamSpec, Write
from motia_core.testing.harness import Reader, eventually
from tests.adapters.supabase.conftest import Project

SPEC = StreamSpec("documents")


async def test_realtime_goes_away_and_comes_back_and_nothing_is_lost(project: Project, namespace: str) -> None:
    async with project.opened(namespace) as writer, project.opened(namespace) as adapter:
        await writer.prepare(SPEC)
        reader = Reader(adapter.watch(SPEC, await adapter.head(SPEC)))
        await reader.count(1)
        bells = adapter._bells
        total = 0

        async def hears() -> bool:
            return bells.hears

        async def deaf() -> bool:
            return not bells.hears

        async def write(count: int) -> None:
            nonlocal total
            for _ in range(count):
                await writer.write(SPEC, [Write("set", "g", f"{total}", b"{}")])
                total += 1
            await reader.until(lambda batches: sum(len(batch.changes) for batch in batches) == total)

        await eventually(hears, "Realtime to be joined")
        await write(20)
        project.standin.set_realtime(False)
        try:
            await eventually(deaf, "the loss to be noticed")
            await write(20)
        finally:
            project.standin.set_realtime(True)
        await eventually(hears, "Realtime to be joined again")
        await write(20)
        await reader.stop()
        ids = [change.id for batch in reader.seen for change in batch.changes]
        assert ids == [f"{number}" for number in range(60)]


async def test_a_write_wakes_readers_up_before_they_would_have_looked(project: Project, namespace: str) -> None:
    """Outcome, not speed: of many writes a second apart from any look, most come by the bell."""
    async with project.opened(namespace) as writer, project.opened(namespace) as adapter:
        await writer.prepare(SPEC)
        reader = Reader(adapter.watch(SPEC, await adapter.head(SPEC)))
        await reader.count(1)

        async def hears() -> bool:
            return adapter._bells.hears

        await eventually(hears, "Realtime to be joined")
        began = time.monotonic()
        for number in range(60):
            await writer.write(SPEC, [Write("set", "g", f"{number}", b"{}")])
            await reader.until(partial(_has, f"{number}"))
        assert time.monotonic() - began < 30  # by looking alone it takes a second each
        await reader.stop()


async def test_what_is_told_before_realtime_follows_the_database_is_read_once_it_does(
    project: Project, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Joined is not yet connected to the database; who waits for no look depends on Realtime to say when it is."""
    monkeypatch.setattr("motia_adapters.postgresql.bells.HEALTHY", 3600.0)
    async with project.opened(namespace) as writer, project.opened(namespace) as adapter:
        await writer.prepare(SPEC)
        project.standin.set_replicating(False)
        try:
            reader = Reader(adapter.watch(SPEC, await adapter.head(SPEC)))
            await reader.count(1)

            async def hears() -> bool:
                return adapter._bells.hears

            async def looked() -> bool:
                return not any(bell.look for bells in adapter._bells._bells.values() for bell in bells)

            await eventually(hears, "Realtime to be joined")
            await eventually(looked, "the look that joining brings")
            await writer.write(SPEC, [Write("set", "g", "x", b"{}")])
        finally:
            project.standin.set_replicating(True)
        await reader.until(partial(_has, "x"))
        await reader.stop()


async def test_whoever_is_let_in_and_thrown_out_asks_ever_less_often(
    project: Project, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Realtime does with a project over its limit of messages a second."""
    waits: list[float] = []
    sleep = asyncio.sleep

    async def sleeping(seconds: float) -> None:
        if (task := asyncio.current_task()) is not None and task.get_name().endswith("-news"):
            waits.append(seconds)
        await sleep(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleeping)
    monkeypatch.setattr("motia_adapters.postgresql.bells._SLOWEST", 3600.0)  # no connection here lasts that long
    async with project.opened(namespace) as adapter:
        await adapter.prepare(SPEC)
        reader = Reader(adapter.watch(SPEC, await adapter.head(SPEC)))
        await reader.count(1)

        async def hears() -> bool:
            return adapter._bells.hears

        async def deaf() -> bool:
            return not adapter._bells.hears

        for _ in range(5):
            await eventually(hears, "Realtime to be joined")
            project.standin.set_realtime(False)
            try:
                await eventually(deaf, "the loss to be noticed")
            finally:
                project.standin.set_realtime(True)
        await reader.stop()
    assert waits == sorted(set(waits))
    assert len(waits) >= 4


async def test_a_write_does_not_fail_when_the_database_has_no_realtime(project: Project, namespace: str) -> None:
    assert project.standin
    async with project.opened(namespace) as adapter:
        await adapter.prepare(SPEC)
        await project.psql.run("ALTER FUNCTION realtime.send RENAME TO sent")
        try:
            await adapter.write(SPEC, [Write("set", "g", "x", b"{}")])
            findings = [finding.message for finding in await adapter.diagnose()]
            assert any("no function realtime.send" in message for message in findings), findings
        finally:
            await project.psql.run("ALTER FUNCTION realtime.sent RENAME TO send")
        assert await adapter.get(SPEC, "g", "x") is not None


def _has(id: str, batches: list[Any]) -> bool:
    return any(change.id == id for batch in batches for change in batch.changes)
