"""Projects as tests want them."""

from __future__ import annotations

from pathlib import Path

from motia_core.app import Motia
from motia_core.config import Settings
from motia_core.discovery import find
from motia_core.plugins import Plugins


def in_memory(folder: Path) -> Motia:
    """The project in a folder, with each of its storages in memory; it is not open yet.

    Its ``motia.toml`` is not read: a test needs no servers and no secrets.
    """
    project = find(folder)
    plugins = Plugins.load()
    storages = {"default", *(stream.storage_type for stream in project.streams)}
    return Motia(
        streams=project.streams,
        steps=project.steps,
        authenticate=project.authenticate,
        plugins=plugins,
        settings=Settings.build(storage=dict.fromkeys(storages, "memory://"), plugins=plugins),
    )
