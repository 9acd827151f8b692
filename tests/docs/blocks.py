"""Code out of the documentation's pages."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str) -> list[tuple[str, str, str]]:
    """The fenced blocks of a page: language, what stands behind it, text."""
    return re.findall(r"^```(\w+)([^\n]*)\n(.*?)^```$", (DOCS / page).read_text(), re.M | re.S)


def write_files(page: str, folder: Path) -> None:
    """Write the blocks that are files where they say."""
    for _, about, text in blocks(page):
        if "file=" in about:
            file = folder / about.strip().removeprefix("file=")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
