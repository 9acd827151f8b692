"""What ``doctor`` says about a Redis server."""

from __future__ import annotations

from collections.abc import Mapping

from motia_core.adapter import Finding


def diagnose(address: str, facts: Mapping[str, str], config: Mapping[str, str]) -> list[Finding]:
    """Findings. ``facts`` is what INFO says; ``config`` what CONFIG GET says, empty where it is not allowed."""
    name = "Valkey" if "valkey_version" in facts else "Redis"
    version = facts.get("valkey_version") or facts.get("redis_version", "?")
    mode = facts.get("redis_mode", "standalone")
    findings = [Finding("ok", f"{name} {version} ({mode}) at {address}")]
    findings += _persistence(facts, config)
    findings += _memory(facts)
    if facts.get("connected_slaves", "0") != "0":
        findings.append(
            Finding("ok", "a failover may lose the last writes (the loss is detected)", "min-replicas-to-write")
        )
    return findings


def _persistence(facts: Mapping[str, str], config: Mapping[str, str]) -> list[Finding]:
    if facts.get("aof_enabled") == "1":
        fsync = config.get("appendfsync", "unknown")
        if facts.get("aof_last_write_status", "ok") != "ok":
            return [Finding("error", "the append-only file cannot be written", "look at the server's log and disk")]
        if fsync == "always":
            return [Finding("ok", "appendonly yes, appendfsync always: acknowledged writes survive a crash")]
        return [
            Finding(
                "ok",
                f"appendonly yes, appendfsync {fsync}: a crash may lose the last second (the loss is detected)",
                "appendfsync always",
            )
        ]
    if config.get("save") == "":
        return [Finding("warning", "the server keeps nothing on disk: a restart loses all", "appendonly yes")]
    if facts.get("rdb_last_bgsave_status", "ok") != "ok":
        return [Finding("error", "the last dump failed", "look at the server's log and disk")]
    return [
        Finding("warning", "only dumps are kept: a crash loses what came after the last one", "appendonly yes"),
    ]


def _memory(facts: Mapping[str, str]) -> list[Finding]:
    policy = facts.get("maxmemory_policy", "noeviction")
    limit, used = int(facts.get("maxmemory", "0") or 0), int(facts.get("used_memory", "0") or 0)
    if policy.startswith("allkeys-"):
        return [
            Finding("error", f"maxmemory-policy {policy} removes data in silence", "maxmemory-policy noeviction"),
        ]
    if limit and used > 0.9 * limit:
        return [Finding("warning", f"{used} of {limit} bytes of maxmemory are used", "raise maxmemory")]
    return []
