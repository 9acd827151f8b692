"""Introduces the SQLite adapter. Loads neither ``sqlite3`` nor the adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from motia_adapters.sqlite.capabilities import MANAGED, MAPPED
from motia_adapters.sqlite.options import SqliteOptions, options_from_url
from motia_core.adapter import Adapter, AdapterPlugin, StorageSettings
from motia_core.hookspecs import hookimpl


def _load() -> Callable[[StorageSettings, Any], Adapter]:
    from motia_adapters.sqlite.adapter import SqliteAdapter

    return SqliteAdapter


PLUGIN = AdapterPlugin(
    name="sqlite",
    schemes=("sqlite",),
    options=SqliteOptions,
    load=_load,
    from_url=options_from_url,
    modes={"managed": MANAGED, "mapped": MAPPED},
    install="a Python that was built with its sqlite3 module",
)


@hookimpl
def motia_register_adapters() -> Sequence[AdapterPlugin]:
    """The SQLite adapter."""
    return [PLUGIN]
