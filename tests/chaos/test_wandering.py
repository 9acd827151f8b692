"""Clauses B9 and C2: subscribers who go from process to process, where hubs and adapters remember much or little."""

from __future__ import annotations

import random

import pytest
from motia_adapters.firestore.mapped import kept, notes

from motia_core import hub, ring, stories
from motia_core.testing import World, coalesced, world
from motia_core.testing.wandering import wander

from .figures import Figures, bounded, scaled
from .test_backends import _servers, harness

pytestmark = pytest.mark.chaos

__all__ = ["_servers", "harness", "world"]

ROUND = 4.0
"""Seconds."""


@bounded
async def test_subscribers_that_go_from_process_to_process(
    world: World, chance: random.Random, figures: Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = 0
    rounds = scaled(40, least=2)
    for _ in range(rounds):
        few = chance.choice((12, 50, ring.RING_CHANGES))
        for module in (ring, hub, stories):
            monkeypatch.setattr(module, "RING_CHANGES", few)
        monkeypatch.setattr(stories, "MOST_RESUMES", chance.choice((1, 8)))
        monkeypatch.setattr(coalesced, "PACE", chance.choice((0, 0.003, 0.02)))
        monkeypatch.setattr(kept, "MOST", chance.choice((15, 10_000)))
        monkeypatch.setattr(notes, "MOST_VALUES", chance.choice((3, 2_000)))
        wrong, written = await wander(world, seconds=ROUND, chance=chance)
        writes += written
        assert wrong == [], "\n".join(wrong)
        monkeypatch.undo()
    figures.add(rounds=rounds, sets=writes)
