"""Rows 1 and 3: the server is killed twenty times under acknowledged writes, and its clients resume."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from ..e2e.killing import kill_again_and_again
from .figures import Figures, bounded, scaled

pytestmark = pytest.mark.chaos


@bounded
async def test_rows_1_and_3_kills_under_acknowledged_writes(
    tmp_path: Path, chance: random.Random, figures: Figures
) -> None:
    kills = scaled(20, least=2)
    outcome = await kill_again_and_again(
        tmp_path, chance, kills=kills, writes=scaled(10_000, least=200), writers=8, clients=20
    )
    figures.add(kills=kills, acknowledged=outcome.acknowledged, without_an_answer=outcome.unknown)
    figures.add(resyncs_instead_of_resumes=outcome.resyncs)
    figures.spread("all clients up to date after a return", outcome.seconds_to_converge)
    assert outcome.wrong == []
    assert outcome.resyncs == 0
