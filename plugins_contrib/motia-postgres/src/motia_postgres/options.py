"""The options of the adapter, and the URLs that spell them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from motia_adapters.postgresql.options import MappedOptions, SchemaName
from pydantic import BaseModel, ConfigDict, Field, SecretStr


class PostgresOptions(BaseModel):
    """What ``[storage.NAME]`` takes with ``adapter = "postgres"``, beside the common options."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """The server, or the folder of its socket."""
    port: Annotated[int, Field(ge=1, le=65_535)] = 5432
    """Its port."""
    database: Annotated[str, Field(min_length=1)] = "postgres"
    """The database's name."""
    user: Annotated[str, Field(min_length=1)] = "postgres"
    """The role to connect as."""
    password: SecretStr | None = None
    """The role's password."""
    sslmode: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] = "prefer"
    """As libpq's ``sslmode``."""
    sslrootcert: Path | None = None
    """Certificates of the authorities to trust, for ``verify-ca`` and ``verify-full``."""
    schema_name: SchemaName = Field(default="motia", alias="schema")
    """The schema of the SQL objects."""
    pool_size: Annotated[int, Field(ge=2, le=100)] = 10
    """Connections for calls, at most; one more listens."""
    pooler: bool = False
    """Whether a transaction pooler (PgBouncer, Supavisor's port 6543) stands between: then nothing is
    prepared, nothing listens, and changes of other processes are noticed by looking."""
    mapped: MappedOptions | None = None
    """A table of yours as the storage's one stream; without it the adapter keeps tables of its own."""

    @property
    def address(self) -> str:
        """The database's URL without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"postgresql://{host}:{self.port}/{self.database}"


def options_from_url(url: str) -> dict[str, Any]:
    """Turn ``postgresql://user:password@host:5432/database?sslmode=require`` into options. Raises `ValueError`."""
    parts = urlsplit(url)
    if parts.scheme not in ("postgres", "postgresql"):
        raise ValueError(f"a PostgreSQL URL begins with postgresql://, not {parts.scheme}:")
    if parts.fragment:
        raise ValueError("a PostgreSQL URL has no fragment: write '#' as %23")
    try:
        port = parts.port
    except ValueError:
        raise ValueError("the port must be a number from 1 to 65535 (write ':' in a password as %3A)") from None
    found = {
        "host": parts.hostname and unquote(parts.hostname),
        "port": port,
        "user": parts.username and unquote(parts.username),
        "password": parts.password and unquote(parts.password),
        "database": unquote(parts.path.strip("/")),
    }
    options: dict[str, Any] = {key: value for key, value in found.items() if value}
    for key, value in parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)):
        outer, dot, inner = key.partition(".")
        table = options.setdefault(outer, {}) if dot else options
        name = inner if dot else key
        if not isinstance(table, dict) or name in table:
            raise ValueError(f"option {key!r} is given twice")
        table[name] = value
    return options
