"""The options of the SQLite adapter, and the URLs that spell them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


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

    Options follow in the query: ``sqlite:///app.db?synchronous=FULL``. Raises `ValueError`.
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
        if key in options:
            raise ValueError(f"option {key!r} is given twice")
        options[key] = value
    return options
