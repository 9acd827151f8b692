"""The options of the Redis adapter, and the URLs that spell them."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator


class RedisOptions(BaseModel):
    """What ``[storage.NAME]`` takes with ``adapter = "redis"``, beside the common options."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """The server, or any node of a Redis Cluster."""
    port: Annotated[int, Field(ge=1, le=65_535)] = 6379
    """Its TCP port."""
    db: Annotated[int, Field(ge=0)] = 0
    """The database's number; 0 in a Cluster."""
    username: str | None = None
    """The ACL user; ``None``: the default user."""
    password: SecretStr | None = None
    """The user's password."""
    replicas: Annotated[int, Field(ge=0, le=100)] = 0
    """Replicas that must have confirmed a write before it is acknowledged (``WAIT``); fewer in time raises
    `OutcomeUnknown`. It makes a loss by failover less likely, not impossible."""
    tls: bool = False
    """Whether to speak TLS; ``rediss://`` says so too."""
    tls_ca_file: Path | None = None
    """Certificates of the authorities to trust; ``None``: those of the system."""
    tls_cert_file: Path | None = None
    """Our own certificate, where the server asks for one."""
    tls_key_file: Path | None = None
    """The key of our own certificate, if it is not in the same file."""
    tls_verify: bool = True
    """Whether the server's certificate and name are checked. Turn it off in tests only."""

    @field_validator("username", mode="after")
    @classmethod
    def _is_a_name(cls, username: str | None) -> str | None:
        return username or None

    @model_validator(mode="after")
    def _fit(self) -> RedisOptions:
        if self.username is not None and self.password is None:
            raise ValueError("username needs a password")
        if not self.tls and (self.tls_ca_file or self.tls_cert_file or self.tls_key_file):
            raise ValueError("tls_ca_file, tls_cert_file and tls_key_file need tls = true")
        return self

    @property
    def address(self) -> str:
        """The server's URL without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.tls else 'redis'}://{host}:{self.port}/{self.db}"

    def ssl_context(self) -> ssl.SSLContext | None:
        """How to speak TLS, if at all. Raises `OSError` for a file that cannot be read or used."""
        if not self.tls:
            return None
        context = ssl.create_default_context(cafile=str(self.tls_ca_file) if self.tls_ca_file else None)
        if self.tls_cert_file:
            context.load_cert_chain(self.tls_cert_file, self.tls_key_file)
        if not self.tls_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def options_from_url(url: str) -> dict[str, Any]:
    """Turn ``redis://user:password@host:6379/0`` or ``rediss://...`` into options.

    Other options follow in the query: ``rediss://host?tls_ca_file=ca.pem``. Raises `ValueError`.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss"):
        raise ValueError(f"a Redis URL begins with redis:// or rediss://, not {parts.scheme}:")
    if parts.fragment:
        raise ValueError("a Redis URL has no fragment: write '#' as %23")
    options: dict[str, Any] = {}
    try:
        port = parts.port
    except ValueError:
        raise ValueError("the port must be a number from 1 to 65535 (write ':' in a password as %3A)") from None
    if parts.hostname:
        options["host"] = unquote(parts.hostname)
    if port is not None:
        options["port"] = port
    if parts.scheme == "rediss":
        options["tls"] = True
    if parts.username:
        options["username"] = unquote(parts.username)
    if parts.password:
        options["password"] = unquote(parts.password)
    elif parts.username:
        raise ValueError("a user name needs a password; a password alone is written redis://:password@host")
    path = parts.path.strip("/")
    if path:
        if not path.isdecimal():
            # What stands there may be the rest of a password: it is not shown.
            raise ValueError(
                "behind the host stands the database's number, and no more, as in redis://host:6379/0"
                " (write '/' in a password as %2F)"
            )
        options["db"] = int(path)
    try:
        query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise ValueError(
            "behind the question mark stand options, as in ?tls_verify=true (write '?' in a password as %3F)"
        ) from None
    for key, value in query:
        if key in options:
            raise ValueError(f"option {key!r} is given twice")
        options[key] = value
    return options
