"""The SQL files that a database needs, in their order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from motia_adapters.postgresql.options import MappedOptions
from motia_core.adapter import Migration

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
    for file in sorted(files("motia_adapters.postgresql").joinpath("sql").iterdir(), key=lambda file: file.name):
        if _FILE.match(file.name) and (supabase or "supabase" not in file.name):
            text = in_schema(file.read_text(encoding="utf-8"), schema)
            found.append(Migration(file.name.removesuffix(".sql"), text))
    if mapped is not None:
        table, name = mapped.place
        values = ", ".join(map(literal, (table, name, mapped.group_field, mapped.id_field)))
        sql = f"SELECT {in_schema('motia.map_table', schema)}({values});\n"
        found.append(Migration(f"{MAPPING}{table}_{name}", sql))
    return found


def in_schema(sql: str, schema: str) -> str:
    """``sql`` with the objects of schema ``motia`` in another one."""
    return sql if schema == "motia" else _SCHEMA.sub(lambda _: quoted(schema), sql)


async def apply(connection: Any, schema: str, wanted: Sequence[Migration]) -> list[str]:
    """Run what is missing over a connection of asyncpg, each in a transaction; the names of what was done."""
    done: list[str] = []
    await connection.execute(f"SELECT pg_advisory_lock({_LOCK})")
    try:
        known: set[str] = set()
        if await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", f"{quoted(schema)}.migration"):
            known = {row[0] for row in await connection.fetch(f"SELECT name FROM {quoted(schema)}.migration")}
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
