"""The options of the MongoDB adapter, and the URLs that spell them."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator, model_validator

_Name = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]*$")]
_OURS = ("driver", "database")


_Field = Annotated[str, Field(min_length=1, pattern=r"^[^\x00.$][^\x00.]*$")]
IdType = Literal["auto", "text", "objectid", "int"]


def _split(value: Any) -> Any:
    return value.split(",") if isinstance(value, str) else value


class MappedOptions(BaseModel):
    """``mapped = { collection = ..., group_field = ... }``: a collection of yours becomes a stream."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    collection: _Name
    """The collection, which must be there."""
    group_field: _Field
    """The field (of the first level) that holds each document's group."""
    id_field: _Field = "_id"
    """The field that holds each document's id; with the group, or alone, it must be unique."""
    group_type: IdType = "auto"
    """What groups are: ``text``, ``objectid``, ``int``; ``auto``: ObjectIds (24 hex digits) and all other text."""
    id_type: IdType = "auto"
    """What ids are, likewise."""
    filter: dict[str, str | int | float | bool | None] = Field(default_factory=dict)
    """Only documents whose fields equal these are items; new ones get them."""
    fields: Annotated[tuple[_Field, ...], BeforeValidator(_split)] = ()
    """Only these fields (and group and id) are shown and written; empty: all."""
    include_ids: bool = True
    """Whether values show the fields of the group and the id, too."""
    enable_images: bool = False
    """Whether pre- and post-images are turned on for the collection where they are off."""

    @model_validator(mode="after")
    def _apart(self) -> MappedOptions:
        if self.group_field == self.id_field:
            raise ValueError("group_field and id_field must be two fields")
        if any(key.startswith("$") or "." in key for key in self.filter):
            raise ValueError("filter takes fields of the first level and the values that they must equal")
        return self


class MongoOptions(BaseModel):
    """What ``[storage.NAME]`` takes with ``adapter = "mongodb"``, beside the common options."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    url: SecretStr = SecretStr("mongodb://127.0.0.1:27017")
    """The replica set (or Atlas cluster), as the driver takes it: ``mongodb://user:password@host/?replicaSet=rs0``."""
    database: Annotated[str, Field(min_length=1, max_length=63, pattern=r'^[^\x00/\\. "$*<>:|?]+$')] = "motia"
    """The database that holds the collections."""
    driver: Literal["pymongo", "motor"] = "pymongo"
    """Which client is made: PyMongo's own asynchronous one, or Motor's."""
    mapped: MappedOptions | None = None
    """A collection of yours as the storage's one stream; without it the adapter keeps collections of its own."""
    client: Any = Field(default=None, exclude=True, repr=False)
    """A client of yours (``AsyncMongoClient`` or ``AsyncIOMotorClient``) that is used instead; it stays open."""

    @field_validator("url", mode="after")
    @classmethod
    def _is_a_url(cls, url: SecretStr) -> SecretStr:
        if not url.get_secret_value().startswith(("mongodb://", "mongodb+srv://")):
            raise ValueError("must begin with mongodb:// or mongodb+srv://")
        return url

    @field_validator("database", mode="after")
    @classmethod
    def _can_be_watched(cls, database: str) -> str:
        if database in ("admin", "config", "local"):
            raise ValueError("admin, config and local are MongoDB's own, and have no change streams")
        return database

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
