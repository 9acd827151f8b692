"""Introduces the SQLite adapter. Loads neither ``sqlite3`` nor the adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from motia_adapters.sqlite.options import SqliteOptions, options_from_url
from motia_core.adapter import FULL, Adapter, AdapterPlugin, Capabilities, StorageSettings, limited, unsupported
from motia_core.hookspecs import hookimpl

MANAGED = Capabilities(
    conditional_writes=FULL,
    batch=FULL,
    ttl=FULL,
    custom_events=FULL,
    history=FULL,
    ordered_versions=FULL,
    restore_detection=FULL,
    durable=limited(
        'survives a crash of any process; a power cut may lose the last commits unless synchronous = "FULL"'
    ),
    multi_process=limited("processes of one machine; not on network file systems"),
    foreign_writes=unsupported("managed storage owns its tables: other programs write through motia-core"),
    max_batch_writes=1_000,
    max_batch_bytes=16 * 2**20,
    max_value_bytes=100_000_000,
    max_position_length=29,
    update_attempts=1,
    expiry_bound=5.0,
    notice_bound=0.5,
    progress_bound=2.0,
    tested_items=1_000_000,
)
"""What managed storage in SQLite promises."""


def _load() -> Callable[[StorageSettings, Any], Adapter]:
    from motia_adapters.sqlite.adapter import SqliteAdapter

    return SqliteAdapter


PLUGIN = AdapterPlugin(
    name="sqlite",
    schemes=("sqlite",),
    options=SqliteOptions,
    load=_load,
    from_url=options_from_url,
    modes={"managed": MANAGED},
    install="a Python that was built with its sqlite3 module",
)


@hookimpl
def motia_register_adapters() -> Sequence[AdapterPlugin]:
    """The SQLite adapter."""
    return [PLUGIN]
