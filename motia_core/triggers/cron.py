"""Cron: ticks of an expression, each started at most once in the whole cluster (SEMANTICS D7).

One partition; its owner stores each tick as a parked change, with the cursor behind it,
in one fenced write, and from there it is a change like any other. Whether a tick is due
is decided by the owner's wall clock: it comes early or late by that clock's error, never twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, tzinfo
from itertools import islice
from typing import Any, Final, Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import orjson
from cronsim import CronSim, CronSimError

from motia_core.errors import ConfigError
from motia_core.model import Change, StreamSpec
from motia_core.triggers.clock import Clock
from motia_core.triggers.definition import Handle, Report, Schedule, Trigger, item_key
from motia_core.triggers.partition import Partition
from motia_core.triggers.records import hash_key

CRON = StreamSpec("$cron", hidden=True, log=False)
"""The stream that ticks name; nothing is stored in it."""

CatchUp = Literal["all", "latest", "none"]

GRACE = 1.0
"""Seconds by which a tick may be late and is not missed yet."""

COUNTED = 1_000
"""Missed ticks that are counted, at most."""

MADE = 8
"""Ticks that are made in one write, at most."""

LONGEST_WAIT = 30.0
"""Seconds after which the wall clock is asked again: it may have been set."""

DISAGREEMENT = 60.0
"""Seconds by which the last tick may lie in the future before that is reported."""

WAITING: Final = 2
"""Ticks of one trigger at once: one that runs, one that waits."""


class CronSchedule:
    """The ticks of an expression of five fields, or six with seconds first, in a time zone.

    ``catch_up``: what becomes of ticks that nobody was there for: all run, the latest
    runs, or none. Raises `ConfigError` for what is no expression or no time zone.
    """

    def __init__(self, expression: str, *, timezone: str = "UTC", catch_up: CatchUp = "latest") -> None:
        what = f"cron({expression!r})"
        if catch_up not in get_args(CatchUp):
            raise ConfigError(f"{what}: catch_up must be 'all', 'latest' or 'none', not {catch_up!r}")
        try:
            self._zone: tzinfo = UTC if timezone == "UTC" else ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ConfigError(f"{what}: there is no time zone {timezone!r}") from None
        try:
            CronSim(expression, datetime(2024, 1, 1, tzinfo=UTC))
        except CronSimError as error:
            raise ConfigError(f"{what}: {error}") from None
        self.expression = expression
        self.catch_up = catch_up

    def tick_at(self, seconds: float) -> str:
        """A time (seconds since the epoch) as text."""
        return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def due(self, after: str, now: float) -> tuple[list[str], int]:
        """The ticks to run after one and up to ``now``, the oldest first, and how many others were missed.

        At most `MADE` are given at once, and at most `COUNTED` counted.
        """
        ticks = [tick.timestamp() for tick in islice(self._ticks(after), COUNTED)]
        ticks = [tick for tick in ticks if tick <= now]
        if not ticks:
            return [], 0
        if self.catch_up == "all":
            return [self.tick_at(tick) for tick in ticks[:MADE]], 0
        latest = next(self._ticks(self.tick_at(now + 1.0), reverse=True)).timestamp()
        if self.catch_up == "none" and now - latest > GRACE:
            return [], len(ticks)
        return [self.tick_at(latest)], len(ticks) - (ticks[-1] == latest)

    def wait(self, after: str, now: float) -> float:
        """Seconds until the next tick after one; `LONGEST_WAIT` if there is none."""
        return next((tick.timestamp() - now for tick in self._ticks(after)), LONGEST_WAIT)

    def _ticks(self, after: str, *, reverse: bool = False) -> Iterator[datetime]:
        start = datetime.strptime(after, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        return CronSim(self.expression, start.astimezone(self._zone), reverse)


def cron_trigger(
    expression: str,
    *,
    key: tuple[str, ...],
    handle: Handle,
    timezone: str = "UTC",
    catch_up: CatchUp = "latest",
    **options: Any,
) -> Trigger:
    """A trigger for each tick; ``change.data`` is ``{"time": ISO 8601 in UTC, "missed": how many before it}``.

    Options are those of `Trigger`, but for those of streams. Raises `ConfigError`.
    """
    schedule: Schedule = CronSchedule(expression, timezone=timezone, catch_up=catch_up)
    return Trigger(key=key, stream=CRON, handle=handle, schedule=schedule, partitions=1, **options)


async def run_schedule(
    clock: Clock,
    partition: Partition,
    schedule: Schedule,
    key: tuple[str, ...],
    report: Callable[[Report], None],
) -> None:
    """Make the ticks of a partition that this process owns, until it does not any more.

    While one runs and another waits, no tick is made: what passes meanwhile counts as missed.
    """
    missed = 0
    group = "/".join(key)
    if partition.read > schedule.tick_at(clock.time() + DISAGREEMENT):
        message = f"nothing runs until {partition.read}, which another process has reached: a wall clock is wrong"
        report(Report("trouble", message, group))
    while not (partition.gone or partition.draining):
        now = clock.time()
        ticks, skipped = schedule.due(partition.read, now)
        for tick in ticks if len(partition.stored) + len(partition.ticks) < WAITING else []:
            data = orjson.dumps({"time": tick, "missed": missed + skipped})
            missed = skipped = 0
            timestamp = datetime.strptime(tick, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp() * 1000
            change = Change("event", CRON.name, group, None, data, timestamp, None, tick, "tick")
            partition.tick(change, item_key(change), hash_key(item_key(change)))
        if skipped and not ticks:
            missed += skipped
            partition.progress(schedule.tick_at(now))
        pause = schedule.wait(partition.read, clock.time()) if not ticks or not partition.stored else GRACE
        await clock.sleep(min(LONGEST_WAIT, max(0.05, pause)))
