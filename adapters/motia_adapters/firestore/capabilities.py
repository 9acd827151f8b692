"""What Firestore promises."""

from __future__ import annotations

from motia_core.adapter import FULL, Capabilities, unsupported

UPDATE_ATTEMPTS = 60
"""Rounds after which a write that always loses its race to other processes gives up."""

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
    durable=FULL,
    multi_process=FULL,
    foreign_writes=unsupported("managed storage owns its documents: other programs write through motia-core"),
    max_batch_writes=500,
    max_batch_bytes=4_000_000,
    max_value_bytes=1_000_000,
    max_position_length=28,
    update_attempts=UPDATE_ATTEMPTS,
    expiry_bound=5.0,
    notice_bound=12.0,
    progress_bound=12.0,
    tested_items=20_000,
)
"""What managed storage in Firestore promises; ``tested_items`` is what Google's emulator is asked to take."""
