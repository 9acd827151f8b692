"""Whether a server can be used at all, and what ``doctor`` says of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from motia_adapters.mongodb.link import Link
from motia_adapters.mongodb.mapped.mapping import Collection, keeps_images
from motia_core.adapter import Finding
from motia_core.errors import BackendError

OLDEST = (5, 0)
MAPPED_OLDEST = (6, 0)
RIGHTS = ("find", "insert", "update", "remove", "createCollection", "createIndex", "listCollections", "changeStream")
"""What the user has to be allowed on the database; the role readWrite has it all."""
SHORT_WINDOW = 24.0
"""Hours of oplog under which ``doctor`` warns."""


async def check_server(link: Link, *, mapped: bool) -> None:
    """Raise `BackendError` with the remedy for a server without change streams, or too old."""
    hello = await link.run({"hello": 1}, database="admin")
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        raise BackendError(
            f"mongodb: the server at {link.address} is a standalone one, which has no change streams and no"
            " transactions; start it with --replSet rs0 and run rs.initiate() once in mongosh"
        )
    if hello.get("msg") == "isdbgrid":
        raise BackendError(f"mongodb: {link.address} is a sharded cluster (mongos), which is not supported")
    version = await _version(link)
    oldest = MAPPED_OLDEST if mapped else OLDEST
    if version < oldest:
        raise BackendError(
            f"mongodb: the server at {link.address} is version {'.'.join(map(str, version))};"
            f" {'.'.join(map(str, oldest))} or newer is needed"
        )
    await link.until_it_tells_time()


async def _version(link: Link) -> tuple[int, ...]:
    info = await link.run({"buildInfo": 1}, database="admin")
    return tuple(int(part) for part in info["versionArray"][:2])


async def diagnose(link: Link, mapping: Collection | None) -> Sequence[Finding]:
    """What is to be said of the server."""
    findings: list[Finding] = []
    hello = await link.run({"hello": 1}, database="admin")
    version = ".".join(map(str, await _version(link)))
    members = hello.get("hosts", []) + hello.get("passives", [])
    said = f"mongodb {version} at {link.address}: replica set {hello.get('setName')!r} of {len(members)}"
    findings.append(Finding("ok", said))
    if len(members) == 1:
        findings.append(
            Finding("warning", "one member only: its loss is an outage", "add members: rs.add('host:27017') in mongosh")
        )
    findings += await _rights(link, mapping)
    findings += await _oplog(link)
    if mapping is not None:
        try:
            findings += await _mapped(link, mapping)
        except BackendError as error:
            findings.append(Finding("error", f"collection {mapping.collection!r} cannot be looked at: {error}"))
    return findings


async def _rights(link: Link, mapping: Collection | None) -> list[Finding]:
    """What the user may not do. Without access control nobody is asked."""
    try:
        status = await link.run({"connectionStatus": 1, "showPrivileges": True}, database="admin")
    except BackendError as error:
        return [Finding("warning", f"the user's rights cannot be read: {_short(error)}")]
    info, database = status["authInfo"], link.options.database
    users = [user["user"] for user in info.get("authenticatedUsers", [])]
    if not users:
        return []
    allowed: set[str] = set()
    for privilege in info.get("authenticatedUserPrivileges", []):
        resource = privilege["resource"]
        if resource.get("anyResource") or (resource.get("db") in ("", database) and resource.get("collection") == ""):
            allowed.update(privilege["actions"])
    needed = [*RIGHTS, *(["collMod"] if mapping is not None and mapping.options.enable_images else [])]
    missing = [action for action in needed if action not in allowed]
    if not missing:
        return [Finding("ok", f"user {users[0]!r} may do all that is needed on database {database!r}")]
    role = "dbAdmin" if missing == ["collMod"] else "readWrite"
    said = f"user {users[0]!r} may not {', '.join(missing)} on every collection of database {database!r}"
    return [
        Finding("warning", said, f'grant it: db.grantRolesToUser({users[0]!r}, [{{role: "{role}", db: {database!r}}}])')
    ]


async def oplog_reach(link: Link) -> float | None:
    """Seconds that the oplog spans; ``None``: it still has its very first entry, or may not be read."""
    try:
        first, last = await _ends(link)
    except BackendError:
        return None
    return None if _is_whole(first) else float(last["ts"].time - first["ts"].time)


async def _ends(link: Link) -> list[Any]:
    """The first and the last entry of the oplog: their times, and what they say."""
    ends = []
    for way in (1, -1):
        command = {"find": "oplog.rs", "sort": {"$natural": way}, "limit": 1, "projection": {"ts": 1, "o.msg": 1},
                   "singleBatch": True}  # fmt: skip
        ends += (await link.run(command, database="local"))["cursor"]["firstBatch"]
    return ends


def _is_whole(first: Any) -> bool:
    return bool(first.get("o", {}).get("msg") == "initiating set")


async def _oplog(link: Link) -> list[Finding]:
    try:
        first, last = await _ends(link)
    except BackendError as error:
        return [
            Finding(
                "warning",
                f"the oplog may not be read ({_short(error)}): a restored backup is not noticed",
                "grant the user the role read on database 'local'",
            )
        ]
    hours = (last["ts"].time - first["ts"].time) / 3600
    message = f"the oplog reaches {hours:.1f} h back: who was away longer gets a fresh sync"
    if _is_whole(first):
        return [Finding("ok", f"the oplog reaches {hours:.1f} h back, to its first entry: nothing is gone yet")]
    if hours < SHORT_WINDOW:
        remedy = "raise it: db.adminCommand({replSetResizeOplog: 1, minRetentionHours: 24})"
        return [Finding("warning", message, remedy)]
    return [Finding("ok", message)]


async def _mapped(link: Link, mapping: Collection) -> list[Finding]:
    name = mapping.collection
    found, _ = await link.read_all({"listCollections": 1, "filter": {"name": name}})
    if not found:
        return [Finding("error", f"there is no collection {name!r}", "create it, or correct mapped.collection")]
    findings: list[Finding] = []
    check_collection = mapping.check_images
    if mapping.options.enable_images and not keeps_images(found[0]):
        findings.append(
            Finding("ok", f"collection {name!r} keeps no images yet: they are turned on at the first start")
        )
        check_collection = mapping.check_kind
    for check in (lambda: check_collection(found[0]), lambda: mapping.check_unique(link)):
        try:
            waiting = check()
            if waiting is not None:
                await waiting
        except BackendError as error:
            said, _, remedy = str(error).partition("; run in mongosh: ")
            findings.append(Finding("error", said, remedy))
    indexes, _ = await link.read_all({"listIndexes": name})
    if not any(next(iter(index["key"])) == mapping.group for index in indexes):
        said = f"no index of {name!r} begins with {mapping.group!r}: each sync of a group reads the whole collection"
        findings.append(Finding("warning", said, f"db[{name!r}].createIndex({{{mapping.group}: 1}})"))
    unusable = await mapping.unusable(link)
    if unusable is None:
        findings.append(Finding("ok", f"collection {name!r} is too large to count documents that cannot be items"))
    elif unusable:
        said = f"{unusable} documents of {name!r} cannot be items: {mapping.group!r} or {mapping.id!r} is missing, of"
        said += " another type, or no text that can name an item"
        findings.append(Finding("warning", said, "correct them, or set group_type and id_type"))
    return findings or [Finding("ok", f"collection {name!r} keeps images, and its ids are unique")]


def _short(error: Any) -> str:
    return str(error)[:120]
