"""``[storage.NAME]``: from a URL or a table to an adapter, its settings and its options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlencode

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from motia_core.adapter import Adapter, AdapterPlugin, Capabilities, Retention, StorageSettings
from motia_core.config_sources import Source, keys_of, validated
from motia_core.errors import ConfigError, PluginError
from motia_core.masking import mask_url, mask_urls
from motia_core.model import StreamSpec
from motia_core.plugin_building import build_adapter, declared, named
from motia_core.plugin_checks import COMMON_OPTIONS, suggestion
from motia_core.plugins import Plugins

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}

_STORAGE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}\Z")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_DURATION = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d|w)?\s*\Z")
_QUOTED = re.compile(r"(['\"])(.+?)\1")


def parse_duration(value: object) -> float:
    """Seconds, from a number or from text like ``"7d"``, ``"1.5h"``, ``"500ms"``.

    Raises ``ValueError`` for anything else.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    match = _DURATION.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be a number of seconds, or text like '500ms', '30s', '15m', '12h', '7d' or '2w'")
    return float(match.group(1)) * UNITS[match.group(2) or "s"]


def no_bool(value: object) -> object:
    """Refuse ``true`` and ``false``, which Pydantic would take for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


Seconds = Annotated[float, BeforeValidator(parse_duration), Field(gt=0, allow_inf_nan=False)]
"""A positive duration; see `parse_duration`."""

Count = Annotated[int, BeforeValidator(no_bool), Field(ge=1)]
"""A whole number, 1 or more."""


class RetentionOptions(BaseModel):
    """``retention = { count = ..., age = ... }``: one bound or both."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    count: Count | None = None
    """Changes to keep of each stream, at most."""
    age: Seconds | None = None
    """Age of a change that is still kept, at most."""

    @model_validator(mode="after")
    def _bounded(self) -> RetentionOptions:
        if self.count is None and self.age is None:
            raise ValueError("needs a count, an age, or both")
        return self


class CommonOptions(BaseModel):
    """What every ``[storage.NAME]`` takes, whatever its adapter."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    namespace: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")] = "motia"
    """Keeps applications that share a server apart."""
    timeout: Seconds = 5.0
    """Seconds after which a call to an unreachable backend fails."""
    retention: RetentionOptions | None = None
    """How much history to keep of each stream; 100,000 changes if it is not said."""
    max_value_bytes: Count = 1_000_000
    """Bytes of compact UTF-8 JSON that one value may have."""


@dataclass(frozen=True, slots=True, repr=False)
class StorageEntry:
    """One storage type, ready to be built. Its repr shows no option: they may be secret."""

    settings: StorageSettings
    plugin: AdapterPlugin
    options: BaseModel
    max_value_bytes: int = 1_000_000
    """Bytes of compact UTF-8 JSON that a value may have."""
    origin: str = ""
    """The plugin that brought the adapter, with its distribution."""

    def build(self) -> Adapter:
        """The adapter, not yet open. Raises as `build_adapter` does."""
        return build_adapter(self.plugin, self.settings, self.options, self.origin)

    def capabilities(self, adapter: Adapter, stream: StreamSpec) -> Capabilities:
        """What ``adapter``, which was built here, promises for a stream; `PluginError` if it is no such thing."""
        return declared(adapter, stream, named(self.plugin, self.settings, self.origin))

    def __repr__(self) -> str:
        return f"StorageEntry({self.settings.name!r}, adapter={self.plugin.name!r})"


def storage_entry(name: str, value: object, *, plugins: Plugins, source: Source, base_dir: Path | None) -> StorageEntry:
    """Read one storage; ``base_dir`` is what its relative paths are relative to.

    Raises `ConfigError` or `PluginError` that names the key.
    """
    path = ("storage", str(name))
    if not isinstance(name, str) or not _STORAGE_NAME.match(name):
        raise source.error(path, "a storage's name must be a letter, then letters, digits, '_' or '-', 64 at most")
    table = {"url": value} if isinstance(value, str) else value
    if not isinstance(table, Mapping) or not all(isinstance(key, str) for key in table):
        raise source.error(path, "must be a URL or a table of keys and values")
    values = dict(table)
    plugin = _plugin(values, plugins, source, path)
    from_url = _from_url(values.pop("url"), plugin, source, path) if "url" in values else {}
    values.pop("adapter", None)
    values = {**from_url, **values}

    common = validated(CommonOptions, {k: v for k, v in values.items() if k in COMMON_OPTIONS[2:]}, source, path)
    own = {key: item for key, item in values.items() if key not in COMMON_OPTIONS[2:]}
    allowed = keys_of(plugin.options)
    for key in own:
        if key not in (*allowed, *plugin.options.model_fields):
            known = suggestion(key, {*allowed, *COMMON_OPTIONS})
            raise source.error((*path, key), f"unknown key for adapter {plugin.name!r}{known}")
    options = validated(plugin.options, _anchored(plugin.options, own, base_dir), source, path)
    retention = common.retention
    settings = StorageSettings(
        name=name,
        namespace=common.namespace,
        timeout=common.timeout,
        retention=Retention() if retention is None else Retention(count=retention.count, age=retention.age),
    )
    return StorageEntry(settings, plugin, options, common.max_value_bytes, plugins.origin(plugin))


def _plugin(values: Mapping[str, Any], plugins: Plugins, source: Source, path: tuple[str, ...]) -> AdapterPlugin:
    adapter, url = values.get("adapter"), values.get("url")
    if adapter is None and url is None:
        raise source.error(path, f"needs adapter = ... or url = ...; adapters: {', '.join(plugins.adapters)}")
    for key, value in (("adapter", adapter), ("url", url)):
        if value is not None and not isinstance(value, str):
            raise source.error((*path, key), "must be text")
    scheme = None
    if url is not None:
        match = _SCHEME.match(url)
        if match is None:
            raise source.error((*path, "url"), "is no URL: it must begin as in redis:// or sqlite:///")
        scheme = match.group(1).lower()
    key = "url" if adapter is None else "adapter"
    try:
        plugin = plugins.adapter_for_scheme(scheme or "") if adapter is None else plugins.adapter(adapter)
    except (ConfigError, PluginError) as error:
        raise type(error)(f"{source.where(*path, key)}: {error}") from error.__cause__
    if scheme is not None and scheme not in plugin.schemes:
        takes = ", ".join(f"{known}://" for known in plugin.schemes)
        raise source.error((*path, "url"), f"adapter {plugin.name!r} takes no {scheme}:// URLs, only {takes}")
    return plugin


def _from_url(url: str, plugin: AdapterPlugin, source: Source, path: tuple[str, ...]) -> dict[str, Any]:
    address, mark, query = url.partition("?")
    if mark and "@" not in query:  # an '@' after the '?' belongs to a password that nobody escaped
        pairs = parse_qsl(query, keep_blank_values=True)
        common = {key: value for key, value in pairs if key.split(".")[0] in COMMON_OPTIONS[2:]}
        if common:
            rest = urlencode([pair for pair in pairs if pair[0] not in common])
            url = f"{address}?{rest}" if rest else address
    else:
        common = {}
    try:
        options = dict(plugin.from_url(url))
    except ValueError as error:
        message = _without_secrets(str(error), url)
    else:
        for key, value in common.items():
            table, dot, inner = key.partition(".")
            if dot:
                options.setdefault(table, {})[inner] = value
            else:
                options[key] = value
        return options
    raise source.error((*path, "url"), message)


def _without_secrets(message: str, url: str) -> str:
    """``message`` with no part of the URL's secrets: urllib quotes passwords as bad ports."""
    message = mask_urls(message.replace(url, mask_url(url)))
    visible = mask_url(url)
    return _QUOTED.sub(
        lambda match: match.group() if match.group(2) in visible or match.group(2) not in url else "'***'", message
    )


def _anchored(model: type[BaseModel], values: Mapping[str, Any], base_dir: Path | None) -> dict[str, Any]:
    """``values`` with relative file names, defaults too, in options declared as `Path`, put under ``base_dir``."""
    found = dict(values)
    for name, info in model.model_fields.items():
        key = info.alias or name
        is_path = info.annotation is Path or Path in getattr(info.annotation, "__args__", ())
        file = found.get(key, info.default)
        if is_path and base_dir is not None and _names_a_file(file):
            found[key] = base_dir / Path(file).expanduser()
    return found


def _names_a_file(value: object) -> bool:
    # An empty name stays empty: the adapter refuses it.
    return isinstance(value, str | Path) and str(value) not in ("", ":memory:")
