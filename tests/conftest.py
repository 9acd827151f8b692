"""What runs together in one process when tests run in several (``--dist=loadgroup``)."""

from __future__ import annotations

import pytest

LONGEST = "tests/meta/faults"
"""Begins first: nothing takes as long."""


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One file, or one backend of the matrix, stays in one process: it shares a server."""
    for item in items:
        group = item.nodeid.partition("::")[0]
        if group.endswith("conformance/test_matrix.py"):
            group = item.callspec.params["harness"].name  # type: ignore[attr-defined]
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))
