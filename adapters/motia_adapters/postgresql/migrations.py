"""The SQL files that a database needs, in their order."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from motia_adapters.postgresql.options import MappedOptions
from motia_core.adapter import Migration
from motia_core.errors import ConfigError

_FILE = re.compile(r"(\d{4})_\w+\.sql\Z")
_SCHEMA = re.compile(r"\bmotia\b(?=\.|;|,| FROM| REVOKE| TO| GRANT|$)", re.MULTILINE)

VERSION = 2
"""What `motia.version()` answers once all files are applied."""


MAPPING = "motia_map_"
"""What the name of a table's mapping begins with: it is asked for each time, and does nothing where all is well."""
_LOCK = 0x6D6F746961  # who migrates holds it


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as an SQL literal."""
    escaped = text.replace("'", "''")
    return f" E'{escaped.replace(chr(92), chr(92) * 2)}'" if "\\" in text else f"'{escaped}'"


def migrations(
    schema: str = "motia", *, supabase: bool = False, mapped: MappedOptions | None = None
) -> list[Migration]:
    """What a storage needs, in order: the files, for objects in ``schema``, and the mapping of a table.

    ``supabase``: with what only Supabase needs.
    """
    found: list[Migration] = []
    for name, text in _files().items():
        if supabase or "supabase" not in name:
            text = text.replace(f"(name) VALUES ('{name}')", f"(name, digest) VALUES ('{name}', '{digest(text)}')")
            found.append(Migration(name, in_schema(text, schema)))
    if mapped is not None:
        table, name = mapped.place
        values = ", ".join(map(literal, (table, name, mapped.group_field, mapped.id_field)))
        sql = f"SELECT {in_schema('motia.map_table', schema)}({values});\n"
        found.append(Migration(f"{MAPPING}{table}_{name}", sql))
    return found


def _files() -> dict[str, str]:
    found = sorted(resources.files("motia_adapters.postgresql").joinpath("sql").iterdir(), key=lambda file: file.name)
    return {
        file.name.removesuffix(".sql"): file.read_text(encoding="utf-8") for file in found if _FILE.match(file.name)
    }


def in_schema(sql: str, schema: str) -> str:
    """``sql`` with the objects of schema ``motia`` in another one."""
    return sql if schema == "motia" else _SCHEMA.sub(lambda _: quoted(schema), sql)


def digest(text: str) -> str:
    """Of a file: what tells two states of it apart."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def strange(files: Mapping[str, str | None]) -> list[str]:
    """Of the files that a database says it has, with their digests, those that are not this version's."""
    ours = {name: digest(text) for name, text in _files().items()}
    return sorted(name for name, found in files.items() if found is not None and ours.get(name, found) != found)


def strangers(names: Sequence[str], schema: str) -> str:
    """What is said of such files."""
    return (
        f"{', '.join(names)} in schema {schema!r} came from another state of the files, though its version is the same:"
        f" DROP SCHEMA {quoted(schema)} CASCADE (managed streams go with it; mapped tables stay), then motia-core"
        " migrate apply; or use the motia-core that made it"
    )


async def apply(connection: Any, schema: str, wanted: Sequence[Migration]) -> list[str]:
    """Run what is missing over a connection of asyncpg, each in a transaction; the names of what was done.

    Raises `ConfigError` where what is there came from other files of the same names.
    """
    done: list[str] = []
    await connection.execute(f"SELECT pg_advisory_lock({_LOCK})")
    try:
        known: set[str] = set()
        if await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", f"{quoted(schema)}.migration"):
            rows = await connection.fetch(f"SELECT name, to_jsonb(m)::text FROM {quoted(schema)}.migration AS m")
            files = {name: json.loads(row).get("digest", "") for name, row in rows}
            if names := strange(files):
                raise ConfigError(strangers(names, schema))
            known = set(files)
        for migration in wanted:
            if migration.name in known:
                continue
            async with connection.transaction():
                if migration.name.startswith(MAPPING):
                    changed = await connection.fetchval(migration.text) == "true"
                else:
                    await connection.execute(migration.text)
                    changed = True
            if changed:
                done.append(migration.name)
    finally:
        await connection.execute(f"SELECT pg_advisory_unlock({_LOCK})")
    return done
