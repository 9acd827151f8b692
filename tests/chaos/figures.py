"""How much to do, and what came of it."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import wraps
from typing import Any

SCALE = float(os.environ.get("MOTIA_CHAOS_SCALE", "1.0"))

LIMIT = max(120.0, 1800.0 * SCALE)
"""Seconds after which a test has hung."""


def scaled(number: int, least: int = 1) -> int:
    """``number``, made smaller (or larger) by ``MOTIA_CHAOS_SCALE``."""
    return max(least, round(number * SCALE))


def bounded(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Coroutine[Any, Any, None]]:
    """A test that may take long, but not for ever."""

    @wraps(test)
    async def run(*arguments: Any, **options: Any) -> None:
        async with asyncio.timeout(LIMIT):
            await test(*arguments, **options)

    return run


def percentile(values: Sequence[float], part: float) -> float:
    """Of ``values``, the one below which ``part`` of them lie (0.99: the p99)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(part * len(ordered)) - 1)] if ordered else math.nan


class Figures:
    """What one test measured, in order."""

    def __init__(self, test: str) -> None:
        self.test = test
        self.rows: list[tuple[str, str]] = []
        self._begun = time.monotonic()

    def add(self, **figures: object) -> None:
        """Figures by name; ``_`` stands for a blank, and floats are shortened."""
        for what, value in figures.items():
            if isinstance(value, float):
                shown = f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
            else:
                shown = f"{value:,}" if isinstance(value, int) else str(value)
            self.rows.append((what.replace("_", " "), shown))

    def spread(self, what: str, seconds: Sequence[float]) -> None:
        """The distribution of some durations, in milliseconds."""
        shown = [f"{name} {percentile(seconds, part) * 1000:.3g}" for name, part in (("p50", 0.5), ("p99", 0.99))]
        shown.append(f"max {max(seconds, default=math.nan) * 1000:.3g}")
        self.rows.append((f"{what} (ms)", ", ".join(shown)))

    def finish(self) -> None:
        """How long it all took."""
        self.add(seconds=time.monotonic() - self._begun)
