"""The options of the MongoDB adapter, and the URLs that spell them."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

_Name = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]*$")]
_OURS = ("driver", "database")


class MongoOptions(BaseModel):
    """What ``[storage.NAME]`` takes with ``adapter = "mongodb"``, beside the common options."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    url: SecretStr = SecretStr("mongodb://127.0.0.1:27017")
    """The replica set (or Atlas cluster), as the driver takes it: ``mongodb://user:password@host/?replicaSet=rs0``."""
    database: Annotated[str, Field(min_length=1, max_length=63, pattern=r'^[^\x00/\\. "$*<>:|?]+$')] = "motia"
    """The database that holds the collections."""
    driver: Literal["pymongo", "motor"] = "pymongo"
    """Which client is made: PyMongo's own asynchronous one, or Motor's."""
    client: Any = Field(default=None, exclude=True, repr=False)
    """A client of yours (``AsyncMongoClient`` or ``AsyncIOMotorClient``) that is used instead; it stays open."""

    @field_validator("url", mode="after")
    @classmethod
    def _is_a_url(cls, url: SecretStr) -> SecretStr:
        if not url.get_secret_value().startswith(("mongodb://", "mongodb+srv://")):
            raise ValueError("must begin with mongodb:// or mongodb+srv://")
        return url

    @property
    def address(self) -> str:
        """The servers and the database, without user and password."""
        parts = urlsplit(self.url.get_secret_value())
        hosts = parts.netloc.rpartition("@")[2]
        return f"{parts.scheme}://{hosts}/{self.database}"


def options_from_url(url: str) -> dict[str, Any]:
    """Turn ``mongodb://user:password@host,host/database?replicaSet=rs0`` into options.

    In the query ``driver`` and those that begin with ``mapped.`` are ours; the others are the
    driver's. Raises `ValueError`.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("mongodb", "mongodb+srv"):
        raise ValueError(f"a MongoDB URL begins with mongodb:// or mongodb+srv://, not {parts.scheme}:")
    if not parts.netloc:
        raise ValueError("a MongoDB URL names a host: mongodb://127.0.0.1:27017/database")
    if parts.fragment:
        raise ValueError("a MongoDB URL has no fragment: write '#' as %23")
    options: dict[str, Any] = {}
    theirs: list[tuple[str, str]] = []
    for key, value in parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)):
        outer, dot, inner = key.partition(".")
        if key in _OURS or (dot and outer == "mapped"):
            table = options.setdefault(outer, {}) if dot else options
            name = inner if dot else key
            if name in table:
                raise ValueError(f"option {key!r} is given twice")
            table[name] = value
        else:
            theirs.append((key, value))
    database = unquote(parts.path.strip("/"))
    if database:
        if "database" in options:
            raise ValueError("option 'database' is given twice")
        options["database"] = database
        if "@" in parts.netloc and not any(key.lower() == "authsource" for key, _ in theirs):
            theirs.append(("authSource", database))  # what the driver makes of a database in the path
    options["url"] = urlunsplit((parts.scheme, parts.netloc, "/", urlencode(theirs), ""))
    return options
