"""D1-D5 in thousands of stories: kills, pauses and lost replies at every await of every adapter call."""

from __future__ import annotations

from collections import Counter

import pytest

from .loop import VirtualLoop
from .plants import PLANTS, Plant
from .scenario import Story, play, random_story
from .world import FAULTS, Plan

CAUGHT_WITHIN = 400
"""Random stories in which each planted bug must show."""


def small(plan: Plan) -> Story:
    """Two processes, two items, changes that succeed, fail, and never succeed."""
    return Story(1, plan, processes=2, partitions=2, items=2, changes=8, span=3.0, window=4, poison=0.2, failing=0.2)


def check(story: Story, *, watch_first: bool = False) -> None:
    outcome = play(story, watch_first=watch_first)
    assert outcome.violation is None, f"seed {story.seed}, {story.plan}\n{outcome.tell()}"


@pytest.mark.parametrize("hundred", range(2))
def test_random_stories(hundred: int) -> None:
    for seed in range(hundred * 100, hundred * 100 + 100):
        check(random_story(seed))


def test_one_fault_at_every_await_of_a_small_story() -> None:
    gates = play(small(Plan()), watch_first=True).gates
    assert gates > 100
    for gate in range(1, gates):
        check(small(Plan(at={gate: FAULTS[gate % len(FAULTS)]})), watch_first=True)


def test_a_story_is_told_alike_each_time() -> None:
    assert play(random_story(11)).log == play(random_story(11)).log


def test_the_faults_of_the_stories_are_of_all_kinds() -> None:
    kinds = Counter(fault for seed in range(60) for _, fault, _ in play(random_story(seed)).faults)
    assert set(kinds) == set(FAULTS)


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_bug_is_caught(name: str) -> None:
    plant: Plant = PLANTS[name]
    with plant():
        assert any(play(random_story(seed)).violation for seed in range(CAUGHT_WITHIN)), f"{name} was not noticed"


@pytest.mark.chaos
@pytest.mark.parametrize("thousand", range(1, 11))
def test_thousands_of_random_stories(thousand: int) -> None:
    for seed in range(thousand * 1_000, thousand * 1_000 + 1_000):
        check(random_story(seed))


@pytest.mark.chaos
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("seed", range(5))
def test_every_fault_at_every_await(fault: str, seed: int) -> None:
    def story(plan: Plan) -> Story:
        told = small(plan)
        told.seed = seed
        return told

    gates = play(story(Plan())).gates
    for gate in range(1, gates):
        check(story(Plan(at={gate: fault})))  # type: ignore[dict-item]


def test_the_loop_jumps_over_time() -> None:
    import asyncio
    from random import Random

    loop = VirtualLoop(Random(1))  # type: ignore[abstract]

    async def nap() -> float:
        await asyncio.sleep(1_000_000.0)
        return loop.time()

    assert loop.run_until_complete(nap()) == 1_001_000.0
    loop.close()
