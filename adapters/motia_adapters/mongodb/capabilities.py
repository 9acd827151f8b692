"""What MongoDB promises."""

from __future__ import annotations

from motia_core.adapter import FULL, Capabilities, limited, unsupported

UPDATE_ATTEMPTS = 100

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
    restore_detection=FULL,
    durable=limited(
        "writes are acknowledged by a majority: what a majority keeps through a failover or crash survives"
    ),
    multi_process=FULL,
    foreign_writes=unsupported("managed storage owns its collections: other programs write to mapped ones"),
    max_batch_writes=1_000,
    max_batch_bytes=12_000_000,
    max_value_bytes=7_000_000,
    max_position_length=36,
    update_attempts=UPDATE_ATTEMPTS,
    expiry_bound=5.0,
    notice_bound=2.0,
    progress_bound=5.0,
    tested_items=200_000,
)
"""What managed storage in MongoDB promises."""
