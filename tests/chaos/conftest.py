"""The long form of the rows of reliability: how long, by which seed, and the table of figures at the end.

``MOTIA_CHAOS_SCALE=0.05`` makes everything shorter, ``MOTIA_CHAOS_SEED=N`` replays what was random,
``MOTIA_CHAOS_SOAK=3600`` lets row 20 soak for that many seconds.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
from collections.abc import Iterator

import pytest

from .figures import SCALE, Figures

SEED = int(os.environ.get("MOTIA_CHAOS_SEED") or secrets.randbelow(2**32))
KEY = pytest.StashKey[list[Figures]]()


def pytest_report_header() -> str:
    return f"chaos: scale {SCALE:g}, MOTIA_CHAOS_SEED={SEED}"


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """No line in the log for each of ten thousand connections."""
    log = logging.getLogger("uvicorn.error")

    def matters(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING

    log.addFilter(matters)
    yield
    log.removeFilter(matters)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """This test's own seed; the same for the same ``MOTIA_CHAOS_SEED``."""
    return random.Random(f"{SEED} {request.node.name}").randrange(2**32)


@pytest.fixture
def chance(seed: int) -> random.Random:
    """All randomness of a test comes from here."""
    return random.Random(seed)


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Iterator[Figures]:
    """Where a test puts what it measured: the table at the end shows it, whatever comes of the test."""
    found = Figures(request.node.name)
    request.config.stash.setdefault(KEY, []).append(found)
    yield found
    found.finish()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = [(figures.test, *row) for figures in config.stash.get(KEY, []) for row in figures.rows]
    if not rows:
        return
    terminalreporter.section(f"figures (scale {SCALE:g}, MOTIA_CHAOS_SEED={SEED})")
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    last = ""
    for test, what, value in rows:
        terminalreporter.write_line(f"{test if test != last else '':{widths[0]}}  {what:{widths[1]}}  {value}")
        last = test
