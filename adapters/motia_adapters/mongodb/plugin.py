"""Introduces the MongoDB adapter. Loads neither PyMongo, nor Motor, nor the adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from motia_adapters.mongodb.capabilities import MANAGED, MAPPED
from motia_adapters.mongodb.options import MongoOptions, options_from_url
from motia_core.adapter import Adapter, AdapterPlugin, StorageSettings
from motia_core.hookspecs import hookimpl


def _load() -> Callable[[StorageSettings, Any], Adapter]:
    from motia_adapters.mongodb.adapter import MongoAdapter

    return MongoAdapter


PLUGIN = AdapterPlugin(
    name="mongodb",
    schemes=("mongodb", "mongodb+srv"),
    options=MongoOptions,
    load=_load,
    from_url=options_from_url,
    modes={"managed": MANAGED, "mapped": MAPPED},
    install="motia-core[mongodb]",
)


@hookimpl
def motia_register_adapters() -> Sequence[AdapterPlugin]:
    """The MongoDB adapter."""
    return [PLUGIN]
