"""What a backend's author may expect to fail, and what happens when they are wrong about it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

MODULE = """\
import pytest
from motia_core.memory import MemoryAdapter, MemoryStore
from motia_core.testing import *
from motia_core.testing.faults import FAULTS


class MyHarness(Harness):
    name = "mine"
    expected_failures = [{expected}]

    def __init__(self):
        self.store = MemoryStore()

    def make(self, settings):
        return {make}


@pytest.fixture
def harness():
    return MyHarness()
"""


FAULTY = 'FAULTS["lossy_number"].make(settings, self.store)'


def run(folder: Path, expected: str, chosen: str = "", make: str = FAULTY) -> tuple[int, str]:
    (folder / "test_mine.py").write_text(MODULE.format(expected=expected, make=make))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rA",
        "--tb=line",
        "-p",
        "no:cacheprovider",
        "-o",
        "asyncio_mode=auto",
    ]
    command += [f"test_mine.py{chosen}", "--deselect", "test_mine.py::TestMachine"]
    environment = {**os.environ, "MOTIA_TEST_EXAMPLES": "5", "MOTIA_TEST_DEADLINE": "5"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    "name", ["test_A1_odd_values_come_back_to_the_last_bit[3]", "test_A1_odd_values_come_back_to_the_last_bit"]
)
def test_an_expected_failure_is_none_and_one_that_passes_is_one(tmp_path: Path, name: str) -> None:
    whole = "::TestData::test_A1_odd_values_come_back_to_the_last_bit"
    _, plain = run(tmp_path, "", whole)
    failing = {line.split()[1] for line in plain.splitlines() if line.startswith("FAILED")}
    passing = {line.split()[1] for line in plain.splitlines() if line.startswith("PASSED")}
    assert failing
    assert passing
    code, output = run(tmp_path, f'ExpectedFailure("{name}", "whole floats come back as integers")', whole)
    assert code == 1
    expected = {test for test in failing | passing if test.endswith(name) or "[" not in name}
    assert output.count("\nXFAIL") == len(expected & failing)
    assert output.count("[XPASS(strict)] whole floats come back as integers") >= bool(expected & passing)
    left = {line.split()[1] for line in output.splitlines() if line.startswith("FAILED")}
    assert left == (failing - expected) | (passing & expected)


def test_a_failure_of_another_kind_is_not_the_expected_one(tmp_path: Path) -> None:
    name = "test_A1_odd_values_come_back_to_the_last_bit"
    code, output = run(tmp_path, f'ExpectedFailure("{name}", "raises", TimeoutError)', f"::TestData::{name}")
    assert code == 1
    assert "\nXFAIL" not in output


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("test_A6_pages_by_the_bytes_of_id", "did you mean 'test_A6_pages_by_the_bytes_of_ids'?"),
        ("test_A9_bad_ids_are_refused[nope]", "did you mean 'test_A9_bad_ids_are_refused"),
    ],
)
def test_one_that_names_no_test_ends_the_run_and_says_whose_it_is(tmp_path: Path, wrong: str, hint: str) -> None:
    code, output = run(tmp_path, f'ExpectedFailure("{wrong}", "never mind")')
    assert code == pytest.ExitCode.USAGE_ERROR
    assert output.count("is no test of the suite") == 1
    assert f"package motia_core (harness 'mine'): expected failure '{wrong}' is no test of the suite; {hint}" in output


def test_the_distribution_of_the_adapter_is_named(tmp_path: Path) -> None:
    make = '__import__("motia_adapters.sqlite.adapter").sqlite.adapter.SqliteAdapter(settings, SqliteOptions())'
    make = make.replace("SqliteOptions", '__import__("motia_adapters.sqlite.options").sqlite.options.SqliteOptions')
    code, output = run(tmp_path, 'ExpectedFailure("test_A99_nothing", "never mind")', make=make)
    assert code == pytest.ExitCode.USAGE_ERROR
    assert f"motia-core {version('motia-core')} (harness 'mine'): expected failure 'test_A99_nothing'" in output
