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

# pytest loads this wherever motia-core is installed: it must cost nothing, and need nothing else.


def pytest_addoption(parser: pytest.Parser) -> None:
    """The ini option."""
    parser.addini("motia_project", "the folder of the motia-core project that the fixture `motia` opens", default=".")


@pytest.fixture
def motia_project(pytestconfig: pytest.Config) -> Motia:
    """The project, with each of its storages in memory; it is not open yet.

    Its ``motia.toml`` is not read: a test needs no servers and no secrets. Raises
    `ConfigError` where there is no project.
    """
    from motia_core.app import Motia
    from motia_core.config import Settings
    from motia_core.discovery import find
    from motia_core.plugins import Plugins

    project = find(pytestconfig.rootpath / pytestconfig.getini("motia_project"))
    plugins = Plugins.load()
    storages = {"default", *(stream.storage_type for stream in project.streams)}
    return Motia(
        streams=project.streams,
        steps=project.steps,
        authenticate=project.authenticate,
        plugins=plugins,
        settings=Settings.build(storage=dict.fromkeys(storages, "memory://"), plugins=plugins),
    )


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
