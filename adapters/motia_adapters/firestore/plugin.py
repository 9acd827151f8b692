"""Introduces the Firestore adapter. Loads neither the driver nor the adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from motia_adapters.firestore.capabilities import MANAGED, MAPPED
from motia_adapters.firestore.options import FirestoreOptions, options_from_url
from motia_core.adapter import Adapter, AdapterPlugin, StorageSettings
from motia_core.hookspecs import hookimpl


def _load() -> Callable[[StorageSettings, Any], Adapter]:
    from motia_adapters.firestore.adapter import FirestoreAdapter

    return FirestoreAdapter


PLUGIN = AdapterPlugin(
    name="firestore",
    schemes=("firestore",),
    options=FirestoreOptions,
    load=_load,
    from_url=options_from_url,
    modes={"managed": MANAGED, "mapped": MAPPED},
    install="motia-core[firestore]",
)


@hookimpl
def motia_register_adapters() -> Sequence[AdapterPlugin]:
    """The Firestore adapter."""
    return [PLUGIN]
