"""Cron: a tick starts at most once, and what was missed is told (D7)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from motia_core.errors import ConfigError
from motia_core.model import Change
from motia_core.triggers import RunInfo, Runner, SystemClock, Trigger, cron_trigger
from motia_core.triggers.cron import CronSchedule

from .conftest import Seen, World, until


def ticking(seen: Seen, expression: str = "* * * * * *", **options: Any) -> Trigger:
    return cron_trigger(expression, key=("clock", "cron", expression, "0"), handle=seen, **options)


def times(seen: Seen) -> list[str]:
    return [value["time"] for _, value, _ in seen.runs]


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


async def test_each_tick_starts_once_whoever_dies(world: World) -> None:
    seen = Seen()
    runners = [await world.run(ticking(seen)) for _ in range(3)]
    await until(lambda: len(seen.runs) >= 3)
    owner = next(runner for runner in runners if runner.partitions())
    await owner.abort()
    seen_before = len(seen.runs)
    await until(lambda: len(seen.runs) >= seen_before + 3)
    assert times(seen) == sorted(times(seen))
    started = [(value["time"], attempt) for _, value, attempt in seen.runs]
    assert len(set(times(seen))) >= len(started) - 1  # the one that ran when its owner died may run again


async def test_a_tick_that_a_wrong_clock_has_made_is_not_made_again_and_the_pause_is_reported(world: World) -> None:
    class Ahead(SystemClock):
        def time(self) -> float:
            return super().time() + 3600

    early, late = Seen(), Seen()
    ahead = Runner(await world.client(), [ticking(early)], lease=1.0, clock=Ahead())
    await ahead.start()
    await until(lambda: early.runs)
    await ahead.stop()
    await world.run(ticking(late))
    await until(lambda: "trouble" in world.kinds())
    assert not late.runs
    (report,) = world.reports
    assert "nothing runs until" in report.message
    assert "a wall clock is wrong" in report.message


async def test_a_tick_waits_for_its_predecessor_and_at_most_one_waits(world: World) -> None:
    gate = asyncio.Event()

    async def act(change: Change, info: RunInfo) -> None:
        await gate.wait()

    seen = Seen()
    seen.act = act
    await world.run(ticking(seen))
    await until(lambda: seen.runs)
    await asyncio.sleep(4)
    assert len(seen.runs) == 1
    gate.set()
    await until(lambda: len(seen.runs) >= 3)
    assert times(seen) == sorted(set(times(seen)))
    assert sum(value["missed"] for _, value, _ in seen.runs) >= 1


@pytest.mark.parametrize(("catch_up", "run", "missed"), [("all", 3, 0), ("latest", 1, 2), ("none", 0, 3)])
def test_what_was_missed(catch_up: Any, run: int, missed: int) -> None:
    schedule = CronSchedule("0 * * * *", catch_up=catch_up)
    ticks, others = schedule.due("2026-01-01T00:00:00Z", at("2026-01-01T03:10:00"))
    assert (len(ticks), others) == (run, missed)
    assert ticks == ["2026-01-01T01:00:00Z", "2026-01-01T02:00:00Z", "2026-01-01T03:00:00Z"][3 - run :]


def test_after_a_long_time_the_latest_runs_all_the_same() -> None:
    schedule = CronSchedule("* * * * * *")
    assert schedule.due("2026-01-01T00:00:00Z", at("2026-01-08T00:00:00")) == (["2026-01-08T00:00:00Z"], 1_000)
    assert schedule.due("2026-01-08T00:00:00Z", at("2026-01-08T00:00:00")) == ([], 0)
    everything = CronSchedule("* * * * * *", catch_up="all")
    ticks, _ = everything.due("2026-01-01T00:00:00Z", at("2026-01-08T00:00:00"))
    assert ticks == [f"2026-01-01T00:00:0{n}Z" for n in range(1, 9)]


def test_five_fields_and_six_and_time_zones() -> None:
    assert CronSchedule("*/30 * * * * *").due("2026-01-01T00:00:00Z", at("2026-01-01T00:00:30"))[0] == [
        "2026-01-01T00:00:30Z"
    ]
    schedule = CronSchedule("0 9 * * *", timezone="Europe/Berlin", catch_up="all")
    ticks, _ = schedule.due("2026-03-28T00:00:00Z", at("2026-03-30T00:00:00"))
    assert ticks == ["2026-03-28T08:00:00Z", "2026-03-29T07:00:00Z"]
    assert schedule.wait("2026-03-29T07:00:00Z", at("2026-03-30T06:59:00")) == 60.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"expression": "nonsense"}, "Wrong number of fields"),
        ({"expression": "61 * * * *"}, "Bad minute"),
        ({"expression": "* * * * *", "timezone": "Mars/Base"}, "there is no time zone 'Mars/Base'"),
        ({"expression": "* * * * *", "catch_up": "some"}, "catch_up must be"),
    ],
)
def test_what_is_no_schedule_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CronSchedule(**arguments)
