"""Rows 1 and 3 in their short form: the server is killed under acknowledged writes, and its clients resume."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from .killing import kill_again_and_again


@pytest.mark.parametrize("seed", [1, 2])
async def test_rows_1_and_3_a_killed_server_loses_nothing_and_clients_resume(tmp_path: Path, seed: int) -> None:
    outcome = await kill_again_and_again(tmp_path, random.Random(seed), kills=2, writes=300, writers=4, clients=4)
    assert outcome.wrong == []
    assert outcome.acknowledged >= 300
    assert outcome.resyncs == 0
