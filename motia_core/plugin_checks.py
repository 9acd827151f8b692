"""What is checked of a plugin before it counts as loaded."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import pluggy
from pydantic import BaseModel

from motia_core import hookspecs
from motia_core.adapter import AdapterPlugin
from motia_core.errors import PluginError

COMMON_OPTIONS: Final = ("adapter", "url", "namespace", "timeout", "retention", "max_value_bytes")
"""Keys of ``[storage.NAME]`` that every adapter has; ``url`` alone may also be an option of its own."""

_NAME = re.compile(r"[a-z][a-z0-9_-]*\Z")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*\Z")


def _spec_arguments() -> Mapping[str, tuple[str, ...]]:
    marker = f"{hookspecs.PROJECT}_spec"
    return MappingProxyType(
        {
            name: tuple(inspect.signature(function).parameters)
            for name, function in vars(hookspecs).items()
            if inspect.isfunction(function) and hasattr(function, marker)
        }
    )


HOOKS: Final = _spec_arguments()
"""The hooks there are, with the names of their arguments."""


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'? known: ...`` for the end of a message about a wrong name."""
    names = sorted(known)
    close = difflib.get_close_matches(wrong, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{hint} known: {', '.join(names) or 'none'}"


def check_hooks(manager: pluggy.PluginManager, plugin: object) -> tuple[str, ...]:
    """The names of the hooks that ``plugin`` implements.

    Raises `PluginError` for whatever would make pluggy ignore a hook, or call it with
    less than it asks for: a guard that is silently not called is an open door.
    """
    hooks = []
    for attribute in dir(plugin):
        options = manager.parse_hookimpl_opts(plugin, attribute)
        if options is None:
            _check_unmarked(plugin, attribute)
            continue
        hook = options.get("specname") or attribute
        if hook not in HOOKS:
            if options.get("optionalhook"):
                continue
            raise PluginError(f"unknown hook {hook!r}{suggestion(hook, HOOKS)}")
        if options.get("wrapper") or options.get("hookwrapper"):
            raise PluginError(f"{hook} is a hook wrapper, which this host does not support: use a plain function")
        _check_arguments(hook, getattr(plugin, attribute))
        hooks.append(hook)
    return tuple(hooks)


def _check_unmarked(plugin: object, attribute: str) -> None:
    if attribute not in HOOKS:
        return
    function = inspect.getattr_static(plugin, attribute)
    if callable(function) and not hasattr(function, f"{hookspecs.PROJECT}_spec"):
        raise PluginError(f"{attribute} is not marked with @hookimpl, so it would never be called")


def _check_arguments(hook: str, function: Any) -> None:
    allowed = HOOKS[hook]
    takes = f"it can take: {', '.join(allowed) or 'no arguments'}"
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD:
            raise PluginError(f"{hook}: argument {name!r} must be a plain one ({parameter.kind.description}); {takes}")
        if name not in allowed:
            raise PluginError(f"{hook} asks for an unknown argument {name!r}; {takes}")
        if parameter.default is not parameter.empty:
            raise PluginError(f"{hook}: argument {name!r} has a default, so it would never be passed; remove it")


def check_adapters(result: object) -> tuple[AdapterPlugin, ...]:
    """The answer of ``motia_register_adapters``, if it is what it should be.

    Raises `PluginError` that says what is wrong.
    """
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise PluginError("motia_register_adapters must not be async: it only describes adapters, it opens nothing")
    if not isinstance(result, Sequence) or isinstance(result, str | bytes):
        raise PluginError(
            f"motia_register_adapters must return a sequence of AdapterPlugin, not {type(result).__name__}"
        )
    for number, adapter in enumerate(result):
        if not isinstance(adapter, AdapterPlugin):
            raise PluginError(
                f"motia_register_adapters must return AdapterPlugins; item {number} is {type(adapter).__name__}"
            )
        _check_adapter(adapter)
    repeated = _first_repeated(adapter.name for adapter in result)
    if repeated is not None:
        raise PluginError(f"motia_register_adapters describes adapter {repeated!r} twice")
    return tuple(result)


def _check_adapter(adapter: AdapterPlugin) -> None:
    if not _NAME.match(adapter.name):
        raise PluginError(f"adapter name {adapter.name!r} must be a small letter, then small letters, digits, '_' '-'")
    for scheme in adapter.schemes:
        if not _SCHEME.match(scheme):
            raise PluginError(f"adapter {adapter.name!r}: {scheme!r} is no URL scheme in small letters, as 'redis'")
    options: Any = adapter.options
    if not (inspect.isclass(options) and issubclass(options, BaseModel)):
        raise PluginError(f"adapter {adapter.name!r}: options must be a Pydantic model class")
    if options.model_config.get("extra") != "forbid":
        raise PluginError(f"adapter {adapter.name!r}: {options.__name__} must forbid unknown keys (extra='forbid')")
    taken = _shared(options.model_fields, COMMON_OPTIONS)
    if taken:
        raise PluginError(f"adapter {adapter.name!r}: option {taken[0]!r} is one that every storage has")


def _shared(fields: Collection[str], common: Collection[str]) -> list[str]:
    return [name for name in fields if name in common and name != "url"]


def _first_repeated(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
