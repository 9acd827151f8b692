"""The SQL files that a database needs, in their order."""

from __future__ import annotations

import re
from importlib.resources import files

_FILE = re.compile(r"(\d{4})_\w+\.sql\Z")
_SCHEMA = re.compile(r"\bmotia\b(?=\.|;|,| FROM| REVOKE| TO| GRANT|$)", re.MULTILINE)

VERSION = 1
"""What `motia.version()` answers once all files are applied."""


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as an SQL literal."""
    escaped = text.replace("'", "''")
    return f" E'{escaped.replace(chr(92), chr(92) * 2)}'" if "\\" in text else f"'{escaped}'"


def migrations(schema: str = "motia", *, supabase: bool = False) -> dict[str, str]:
    """The files' texts by name, for objects in ``schema``; ``supabase``: with what only Supabase needs."""
    found: dict[str, str] = {}
    for file in sorted(files(__package__).joinpath("sql").iterdir(), key=lambda file: file.name):
        if _FILE.match(file.name) and (supabase or "supabase" not in file.name):
            found[file.name] = in_schema(file.read_text(encoding="utf-8"), schema)
    return found


def in_schema(sql: str, schema: str) -> str:
    """``sql`` with the objects of schema ``motia`` in another one."""
    return sql if schema == "motia" else _SCHEMA.sub(lambda _: quoted(schema), sql)
