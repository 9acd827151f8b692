"""What PostgreSQL promises, whatever the way to it."""

from __future__ import annotations

from dataclasses import replace

from motia_core.adapter import FULL, Capabilities, limited, unsupported

UPDATE_ATTEMPTS = 100
"""Rounds after which an update that always loses its race gives up."""

MANAGED = Capabilities(
    exact_values=FULL,
    equal_writes=FULL,
    any_ids=FULL,
    isolation=FULL,
    conditional_writes=FULL,
    batch=FULL,
    ttl=FULL,
    custom_events=FULL,
    history=FULL,
    ordered_versions=FULL,
    restore_detection=limited(
        "a restart, a failover, a restored data folder, DROP and TRUNCATE are noticed; rows put back by hand into"
        " tables of a running server are not (motia-core migrate new-history STREAM then)"
    ),
    durable=limited(
        "what the server's settings keep: synchronous_commit off may lose the last commits in a crash, a failover to an"
        " asynchronous replica what that had not yet; the loss is detected"
    ),
    multi_process=FULL,
    foreign_writes=unsupported("managed storage owns its tables: other programs write through motia-core"),
    max_batch_writes=1_000,
    max_batch_bytes=16 * 2**20,
    max_value_bytes=50_000_000,
    max_position_length=29,
    update_attempts=UPDATE_ATTEMPTS,
    expiry_bound=5.0,
    notice_bound=1.5,
    progress_bound=2.0,
    tested_items=1_000_000,
)
"""What managed storage promises."""

MAPPED = replace(
    MANAGED,
    exact_values=limited(
        "equal after the mapping of the columns' types: numbers may change their kind (1 is 1.0), numeric with"
        " fractions and all other types are text; what a column cannot hold goes to rest_field, or raises InvalidValue"
    ),
    any_ids=limited("the columns of group and id have types (text, varchar, integers, uuid); others raise InvalidName"),
    isolation=limited("the table is the user's: one stream maps it, and every namespace sees the same rows"),
    ttl=unsupported("rows of the user's table have no deadline"),
    foreign_writes=FULL,
)
"""What a mapped table promises."""
