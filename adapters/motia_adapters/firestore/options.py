"""The options of the Firestore adapter, and the URLs that spell them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from motia_adapters.firestore.mapped.template import parse_template

EMULATOR_VARIABLE = "FIRESTORE_EMULATOR_HOST"
_PROJECT = re.compile(r"[a-z0-9.:-]{1,64}")
_DATABASE = re.compile(r"\(default\)|[a-z][a-z0-9-]{0,62}")
_ROOT = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


class MappedOptions(BaseModel):
    """Documents of the user's own: ``mapped = { path = "workspaces/{group}/documents/{id}" }``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    """The path of a document, in which one segment is the group and the last one the item's id."""

    @field_validator("path", mode="after")
    @classmethod
    def _fits(cls, path: str) -> str:
        parse_template(path)
        return path


class FirestoreOptions(BaseModel):
    """What ``[storage.NAME]`` takes with ``adapter = "firestore"``, beside the common options."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    project: str | None = None
    """The Google Cloud project; ``None``: that of the credentials, the Firebase app or the environment."""
    database: str = "(default)"
    """The database's id in the project."""
    credentials: Path | None = None
    """The file of a service account's key; ``None``: application default credentials."""
    app: str | None = None
    """The name of a ``firebase_admin`` app that this program has initialised: its project and credentials are used."""
    emulator: str | None = Field(default_factory=lambda: os.environ.get(EMULATOR_VARIABLE) or None)
    """``host:port`` of Google's emulator, which needs no credentials; from ``FIRESTORE_EMULATOR_HOST`` if left out."""
    endpoint: str = "firestore.googleapis.com"
    """Where Google's service is reached: another name for a region's or a private endpoint, as host or host:port."""
    root: str = "motia"
    """The top-level collection in which managed storage keeps everything."""
    poll: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """Seconds after which a watch looks at the log though its listener was silent; each look is one billed read."""

    mapped: MappedOptions | None = None
    """Documents of the user's own, which one stream maps; ``None``: managed storage."""

    @field_validator("project", mode="after")
    @classmethod
    def _is_a_project(cls, project: str | None) -> str | None:
        if project is not None and not _PROJECT.fullmatch(project):
            raise ValueError(f"{project!r} is no project id: lower-case letters, digits and hyphens, as in my-app-1234")
        return project

    @field_validator("database", mode="after")
    @classmethod
    def _is_a_database(cls, database: str) -> str:
        if not _DATABASE.fullmatch(database):
            raise ValueError(f'{database!r} is no database id: "(default)", or lower-case letters, digits and hyphens')
        return database

    @field_validator("endpoint", mode="after")
    @classmethod
    def _is_an_endpoint(cls, endpoint: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9.-]+(:\d{1,5})?", endpoint):
            raise ValueError(f"{endpoint!r} is no host or host:port, as in firestore.googleapis.com (without https://)")
        return endpoint

    @field_validator("root", mode="after")
    @classmethod
    def _is_a_collection(cls, root: str) -> str:
        if not _ROOT.fullmatch(root):
            raise ValueError(f"{root!r} is no name of a collection: a letter, then letters, digits, '_' or '-'")
        return root

    @field_validator("emulator", mode="after")
    @classmethod
    def _is_an_address(cls, emulator: str | None) -> str | None:
        if emulator is not None and not re.fullmatch(r"[^\s/:]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", emulator):
            raise ValueError(f"{emulator!r} is no host:port, as in 127.0.0.1:8080 (without http://)")
        return emulator


def options_from_url(url: str) -> dict[str, Any]:
    """Turn ``firestore://project`` or ``firestore://project/database`` into options.

    Other options follow in the query: ``firestore://my-app?emulator=127.0.0.1:8080``. Raises `ValueError`.
    """
    parts = urlsplit(url)
    if parts.scheme != "firestore":
        raise ValueError(f"a Firestore URL begins with firestore://, not {parts.scheme}:")
    if parts.fragment:
        raise ValueError("a Firestore URL has no fragment: write '#' as %23")
    if "@" in parts.netloc:
        raise ValueError("a Firestore URL holds no user or password: name a key's file with ?credentials=FILE")
    options: dict[str, Any] = {}
    if parts.netloc:
        options["project"] = unquote(parts.netloc)
    path = unquote(parts.path).strip("/")
    if path:
        options["database"] = path
    for key, value in parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)):
        if key in options:
            raise ValueError(f"option {key!r} is given twice")
        options[key] = value
    return options
