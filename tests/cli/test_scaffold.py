"""``new-adapter``: what it makes passes the suite before a line is changed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from motia_core.cli import main


def test_what_it_makes_passes_the_suite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "made"
    with pytest.raises(SystemExit) as ended:
        main(["new-adapter", "tape-robot", "--folder", str(folder)])
    assert ended.value.code == 0
    assert "python -m pytest" in capsys.readouterr().err
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder / "src"),
        "MOTIA_TEST_MACHINE": "10",
        "MOTIA_TEST_EXAMPLES": "20",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
    assert "import motia_core.memory" not in (folder / "src" / "motia_tape_robot" / "adapter.py").read_text()


@pytest.mark.parametrize("name", ["Tape", "9tape", "tape_robot", "tape--robot", "-tape", "tape/robot", ""])
def test_a_bad_name_says_what_is_allowed(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["new-adapter", "--folder", str(tmp_path / "made"), "--", name])
    assert "must be words of lower-case letters and digits, joined by '-'" in str(ended.value.code)
    assert not (tmp_path / "made").exists()


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["new-adapter", "tape", "--folder", str(tmp_path)])
    assert "exists already" in str(ended.value.code)
