"""What ``doctor`` says about the server and our objects in it: findings from `motia.facts`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from motia_adapters.postgresql.migrations import quoted
from motia_adapters.postgresql.options import MappedOptions
from motia_adapters.postgresql.table import unusable
from motia_core.adapter import Finding

OLDEST = 140_000
"""The oldest server that is supported, as ``server_version_num``."""
LONG = 300
"""Seconds after which an open transaction is mentioned."""
MANY = 10_000
"""Changes that wait for their place in the order, from which on it is mentioned."""


def diagnose(facts: Mapping[str, Any], *, timeout: float, supabase: bool) -> list[Finding]:
    """Findings about the server."""
    findings = [Finding("ok", f"PostgreSQL {facts['version']}")]
    if facts["number"] < OLDEST:
        findings.append(Finding("error", "PostgreSQL 14 or newer is needed", "upgrade the server"))
    if facts["replica"]:
        findings.append(Finding("error", "this server is a replica: it takes no writes", "connect to the primary"))
    if facts["encoding"] != "UTF8":
        message = (
            f"the database's encoding is {facts['encoding']}: it cannot hold every text, and sorts ids its own way"
        )
        findings.append(Finding("error", message, "CREATE DATABASE ... ENCODING 'UTF8', and move there"))
    if facts["isolation"] not in ("read committed", "read uncommitted"):
        message = f"default_transaction_isolation is {facts['isolation']}: writes need read committed"
        remedy = "ALTER ROLE ... SET default_transaction_isolation = 'read committed' for our role"
        findings.append(Finding("error", message, remedy))
    if facts["fsync"] == "off":
        findings.append(Finding("error", "fsync is off: a power cut corrupts the database", "fsync = on"))
    if facts["synchronous_commit"] == "off":
        message = "synchronous_commit is off: a crash loses the last acknowledged writes (the loss is detected)"
        findings.append(Finding("warning", message, "synchronous_commit = on"))
    limit = facts["statement_timeout"]
    if 0 < limit < timeout * 500:
        message = f"statement_timeout is {limit} ms: large batches and snapshots will be cancelled"
        findings.append(Finding("warning", message, "ALTER ROLE ... SET statement_timeout = '10s' for our role"))
    longest = facts["longest_transaction"]
    if longest is not None and longest > LONG:
        message = f"a transaction has been open for {longest:.0f} s: nothing that was deleted since can be cleaned up"
        findings.append(Finding("warning", message, "SELECT * FROM pg_stat_activity ORDER BY xact_start"))
    return findings + (_supabase(facts) if supabase else []) + _tables(facts)


def _supabase(facts: Mapping[str, Any]) -> list[Finding]:
    findings: list[Finding] = []
    if "0003_motia_supabase" not in (facts["migrations"] or []):
        message = "the migration for Supabase is missing: nothing wakes readers up"
        return [Finding("error", message, "motia-core migrate apply, or motia-core migrate print")]
    if not facts["realtime"]:
        message = "there is no function realtime.send: readers are not woken up, and look four times a second"
        findings.append(Finding("warning", message, "upgrade the project, or set realtime = false"))
    if facts["log_policies"]:
        message = "a policy opens motia.log to users: the log holds every group's values"
        findings.append(Finding("error", message, "drop the policies on motia.log"))
    if facts["open_to_anon"]:
        message = "the role anon may call motia.write: anybody can write"
        findings.append(Finding("error", message, "REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA motia FROM anon"))
    if not facts["row_security"]:
        message = "row level security is off on tables of schema motia"
        findings.append(Finding("error", message, "ALTER TABLE ... ENABLE ROW LEVEL SECURITY"))
    return findings


def _tables(facts: Mapping[str, Any]) -> list[Finding]:
    findings: list[Finding] = []
    for table in facts["tables"]:
        name = table["table"]
        if not table["exists"]:
            message = f"mapped table {name} was dropped"
            findings.append(Finding("warning", message, "motia.unmap_table, or make it anew and migrate again"))
        elif not table["captured"]:
            message = (
                f"the triggers on {name} are missing or disabled, or the table is another one: changes pass unseen"
            )
            findings.append(Finding("error", message, "motia-core migrate apply (history begins anew)"))
        if table["obstacle"]:
            obstacle, _, remedy = table["obstacle"].partition(": ")
            findings.append(Finding("error", f"{name} {obstacle}", remedy))
        if facts["prepared"]:
            message = f"max_prepared_transactions is {facts['prepared']}, and what has notified cannot be prepared:"
            message += f" what others write to {name} is noticed within a second, not at once"
            findings.append(Finding("ok", message))
        if table["pending"] > MANY:
            message = f"{table['pending']} changes of {name} wait for their place: nobody reads them"
            findings.append(Finding("warning", message, "run the application, or motia.unmap_table"))
    return findings


def diagnose_table(mapped: MappedOptions, found: Mapping[str, Any], count: int) -> list[Finding]:
    """Findings about the mapped table."""
    group, id = mapped.group_field, mapped.id_field
    findings = [
        Finding("ok", f"table {mapped.table!r} is mapped: groups in {group!r}, ids in {id!r}; triggers capture changes")
    ]
    table = ".".join(map(quoted, mapped.place))
    if count:
        usable = " AND ".join(f"motia.usable({quoted(key)}::text)" for key in (group, id))
        remedy = f"SELECT * FROM {table} WHERE NOT ({usable})"
        findings.append(Finding("warning", unusable(mapped.table, count, (group, id)), remedy))
    if not found["indexed"]:
        keys = (
            f'({quoted(name)}{"" if type == "text" else "::text"}) COLLATE "C"'
            for name, type in ((group, found["group_type"]), (id, found["id_type"]))
        )
        message = f"lists, groups and pages of table {mapped.table!r} sort: no index has the order of the ids' bytes"
        findings.append(Finding("warning", message, f"CREATE INDEX ON {table} ({', '.join(keys)})"))
    return findings
