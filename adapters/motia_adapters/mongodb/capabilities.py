"""What MongoDB promises."""

from __future__ import annotations

from dataclasses import replace

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

MAPPED = replace(
    MANAGED,
    exact_values=limited(
        "BSON types that JSON lacks come as text (dates, ObjectIds, Decimal128, UUIDs, binary) and stay what they are;"
        " new keys that begin with '$' are refused"
    ),
    equal_writes=unsupported("MongoDB logs no write that changes nothing"),
    any_ids=limited("ids and groups are text, ObjectIds (24 hex digits) or integers, as id_type and group_type say"),
    isolation=limited("one stream is the collection, in every namespace"),
    ttl=unsupported("the documents have no place for a deadline"),
    ordered_versions=limited("hashes of the content: equal or not"),
    foreign_writes=FULL,
    tested_items=200_000,
)
"""What a mapped collection promises."""
