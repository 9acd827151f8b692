"""What SQLite promises."""

from __future__ import annotations

from dataclasses import replace

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

MAPPED = replace(
    MANAGED,
    exact_values=limited(
        "equal by ==: numbers take the kind of their column (1 becomes 1.0 in REAL), NULL is a key that is not there,"
        " BLOB is base64 text that cannot be written; what a column cannot hold goes to the rest_field or is refused"
    ),
    any_ids=limited("TEXT columns: any text; INTEGER columns: decimal numbers of 64 bits"),
    isolation=limited("one stream is the table, in every namespace"),
    ttl=unsupported("the table has no place for a deadline"),
    restore_detection=limited(
        "what another program writes to a restored file before motia-core opens it passes for the lost history"
    ),
    foreign_writes=FULL,
    tested_items=100_000,
)
"""What a mapped table promises."""
