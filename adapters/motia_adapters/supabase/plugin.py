"""Introduces the Supabase adapter. Loads neither ``supabase`` nor the adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from motia_adapters.postgresql.capabilities import MANAGED, MAPPED
from motia_adapters.supabase.options import SupabaseOptions, options_from_url
from motia_core.adapter import Adapter, AdapterPlugin, StorageSettings
from motia_core.hookspecs import hookimpl


def _load() -> Callable[[StorageSettings, Any], Adapter]:
    from motia_adapters.supabase.adapter import SupabaseAdapter

    return SupabaseAdapter


PLUGIN = AdapterPlugin(
    name="supabase",
    schemes=("supabase",),
    options=SupabaseOptions,
    load=_load,
    from_url=options_from_url,
    modes={"managed": MANAGED, "mapped": MAPPED},
    install="motia-core[supabase]",
)


@hookimpl
def motia_register_adapters() -> Sequence[AdapterPlugin]:
    """The Supabase adapter."""
    return [PLUGIN]
