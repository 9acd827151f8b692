"""Introduces the Redis adapter. Loads neither ``hiredis`` nor the adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from motia_adapters.redis.capabilities import MANAGED
from motia_adapters.redis.options import RedisOptions, options_from_url
from motia_core.adapter import Adapter, AdapterPlugin, StorageSettings
from motia_core.hookspecs import hookimpl


def _load() -> Callable[[StorageSettings, Any], Adapter]:
    from motia_adapters.redis.adapter import RedisAdapter

    return RedisAdapter


PLUGIN = AdapterPlugin(
    name="redis",
    schemes=("redis", "rediss"),
    options=RedisOptions,
    load=_load,
    from_url=options_from_url,
    modes={"managed": MANAGED},
    install="motia-core[redis]",
)


@hookimpl
def motia_register_adapters() -> Sequence[AdapterPlugin]:
    """The Redis adapter."""
    return [PLUGIN]
