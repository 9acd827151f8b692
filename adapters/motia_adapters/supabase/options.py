"""The options of the Supabase adapter, and the URLs that spell them."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from motia_adapters.postgresql.options import MappedOptions, SchemaName


class SupabaseOptions(BaseModel):
    """What ``[storage.NAME]`` takes with ``adapter = "supabase"``, beside the common options."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    project_url: Annotated[str, Field(pattern=r"^https?://[^/?#@\s]+/?$")]
    """The project's URL, as in ``https://xyzcompany.supabase.co``."""
    service_key: SecretStr
    """The service role's key (or a secret API key). It stays on the server: whoever has it may do everything."""
    schema_name: SchemaName = Field(default="motia", alias="schema")
    """The schema of the SQL objects; it must be exposed in the API's settings."""
    realtime: bool = True
    """Whether Realtime wakes readers up; without it they look four times a second."""
    database_url: SecretStr | None = None
    """A direct connection, as ``postgresql://...``, for ``motia-core migrate apply`` only; needs motia-postgres."""
    mapped: MappedOptions | None = None
    """A table of yours as the storage's one stream; without it the adapter keeps tables of its own."""

    @field_validator("service_key")
    @classmethod
    def _is_a_key(cls, key: SecretStr) -> SecretStr:
        if not key.get_secret_value().strip():
            raise ValueError("must not be empty")
        return key

    @property
    def address(self) -> str:
        """The project's URL, which holds no secret."""
        return self.project_url.rstrip("/")


def options_from_url(url: str) -> dict[str, Any]:
    """Turn ``supabase://:SERVICE_KEY@xyzcompany.supabase.co`` into options; ``?tls=false`` for a local stack.

    Raises `ValueError`.
    """
    parts = urlsplit(url)
    if parts.scheme != "supabase":
        raise ValueError(f"a Supabase URL begins with supabase://, not {parts.scheme}:")
    if parts.fragment or parts.path.strip("/"):
        raise ValueError("a Supabase URL has no path: supabase://:SERVICE_KEY@xyzcompany.supabase.co")
    try:
        port = parts.port
    except ValueError:
        raise ValueError("the port must be a number from 1 to 65535 (write ':' in a key as %3A)") from None
    if not parts.hostname:
        raise ValueError("a Supabase URL names the project's host: supabase://:SERVICE_KEY@xyzcompany.supabase.co")
    options: dict[str, Any] = {}
    for key, value in parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)):
        outer, dot, inner = key.partition(".")
        table = options.setdefault(outer, {}) if dot else options
        name = inner if dot else key
        if not isinstance(table, dict) or name in table:
            raise ValueError(f"option {key!r} is given twice")
        table[name] = value
    tls = options.pop("tls", "true")
    if tls not in ("true", "false"):
        raise ValueError(f"tls must be true or false, not {tls!r}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    options["project_url"] = f"{'https' if tls == 'true' else 'http'}://{host}" + (f":{port}" if port else "")
    if parts.password:
        options.setdefault("service_key", unquote(parts.password))
    return options
