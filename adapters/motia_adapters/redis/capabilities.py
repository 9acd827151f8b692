"""What Redis promises."""

from __future__ import annotations

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
        "a restart, failover, FLUSHALL or DEL is noticed; keys that are put back into a running server are not"
        " (say `motia-core migrate new-history` then)"
    ),
    durable=limited(
        "what the server's own persistence keeps: with appendfsync everysec a crash may lose a second, a failover what"
        " the replica had not yet; the loss is detected"
    ),
    multi_process=FULL,
    foreign_writes=unsupported("managed storage owns its keys: other programs write through motia-core"),
    max_batch_writes=1_000,
    max_batch_bytes=16 * 2**20,
    max_value_bytes=100_000_000,
    max_position_length=29,
    update_attempts=UPDATE_ATTEMPTS,
    expiry_bound=5.0,
    notice_bound=1.5,
    progress_bound=2.0,
    tested_items=1_000_000,
)
"""What managed storage in Redis promises."""
