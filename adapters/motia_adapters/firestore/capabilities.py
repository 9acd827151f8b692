"""What Firestore promises."""

from __future__ import annotations

from dataclasses import replace

from motia_core.adapter import FULL, Capabilities, limited, unsupported

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

MAPPED = replace(
    MANAGED,
    exact_values=limited(
        'timestamps, references, points, bytes and NaN are objects such as {"$timestamp": ...}; an array right inside'
        ' an array, fields named "" or __x__, and more than 20 levels are refused'
    ),
    equal_writes=unsupported("Firestore tells nobody of a write that changes nothing"),
    any_ids=limited("ids that Firestore takes: no '/', not '.', '..' or __x__"),
    isolation=limited("the documents are the application's own: one stream maps them, in every namespace the same"),
    ttl=unsupported("the documents are the application's own, which knows no deadlines"),
    history=limited("coalesced: what each document has become, not each step"),
    restore_detection=unsupported(
        "Firestore keeps no log: a restored database is compared as of the position's time, if it remembers that"
    ),
    foreign_writes=FULL,
    max_position_length=90,
)
"""What documents of the user's own promise."""
