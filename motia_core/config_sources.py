"""Where configuration comes from: a TOML file, ``${VARIABLES}`` in it, the environment over it.

Every value remembers its origin, so that an error can name the file and key, or the
environment variable, that somebody has to correct.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from motia_core.errors import ConfigError
from motia_core.masking import mask_urls
from motia_core.plugin_checks import suggestion

PREFIX = "MOTIA_"
SECTIONS = ("storage", "server", "state", "queue", "cron")
"""The tables that a configuration may have."""

_VARIABLE = re.compile(r"\$(\$\{)|\$\{([^}]*)(\}?)")
_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?\Z", re.DOTALL)

Path_ = tuple[str, ...]


@dataclass(slots=True)
class Source:
    """Configuration as nested mappings, with the origin of each key."""

    data: dict[str, Any]
    file: str = ""
    """The file's name; empty for what a program passed in."""
    variables: dict[Path_, str] = field(default_factory=dict)
    """Keys that the environment set, with the variable that did."""

    def where(self, *path: str) -> str:
        """The origin of a key, to begin a message with."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.variables:
                rest = f" ({'.'.join(path)})" if length < len(path) else ""
                return f"environment variable {self.variables[path[:length]]}{rest}"
        dotted = ".".join(path)
        below = [name for key, name in self.variables.items() if key[: len(path)] == path]
        if below:
            dotted += f" (with environment variable {', '.join(below)})"
        return f"{self.file}: {dotted}" if self.file else dotted

    def error(self, path: Path_, message: str) -> ConfigError:
        """A `ConfigError` about one key."""
        return ConfigError(f"{self.where(*path)}: {message}")

    def table(self, section: str) -> dict[str, Any]:
        """One section's keys; empty if it is not there."""
        value = self.data.get(section, {})
        if not isinstance(value, Mapping):
            raise self.error((section,), "must be a table (keys and values)")
        return dict(value)


def read(file: Path, environ: Mapping[str, str]) -> Source:
    """Read a TOML file (it may be missing), put the environment over it, replace variables.

    Raises `ConfigError` that names the file, or the variable.
    """
    data = _parse(file)
    source = Source(data, str(file))
    overrides = _overrides(data, environ)
    source.variables = {path: name for path, (name, _) in overrides.items()}
    # What the environment replaces needs no variables of its own.
    source.data = {
        key: _replaced(value, (key,), source, environ) for key, value in data.items() if (key,) not in source.variables
    }
    for path, (name, value) in sorted(overrides.items(), key=lambda override: len(override[0])):
        _put(source, path, name, value)
    _check_sections(source)
    return source


def given(**sections: Any) -> Source:
    """Configuration that a program passes in; ``None`` means that a section is left out."""
    return Source({name: value for name, value in sections.items() if value is not None})


M = TypeVar("M", bound=BaseModel)


def validated(model: type[M], values: Mapping[str, Any], source: Source, path: Path_) -> M:
    """``values`` as a ``model``.

    Raises `ConfigError` with a line for each problem; no message shows a value, and the
    cause, which would, is dropped.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
    raise ConfigError("\n".join(_line(problem, model, source, path) for problem in problems))


def _line(problem: Any, model: type[BaseModel], source: Source, path: Path_) -> str:
    location = tuple(str(part) for part in problem["loc"])
    message = mask_urls(problem["msg"].removeprefix("Value error, "))
    if problem["type"] == "extra_forbidden":
        *parents, key = location
        message = f"unknown key{suggestion(key, keys_of(model, parents))}"
    elif problem["type"] == "missing":
        message = "is missing"
    return f"{source.where(*path, *location)}: {message}"


def keys_of(model: type[BaseModel], parents: list[str] | tuple[str, ...] = ()) -> list[str]:
    """The keys of ``model``, or of the models nested in it under ``parents``."""
    models = [model]
    for parent in parents:
        found = [f.annotation for m in models for n, f in m.model_fields.items() if parent in (n, f.alias)]
        nested = [m for annotation in found for m in _models_in(annotation)]
        models = nested or models  # a union's tag in the path names no field
    return [f.alias or name for m in models for name, f in m.model_fields.items()]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in getattr(annotation, "__args__", ()) for model in _models_in(argument)]


def _parse(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            return tomllib.loads(opened.read().decode("utf-8-sig"))  # some editors begin with a mark
    except FileNotFoundError:
        return {}
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: is not valid TOML: {error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: is not UTF-8 text") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error


def _check_sections(source: Source) -> None:
    for section in source.data:
        if section not in SECTIONS:
            raise source.error((section,), f"unknown section{suggestion(section, SECTIONS)}")


# -- ${VARIABLE}


def _replaced(value: Any, path: Path_, source: Source, environ: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {
            key: _replaced(item, (*path, key), source, environ)
            for key, item in value.items()
            if (*path, key) not in source.variables
        }
    if isinstance(value, list):
        return [_replaced(item, (*path, str(index)), source, environ) for index, item in enumerate(value)]
    if isinstance(value, str) and "${" in value:
        return _VARIABLE.sub(lambda match: _value_of(match, path, source, environ), value)
    return value


def _value_of(match: re.Match[str], path: Path_, source: Source, environ: Mapping[str, str]) -> str:
    if match.group(1):
        return "${"
    if not match.group(3):
        raise source.error(path, "'${' is never closed: write ${NAME}, or $${ for a plain '${'")
    named = _NAME.match(match.group(2))
    if named is None:
        raise source.error(path, "'${...}' must hold a variable's name, as in ${NAME} or ${NAME:-default}")
    name, default = named.groups()
    if default is not None and "${" in default:
        raise source.error(path, f"the default of ${{{name}:-...}} cannot hold another '${{'")
    value = environ.get(name)
    if default is not None:
        return value or default
    if value is None:
        raise source.error(path, f"environment variable {name} is not set (${{{name}:-...}} gives it a default)")
    return value


# -- MOTIA_SECTION__KEY=value


def _overrides(data: Mapping[str, Any], environ: Mapping[str, str]) -> dict[Path_, tuple[str, Any]]:
    found = {}
    for name, text in sorted(environ.items()):
        parts = name.removeprefix(PREFIX).split("__")
        if not name.startswith(PREFIX) or len(parts) < 2:
            continue
        if parts[0].lower() not in SECTIONS or not all(parts):
            known = suggestion(parts[0].lower(), SECTIONS)
            raise ConfigError(f"environment variable {name}: names no section of the configuration{known}")
        found[_spelled(parts, data)] = (name, _decoded(name, text))
    return found


def _spelled(parts: list[str], data: Any) -> Path_:
    """The path that ``parts`` mean: keys as the file spells them, else in small letters."""
    path = []
    for part in parts:
        keys = data if isinstance(data, Mapping) else {}
        key = next((k for k in keys if k.replace("-", "_").lower() == part.lower()), part.lower())
        path.append(key)
        data = keys.get(key)
    return tuple(path)


def _decoded(name: str, text: str) -> Any:
    if not text.startswith(("{", "[")):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"environment variable {name}: begins like JSON but is not: {error.msg}") from None


def _put(source: Source, path: Path_, name: str, value: Any) -> None:
    table: dict[str, Any] = source.data
    for depth, key in enumerate(path[:-1], 1):
        inner: Any = table.setdefault(key, {})
        if isinstance(inner, str) and path[0] == "storage" and depth == 2:
            inner = table[key] = {"url": inner}
        if not isinstance(inner, dict):
            raise ConfigError(f"environment variable {name}: {'.'.join(path[:depth])} is no table")
        table = inner
    table[path[-1]] = value
