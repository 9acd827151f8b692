"""A Supabase that is already there is told by the environment; one that must be there and is not fails the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from motia_core.testing.servers import Missing
from tests.stack.postgrest import program as postgrest
from tests.stack.supabase import PREFIX

ROOT = Path(__file__).parents[3]
PLAIN = {name: value for name, value in os.environ.items() if not name.startswith((PREFIX, "MOTIA_REQUIRE", "PYTEST_"))}
CHOSEN = "stack and (test_A1_nesting or test_C1 or test_doctor or test_row_level or test_a_mapped)"


def suite(**told: str) -> tuple[int, str]:
    """Some tests of the suite, and of Supabase, in another process: the exit code, and what was said."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", CHOSEN]
    done = subprocess.run(
        [*command, "tests/conformance", "tests/adapters/supabase"],
        cwd=ROOT, env={**PLAIN, **told}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def there() -> Iterator[dict[str, str]]:
    """Another process's stand-ins, as they tell of themselves."""
    try:
        postgrest()
    except Missing as missing:
        pytest.skip(str(missing))
    command = [sys.executable, "-m", "tests.standins"]
    with subprocess.Popen(command, cwd=ROOT, env=PLAIN, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().strip() for _ in range(5)]
        yield {PREFIX + name: value.strip('"') for name, _, value in (line.partition("=") for line in lines)}
        process.terminate()
        assert process.wait(60) == 0


def test_the_tests_run_on_a_supabase_that_is_already_there(there: dict[str, str]) -> None:
    code, said = suite(MOTIA_REQUIRE="supabase", **there)
    assert code == 0, said
    assert "skipped" not in said


def test_one_that_must_be_there_fails_the_tests_and_says_what_is_missing() -> None:
    code, said = suite(MOTIA_REQUIRE="supabase", DOCKER_HOST="unix:///nowhere")
    assert code == 1, said
    assert "MOTIA_TEST_SUPABASE_API_URL does not tell of one that is there, and no Docker engine answers" in said
    code, said = suite(MOTIA_TEST_SUPABASE_API_URL="http://127.0.0.1:1", MOTIA_REQUIRE="supabase")
    assert code == 1, said
    assert "MOTIA_TEST_SUPABASE_DB_URL is not set" in said
