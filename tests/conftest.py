"""What runs together, and in which order, when tests run in several processes."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

LONGEST = ("tests/meta/faults", "tests/conformance")
"""Begin first: nothing takes as long."""
KINDS = ("mapped", "motor", "norealtime")
"""Second words in the names of the matrix's backends."""


class Rooms(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """One file, or one backend of the matrix, stays in one process: it shares a server."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if not file.endswith("conformance/test_matrix.py"):
            return file
        backend, _, rest = nodeid.partition("[")[2].rstrip("]").partition("-")
        kind = rest.partition("-")[0]
        return f"{file}::{backend}-{kind}" if kind in KINDS else f"{file}::{backend}"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Instead of xdist's own ways to group tests."""
    config.option.loadscopereorder = False
    return Rooms(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest begin first."""
    items.sort(
        key=lambda item: next((n for n, part in enumerate(LONGEST) if item.nodeid.startswith(part)), len(LONGEST))
    )
