"""What all test classes of the suite share: bounded time, and expected failures."""

from __future__ import annotations

import asyncio
import difflib
import functools
from collections.abc import Callable, Coroutine, Iterable
from importlib.metadata import entry_points
from typing import Any

import pytest

from motia_core.adapter import StorageSettings
from motia_core.testing.harness import DEADLINE, ExpectedFailure, Harness

TESTS: set[str] = set()
"""The names of all tests of the suite."""


class Suite:
    """Base of the test classes: bounds each test in time, and applies what the harness expects to fail."""

    deadlines = 4
    """How many times `DEADLINE` a test may take in all."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name, test in list(vars(cls).items()):
            if name.startswith("test_"):
                TESTS.add(name)
                setattr(cls, name, _bounded(test, cls.deadlines))

    @pytest.fixture(autouse=True)
    def _expected_failures(self, request: pytest.FixtureRequest, harness: Harness) -> None:
        if harness.expected_failures:
            expect_failures(request, harness)


def _bounded(
    test: Callable[..., Coroutine[Any, Any, None]], deadlines: int
) -> Callable[..., Coroutine[Any, Any, None]]:
    """A backend that hangs fails, and the next test runs."""

    @functools.wraps(test)
    async def run(*arguments: Any, **options: Any) -> None:
        async with asyncio.timeout(max(deadlines * DEADLINE, 4.0)):
            await test(*arguments, **options)

    return run


def expect_failures(request: pytest.FixtureRequest, harness: Harness) -> None:
    """Mark the test that runs if the harness expects it to fail; end the run if that names no test."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    narrowed = request.config.option.keyword or any("::" in argument for argument in request.config.args)
    for expected in harness.expected_failures:
        function, _, parameter = expected.test.partition("[")
        if function not in TESTS:
            _refuse(harness, expected, TESTS)
        named = [item.name for item in items if item.originalname == function]
        if parameter and named and not narrowed and not any(_matches(name, expected.test) for name in named):
            _refuse(harness, expected, named)
        if request.node.originalname == function and _matches(request.node.name, expected.test):
            request.applymarker(pytest.mark.xfail(reason=expected.reason, raises=expected.raises, strict=True))


def _matches(name: str, expected: str) -> bool:
    """Whether a test's name, in whose brackets the harness's own parameter may come first, is the expected one."""
    function, bracket, parameter = expected.partition("[")
    return name.startswith(function) and (not bracket or name.endswith((f"[{parameter}", f"-{parameter}")))


def _refuse(harness: Harness, expected: ExpectedFailure, known: Iterable[str]) -> None:
    close = difflib.get_close_matches(expected.test, sorted(known), n=1, cutoff=0.3)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    pytest.exit(
        f"{_owner(harness)}: expected failure {expected.test!r} is no test of the suite{hint}",
        returncode=pytest.ExitCode.USAGE_ERROR,
    )


def _owner(harness: Harness) -> str:
    """The distribution that the harness's adapter comes from, and the harness."""
    package = type(harness.make(StorageSettings("default"))).__module__.partition(".")[0]
    for entry in entry_points(group="motia.adapters"):
        if entry.dist is not None and entry.module.partition(".")[0] == package:
            return f"{entry.dist.name} {entry.dist.version} (harness {harness.name!r})"
    return f"package {package} (harness {harness.name!r})"
