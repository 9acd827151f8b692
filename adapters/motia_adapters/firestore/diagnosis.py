"""What ``doctor`` says about Firestore: whose project it is, and what its user needs there."""

from __future__ import annotations

from collections.abc import Sequence

from motia_adapters.firestore.connection import Connection
from motia_adapters.firestore.mapped.documents import query_below
from motia_adapters.firestore.mapped.template import Template
from motia_core.adapter import Finding
from motia_core.errors import BackendError

RULES = """match /{root}/{{document=**}} {{ allow read, write: if false; }}"""
"""A security rule: no browser or phone reads or writes what managed storage keeps."""
INDEXES = (("log", "changes"), ("log", "values"), ("items", "json"))
"""Fields, by the last name of their collection, whose index nobody uses and which cost storage."""


async def diagnose(connection: Connection, template: Template | None = None, outside: int = 0) -> Sequence[Finding]:
    """Findings; whether the database can be read and written is tried by reads and a write that is never applied.

    ``template`` is where mapped documents are, if any; ``outside`` of those that were seen can be no item.
    """
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
    if template is not None:
        findings += await _mapped(connection, template, outside)
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


async def _mapped(connection: Connection, template: Template, outside: int) -> list[Finding]:
    """Whether the user's documents can be found. One billed read."""
    query = query_below(connection.documents, template, limit=1, names_only=True)
    try:
        found, _ = await connection.query(connection.documents, query)
    except BackendError as error:
        return [Finding("error", f"{template.text}: {error}", "give the account the role roles/datastore.user")]
    findings = [Finding("ok", f"the documents at {template.text} are mapped, and can be read")]
    if not found:
        findings = [
            Finding("warning", f"there is no document at {template.text}", "is the path as your application has it?")
        ]
    if outside:
        findings.append(
            Finding(
                "warning",
                f"{outside} documents at {template.text} are left out: no item may have their group or id",
                "rename them: control characters, and more than 512 bytes, are not allowed",
            )
        )
    return findings
