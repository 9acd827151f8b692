"""What ``doctor`` says about Firestore: whose project it is, and what its user needs there."""

from __future__ import annotations

from collections.abc import Sequence

from motia_adapters.firestore.connection import Connection
from motia_core.adapter import Finding
from motia_core.errors import BackendError

RULES = """match /{root}/{{document=**}} {{ allow read, write: if false; }}"""
"""A security rule: no browser or phone reads or writes what managed storage keeps."""
INDEXES = (("log", "changes"), ("log", "values"), ("items", "json"))
"""Fields, by the last name of their collection, whose index nobody uses and which cost storage."""


async def diagnose(connection: Connection) -> Sequence[Finding]:
    """Findings; whether the database can be read and written is tried by reads and a write that is never applied."""
    account, options = connection.account, connection.options
    assert account is not None
    findings = [Finding("ok", f"{connection.address}, credentials: {account.source}")]
    if options.emulator:
        findings.append(
            Finding(
                "warning",
                "the emulator keeps everything in memory: a restart loses all",
                "for tests only; leave out emulator and FIRESTORE_EMULATOR_HOST to use Google's",
            )
        )
    try:
        await connection.try_write(f"{connection.documents}/{options.root}/-")
        findings.append(Finding("ok", "documents may be read and written"))
    except BackendError as error:
        findings.append(Finding("error", str(error), "give the account the role roles/datastore.user in this project"))
    findings.append(
        Finding(
            "ok",
            "no composite index is needed; these single-field indexes can be switched off to save storage: "
            + ", ".join(f"{collection}.{field}" for collection, field in INDEXES),
            "firestore.indexes.json, fieldOverrides with no indexes",
        )
    )
    findings.append(
        Finding(
            "ok",
            "security rules do not bind this server, but browsers and phones: keep them out",
            RULES.format(root=options.root),
        )
    )
    return findings
