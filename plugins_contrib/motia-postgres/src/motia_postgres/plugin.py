"""Introduces the adapter. Imports no driver: it is loaded when a storage needs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from motia_adapters.postgresql.capabilities import MANAGED, MAPPED

from motia_core.adapter import Adapter, AdapterPlugin, StorageSettings
from motia_core.hookspecs import hookimpl
from motia_postgres.options import PostgresOptions, options_from_url


def _load() -> Callable[[StorageSettings, Any], Adapter]:
    from motia_postgres.adapter import PostgresAdapter

    return PostgresAdapter


@hookimpl
def motia_register_adapters() -> Sequence[AdapterPlugin]:
    """The PostgreSQL adapter."""
    return [
        AdapterPlugin(
            name="postgres",
            schemes=("postgres", "postgresql"),
            options=PostgresOptions,
            load=_load,
            from_url=options_from_url,
            modes={"managed": MANAGED, "mapped": MAPPED},
            install="motia-postgres",
        )
    ]
