"""What SQLite promises."""

from __future__ import annotations

from motia_core.adapter import FULL, Capabilities, limited, unsupported

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
