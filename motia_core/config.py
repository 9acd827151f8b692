"""Typed settings, from ``motia.toml`` and the environment or from a program's arguments.

``[storage.NAME]`` defines storage types, ``[server]`` the server and its limits,
``[state]``, ``[queue]`` and ``[cron]`` the storage type they live in. ``${NAME}`` and
``${NAME:-default}`` stand for environment variables (``$${`` is a plain ``${``), and
``MOTIA_SECTION__KEY`` overrides a key, as in ``MOTIA_SERVER__PORT=80``. Without a storage
called ``default`` there is one: SQLite in ``data/streams.db``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from motia_core.config_sources import Source, given, read, validated
from motia_core.config_storage import Count, Seconds, StorageEntry, no_bool, parse_duration, storage_entry
from motia_core.errors import ConfigError, MotiaError
from motia_core.masking import mask_url
from motia_core.plugin_checks import suggestion
from motia_core.plugins import Plugins

__all__ = ["FILE", "RoomSettings", "ServerSettings", "Settings", "StorageEntry", "mask_url", "parse_duration"]

FILE: Final = "motia.toml"
"""The configuration file of a project, in its top folder."""

DEFAULT_STORAGE: Final = MappingProxyType({"adapter": "sqlite", "path": "data/streams.db"})
"""The storage type ``default`` where nobody defines one."""

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+\Z")


def _listed(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _origin(value: str) -> str:
    origin = value.lower()
    if origin != "*" and not _ORIGIN.match(origin):
        raise ValueError("an origin is a scheme and a host, as in 'https://app.example', with no path; or '*' for any")
    return origin


class ServerSettings(BaseModel):
    """``[server]``: where to listen, whom to let in, and how much of everything."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Address to listen on; ``0.0.0.0`` for every IPv4 one."""
    port: Annotated[int, BeforeValidator(no_bool), Field(ge=0, le=65535)] = 3112
    """TCP port; 0 takes a free one."""
    allowed_origins: Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], BeforeValidator(_listed)] = ()
    """Origins of web pages that may connect, beside the server's own; ``*`` for any."""
    max_connections: Count = 10_000
    """WebSockets open at once in one process."""
    max_subscriptions: Count = 1_000
    """Subscriptions of one connection."""
    max_frame_bytes: Count = 65_536
    """Bytes of one frame from a client (joins and leaves: they are small)."""
    max_bad_frames: Count = 20
    """Bad frames after which a connection is closed."""
    auth_timeout: Seconds = 10.0
    """Seconds for ``authenticate``; after them the client is refused."""
    join_timeout: Seconds = 10.0
    """Seconds for the hooks of one join; after them it is refused."""
    send_queue_changes: Count = 1_000
    """Changes that wait for a slow client before it gets a fresh ``sync`` instead."""
    send_queue_bytes: Count = 8_388_608
    """Bytes that wait for a slow client, likewise."""
    max_sync_items: Count = 10_000
    """Items of a group that one ``sync`` may carry; larger groups are refused by name."""
    max_sync_bytes: Count = 16_777_216
    """Bytes of one ``sync``, likewise."""
    ping_interval: Seconds = 6.0
    """Seconds between pings; a client that answers none for as long again is gone."""
    shutdown_timeout: Seconds = 10.0
    """Seconds that a shutdown waits for what is in hand."""


class RoomSettings(BaseModel):
    """``[state]``, ``[queue]`` or ``[cron]``: the storage type it lives in."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    storage: str = "default"
    """The storage type it lives in."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one application. Make them with `load` or `build`."""

    storage: Mapping[str, StorageEntry]
    """Storage types by name."""
    server: ServerSettings
    state: RoomSettings
    queue: RoomSettings
    cron: RoomSettings
    file: str = ""
    """The configuration file, which need not exist; empty without a project."""
    no_default: str = ""
    """Why the built-in ``default`` storage cannot be had, if it cannot."""

    @classmethod
    def load(
        cls,
        project_dir: str | os.PathLike[str],
        *,
        environ: Mapping[str, str] | None = None,
        plugins: Plugins | None = None,
    ) -> Settings:
        """The settings of the project in ``project_dir``; its relative paths start there.

        Raises `ConfigError` (or `PluginError`) that names the file and key, or the
        environment variable, and what is allowed.
        """
        _check_plugins(plugins)
        environ = os.environ if environ is None else environ
        folder = Path(project_dir)
        if not folder.is_dir():
            raise ConfigError(f"{folder}: there is no such project folder")
        return cls._from(read(folder / FILE, environ), plugins or Plugins.load(environ=environ), folder)

    @classmethod
    def build(
        cls,
        *,
        storage: Mapping[str, str | Mapping[str, Any]] | None = None,
        server: Mapping[str, Any] | None = None,
        state: Mapping[str, Any] | None = None,
        queue: Mapping[str, Any] | None = None,
        cron: Mapping[str, Any] | None = None,
        plugins: Plugins | None = None,
        base_dir: str | os.PathLike[str] | None = None,
    ) -> Settings:
        """Settings from arguments, in the shape of the file's sections; no environment.

        ``storage`` maps storage types to URLs or tables. Relative paths start at
        ``base_dir``, or at the current folder. Raises as `load` does.
        """
        _check_plugins(plugins)
        source = given(storage=storage, server=server, state=state, queue=queue, cron=cron)
        return cls._from(source, plugins or Plugins.load(), None if base_dir is None else Path(base_dir))

    @classmethod
    def _from(cls, source: Source, plugins: Plugins, base_dir: Path | None) -> Settings:
        def entry(name: str, value: object) -> StorageEntry:
            return storage_entry(name, value, plugins=plugins, source=source, base_dir=base_dir)

        storages = {name: entry(name, value) for name, value in source.table("storage").items()}
        no_default = ""
        if "default" not in storages:
            try:
                storages["default"] = entry("default", DEFAULT_STORAGE)
            except MotiaError as error:
                no_default = str(error)
        settings = cls(
            storage=MappingProxyType(storages),
            server=validated(ServerSettings, source.table("server"), source, ("server",)),
            state=validated(RoomSettings, source.table("state"), source, ("state",)),
            queue=validated(RoomSettings, source.table("queue"), source, ("queue",)),
            cron=validated(RoomSettings, source.table("cron"), source, ("cron",)),
            file=source.file,
            no_default=no_default,
        )
        for room in ("state", "queue", "cron"):
            if "storage" in source.table(room):
                settings._entry(getattr(settings, room).storage, source.where(room, "storage"))
        return settings

    def storage_for(self, stream_name: str, storage_type: str) -> StorageEntry:
        """The storage that a stream lives in; `ConfigError` if nothing defines that type."""
        return self._entry(storage_type, f"stream {stream_name!r}")

    def room(self, name: str) -> StorageEntry:
        """The storage that ``"state"``, ``"queue"`` or ``"cron"`` lives in; raises likewise."""
        return self._entry(getattr(self, name).storage, f"[{name}]")

    def _entry(self, storage_type: str, who: str) -> StorageEntry:
        entry = self.storage.get(storage_type)
        if entry is not None:
            return entry
        if storage_type == "default":
            raise ConfigError(f"{who}: no storage 'default' is defined, and SQLite cannot stand in: {self.no_default}")
        defines = f"no section [storage.{storage_type}] in {self.file}" if self.file else "no storage"
        raise ConfigError(
            f"{who}: {defines} defines storage type {storage_type!r}{suggestion(storage_type, self.storage)}"
        )


def _check_plugins(plugins: object) -> None:
    if plugins is not None and not isinstance(plugins, Plugins):
        raise ConfigError(f"plugins must be made by Plugins.load(extra=[...]), not {type(plugins).__name__}")
