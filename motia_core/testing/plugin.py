"""The pytest plugin for applications' own tests: the fixture ``motia``, in memory, without a server.

>>> async def test_editing(motia):
...     await motia.streams["documents"].set("workspace-1", "doc-123", {"title": "Plan"})

It opens the project in pytest's root folder, or in the folder that the ini option
``motia_project`` names: its streams, steps and hooks, with every storage in memory, and its
triggers running. Override the fixture ``motia_project`` to give another `Motia`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from motia_core.app import Motia


def pytest_addoption(parser: pytest.Parser) -> None:
    """The ini option."""
    parser.addini("motia_project", "the folder of the motia-core project that the fixture `motia` opens", default=".")


@pytest.fixture
def motia_project(pytestconfig: pytest.Config) -> Motia:
    """The project, not open yet. Raises `ConfigError` where there is none."""
    from motia_core.testing.projects import in_memory

    return in_memory(pytestconfig.rootpath / pytestconfig.getini("motia_project"))


try:
    from pytest_asyncio import fixture
except ImportError:  # without it there are no asynchronous tests that could use the fixture
    pass
else:

    @fixture
    async def motia(motia_project: Motia) -> AsyncGenerator[Motia, None]:
        """The project, open, on empty storages."""
        async with motia_project:
            yield motia_project
