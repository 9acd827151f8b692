"""Each fault is caught by the clause that names it, and by no unrelated one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from motia_core.testing.faults import FAULTS

HERE = Path(__file__).parent
PROCESSES = 2


@pytest.fixture(scope="session")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The ids of the failed tests, by fault; every test of the suite has run on every fault."""
    folder = tmp_path_factory.mktemp("faults")
    names = sorted(FAULTS)
    running = []
    for part in range(PROCESSES):
        report = folder / f"{part}.json"
        environment = {
            **os.environ,
            "MOTIA_FAULTS": ",".join(names[part::PROCESSES]),
            "MOTIA_FAULTS_REPORT": str(report),
            "MOTIA_TEST_DEADLINE": "2",
            "MOTIA_TEST_EXAMPLES": "15",
        }
        command = [sys.executable, "-m", "pytest", str(HERE / "suite.py"), "-q", "--tb=no", "-p", "no:cacheprovider"]
        log = (folder / f"{part}.log").open("w")
        running.append((subprocess.Popen(command, env=environment, stdout=log, stderr=log), report, log))
    found: dict[str, list[str]] = {}
    for process, report, log in running:
        process.wait(timeout=900)
        log.close()
        assert report.exists(), Path(log.name).read_text()[-3000:]
        found |= json.loads(report.read_text())
    return found


def clauses(tests: list[str]) -> set[str]:
    return {found[1] for test in tests if (found := re.search(r"::test_([A-F][0-9]+)_", test))}


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_each_fault_is_caught_by_its_clause_and_by_no_unrelated_one(name: str, failures: dict[str, list[str]]) -> None:
    fault, failed = FAULTS[name], clauses(failures[name])
    assert fault.clause in failed, f"the suite did not see it; it saw {sorted(failed)}"
    assert failed <= {fault.clause, *fault.also}, f"unrelated clauses failed: {failures[name]}"


def test_there_are_enough_faults_and_each_says_what_it_does() -> None:
    assert len(FAULTS) >= 20
    for fault in FAULTS.values():
        assert fault.make.__doc__
