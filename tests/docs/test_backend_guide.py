"""The guide for authors of backends shows code that is there, as it is there (and that the matrix runs)."""

from __future__ import annotations

from pathlib import Path
from textwrap import indent

from .blocks import blocks

ROOT = Path(__file__).parents[2]
PAGE = "how-to/write-a-backend.md"


def test_the_guides_code_is_the_plugins_own() -> None:
    shown = [(about.strip().removeprefix("from="), text) for _, about, text in blocks(PAGE) if "from=" in about]
    assert len(shown) >= 4
    for file, text in shown:
        code = (ROOT / file).read_text()
        own = text.strip("\n")
        assert own in code or indent(own, "    ") in code, f"{PAGE} shows another {file}"
