"""Rows 3 and 4 on Redis: two servers and a worker, killed and replaced again and again under a load."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from motia_core.testing.servers import Redis, start_or_skip

from ..docs.blocks import write_files
from ..e2e.several import cluster
from .figures import Figures, bounded, scaled

pytestmark = pytest.mark.chaos


@bounded
async def test_rows_3_and_4_several_servers_on_one_redis(
    tmp_path: Path, chance: random.Random, figures: Figures
) -> None:
    redis = Redis()
    await start_or_skip(redis)
    write_files("how-to/several-servers.md", tmp_path)
    rounds = scaled(20, least=2)
    try:
        async with cluster(tmp_path, {"REDIS_URL": redis.url}, chance, clients=20) as made:
            for turn in range(rounds):
                await made.more(200)
                how = signal.SIGKILL if chance.random() < 0.7 else signal.SIGTERM
                await made.replace(turn % 2, how)
                await made.replace_worker(how)
            await made.more(50)
            await made.finish()
            outcome = await made.judge()
    finally:
        await redis.stop()
    figures.add(servers_replaced=rounds, workers_replaced=rounds, acknowledged=outcome.acknowledged)
    figures.add(without_an_answer=outcome.unknown, handled=outcome.handled, resyncs=outcome.resyncs)
    assert outcome.wrong == []
    assert outcome.resyncs == 0
