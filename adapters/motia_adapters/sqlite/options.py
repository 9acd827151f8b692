"""The options of the SQLite adapter, and the URLs that spell them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


def _split(value: Any) -> Any:
    return value.split(",") if isinstance(value, str) else value


_Name = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]*$")]


class MappedOptions(BaseModel):
    """``mapped = { table = ..., group_field = ..., id_field = ... }``: a table of yours becomes a stream."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    table: _Name
    """The table, as it is in the file."""
    group_field: _Name
    """The column (TEXT or INTEGER) that holds each row's group."""
    id_field: _Name
    """The column (TEXT or INTEGER) that holds each row's id; with the group, or alone, it must be unique."""
    rest_field: _Name | None = None
    """A TEXT column for a JSON object with whatever the other columns cannot hold."""
    json_fields: Annotated[tuple[_Name, ...], BeforeValidator(_split)] = ()
    """TEXT columns that hold JSON."""
    include_ids: bool = True
    """Whether values show the columns of the group and the id, too."""

    @model_validator(mode="after")
    def _each_once(self) -> MappedOptions:
        taken: dict[str, str] = {}
        for option, field in self.fields():
            if field in taken:
                raise ValueError(f"{option} names column {field!r}, which is {taken[field]} already")
            taken[field] = option
        return self

    def fields(self) -> list[tuple[str, str]]:
        """Each option that names a column, with the column."""
        named = [("group_field", self.group_field), ("id_field", self.id_field)]
        if self.rest_field is not None:
            named.append(("rest_field", self.rest_field))
        return named + [("json_fields", field) for field in self.json_fields]


class SqliteOptions(BaseModel):
    """What ``[storage.NAME]`` takes with ``adapter = "sqlite"``, beside the common options."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str | Path = "data/streams.db"
    """The database file. A missing folder is made; a relative path starts at the project's folder, or
    without a project at the current directory."""
    synchronous: Annotated[Literal["NORMAL", "FULL"], BeforeValidator(_upper)] = "NORMAL"
    """``NORMAL``: a power cut may lose the last commits. ``FULL``: none, and each commit waits for the disk."""
    poll_interval: float = Field(default=0.005, ge=0.001, le=0.25)
    """Seconds between two looks for other processes' writes, while something is watched."""
    mapped: MappedOptions | None = None
    """A table of yours as the storage's one stream; without it the adapter keeps tables of its own."""

    @field_validator("path", mode="before")
    @classmethod
    def _is_a_file(cls, path: Any) -> Any:
        if not isinstance(path, str | Path):
            raise ValueError("must be text")
        if not str(path) or "\x00" in str(path):
            raise ValueError("must name a file")
        if str(path) == ":memory:":
            raise ValueError("':memory:' is not a file that two connections can share; use the memory adapter")
        return path

    def resolved_path(self) -> Path:
        """The absolute path of the database file."""
        return Path(self.path).expanduser().absolute()


def options_from_url(url: str) -> dict[str, Any]:
    """Turn ``sqlite:///relative.db`` or ``sqlite:////absolute.db`` into options.

    Options follow in the query: ``sqlite:///app.db?synchronous=FULL``, those of a mapped table as
    ``mapped.table=orders``. Raises `ValueError`.
    """
    parts = urlsplit(url)
    if parts.scheme != "sqlite":
        raise ValueError(f"a SQLite URL begins with sqlite:///, not {parts.scheme}:")
    if parts.netloc or not parts.path.startswith("/"):
        raise ValueError("a SQLite URL has three slashes (sqlite:///relative.db) or four (sqlite:////absolute.db)")
    if parts.fragment:
        raise ValueError("a SQLite URL has no fragment: write '#' as %23")
    path = unquote(parts.path[1:])
    if not path:
        raise ValueError("a SQLite URL names a file: sqlite:///relative.db")
    options: dict[str, Any] = {"path": path}
    for key, value in parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)):
        outer, dot, inner = key.partition(".")
        table = options.setdefault(outer, {}) if dot else options
        name = inner if dot else key
        if not isinstance(table, dict) or name in table:
            raise ValueError(f"option {key!r} is given twice")
        table[name] = value
    return options
