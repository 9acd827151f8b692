"""What ``doctor`` says."""

from __future__ import annotations

import grpc

from tests.adapters.firestore.conftest import Lab


async def test_it_names_project_credentials_indexes_and_rules(lab: Lab) -> None:
    adapter = await lab.connect()
    before = dict(lab.gateway.billed)
    findings = await adapter.diagnose()
    said = "\n".join(f"{finding.level}: {finding.message} ({finding.remedy})" for finding in findings)
    assert "firestore://demo-motia/(default)" in said
    assert "credentials: none: the emulator asks for none" in said
    assert "warning: the emulator keeps everything in memory" in said
    assert "no composite index is needed" in said
    assert "log.values" in said
    assert "match /motia/{document=**} { allow read, write: if false; }" in said
    assert "ok: documents may be read and written" in said
    assert not [finding for finding in findings if finding.level == "error"]
    assert lab.gateway.billed["deletes"] == before.get("deletes", 0)


async def test_missing_rights_are_an_error_with_the_role_that_is_needed(lab: Lab) -> None:
    adapter = await lab.connect()
    lab.gateway.refuse, lab.gateway.said = grpc.StatusCode.PERMISSION_DENIED, "Missing or insufficient permissions."
    errors = [finding for finding in await adapter.diagnose() if finding.level == "error"]
    assert len(errors) == 1
    assert "Missing or insufficient permissions" in errors[0].message
    assert "roles/datastore.user" in errors[0].remedy
