"""Several processes on one Redis (docs/how-to/several-servers.md): kills, and a rolling restart, under a load."""

from __future__ import annotations

import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from motia_core.testing.servers import Redis, start_or_skip

from ..docs.blocks import write_files
from .several import cluster


@pytest.fixture
async def redis() -> AsyncIterator[Redis]:
    server = Redis()
    await start_or_skip(server)
    yield server
    await server.stop()


@pytest.mark.parametrize("seed", [1, 2])
async def test_two_servers_and_a_worker_are_one(tmp_path: Path, redis: Redis, seed: int) -> None:
    """Rows 3 and 4 on Redis: clients on either see one order, resume on the other, and miss nothing."""
    write_files("how-to/several-servers.md", tmp_path)
    chance = random.Random(seed)
    async with cluster(tmp_path, {"REDIS_URL": redis.url}, chance) as made:
        await made.more(50)
        await made.replace(chance.randrange(2), signal.SIGKILL)
        await made.replace_worker(signal.SIGKILL)
        await made.more(50)
        for number in (0, 1):  # a rolling restart
            await made.replace(number, signal.SIGTERM)
            await made.more(50)
        await made.replace_worker(signal.SIGTERM)
        await made.more(50)
        await made.finish()
        outcome = await made.judge()
    assert outcome.wrong == []
    assert outcome.resyncs == 0
    assert outcome.acknowledged >= 250
