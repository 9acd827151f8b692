"""What is written down agrees with the code."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import motia_core.errors
from motia_core.errors import MotiaError

ROOT = Path(__file__).parents[2]


def test_generated_pages_are_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "generate_docs.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_tree_of_errors_in_the_docstring_is_the_tree_of_classes() -> None:
    written: dict[str, str] = {}
    above: list[str] = []
    for line in (motia_core.errors.__doc__ or "").splitlines():
        words = line.lstrip(" │├└─").split()
        if not words or not line.startswith("    "):
            continue
        depth = (len(line) - len(line.lstrip(" │├└─"))) // 4 - 1
        above[depth:] = [words[0]]
        written[words[0]] = above[depth - 1] if depth else ""
    classes = {
        name: next((base.__name__ for base in value.__bases__ if issubclass(base, MotiaError)), "")
        for name, value in vars(motia_core.errors).items()
        if inspect.isclass(value) and issubclass(value, MotiaError)
    }
    assert written == classes


def test_every_error_can_be_imported_from_the_top() -> None:
    errors = {n for n, v in vars(motia_core.errors).items() if inspect.isclass(v) and issubclass(v, MotiaError)}
    assert errors <= set(motia_core.__all__)
