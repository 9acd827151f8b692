"""What is checked of a plugin before it counts as loaded."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType, ModuleType
from typing import Any, Final, TypeVar

import pluggy
from pydantic import BaseModel

from motia_core import hookspecs
from motia_core.adapter import AdapterPlugin, Capabilities
from motia_core.errors import PluginError
from motia_core.masking import mask_urls

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


T = TypeVar("T")


def said(error: BaseException) -> str:
    """What somebody's code raised, in one line, without the passwords of URLs."""
    if isinstance(error, PluginError):
        return str(error)
    text = mask_urls(str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def guarded(what: str, function: Callable[..., T], *arguments: Any) -> T:
    """Call a plugin's code; all it raises becomes a `PluginError`, but for a Ctrl-C."""
    try:
        return function(*arguments)
    except (PluginError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise PluginError(f"{what} raised {said(error)}") from error


def check_hooks(manager: pluggy.PluginManager, plugin: object) -> tuple[str, ...]:
    """The names of the hooks that ``plugin`` implements.

    Raises `PluginError` for whatever would make pluggy ignore a hook, or call it with
    less than it asks for: a guard that is silently not called is an open door.
    """
    hooks = []
    later = False
    for attribute in dir(plugin):
        options = manager.parse_hookimpl_opts(plugin, attribute)
        if options is None:
            _check_unmarked(plugin, attribute)
            continue
        hook = options.get("specname") or attribute
        if hook not in HOOKS:
            if options.get("optionalhook"):
                later = True
                continue
            raise PluginError(f"unknown hook {hook!r}{suggestion(hook, HOOKS)}")
        if options.get("wrapper") or options.get("hookwrapper"):
            raise PluginError(f"{hook} is a hook wrapper, which this host does not support: use a plain function")
        _check_arguments(hook, getattr(plugin, attribute))
        hooks.append(hook)
    if not hooks and not later:
        raise PluginError(
            f"{_shown(plugin)} implements no hook: a plugin is an AdapterPlugin, or a module, class or object with"
            f" functions that are marked with @hookimpl and called as a hook is: {', '.join(HOOKS)}"
        )
    return tuple(hooks)


def _shown(plugin: object) -> str:
    if isinstance(plugin, ModuleType):
        return f"module {plugin.__name__!r}"
    return "None" if plugin is None else f"an object of type {type(plugin).__name__}"


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
    if is_async(result):
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
    repeated = _first_repeated(scheme for adapter in result for scheme in adapter.schemes)
    if repeated is not None:
        raise PluginError(f"motia_register_adapters names URL scheme {repeated!r} twice")
    return tuple(result)


def is_async(result: object) -> bool:
    """Whether a call came back with something to await; a coroutine is closed, as nobody will."""
    if inspect.iscoroutine(result):
        result.close()
    return inspect.isawaitable(result) or inspect.isasyncgen(result)


def _check_adapter(adapter: AdapterPlugin) -> None:
    if not isinstance(adapter.name, str) or not _NAME.match(adapter.name):
        raise PluginError(f"adapter name {adapter.name!r} must be a small letter, then small letters, digits, '_' '-'")
    try:
        _check_schemes(adapter.schemes)
        _check_options(adapter.options)
        _check_modes(adapter.modes)
        for name in ("load", "from_url"):
            _check_plain_function(name, getattr(adapter, name))
        if not isinstance(adapter.install, str):
            raise PluginError(f"install must be text, as 'motia-core[redis]', not {type(adapter.install).__name__}")
    except PluginError as error:
        raise PluginError(f"adapter {adapter.name!r}: {error}") from None


def _check_schemes(schemes: Any) -> None:
    if not isinstance(schemes, tuple | list):
        raise PluginError(f"schemes must be a tuple of URL schemes, as ('redis', 'rediss'), not {schemes!r}")
    for scheme in schemes:
        if not isinstance(scheme, str) or not _SCHEME.match(scheme):
            raise PluginError(f"{scheme!r} is no URL scheme in small letters, as 'redis'")


def _check_options(options: Any) -> None:
    if not (inspect.isclass(options) and issubclass(options, BaseModel)):
        raise PluginError("options must be a Pydantic model class")
    if options.model_config.get("extra") != "forbid":
        raise PluginError(f"{options.__name__} must forbid unknown keys (extra='forbid')")
    taken = _shared(options.model_fields, COMMON_OPTIONS)
    if taken:
        raise PluginError(f"option {taken[0]!r} is one that every storage has")


def _check_modes(modes: Any) -> None:
    if not isinstance(modes, Mapping) or not modes:
        raise PluginError("modes must map at least one mode to its Capabilities, as {'managed': Capabilities(...)}")
    for mode, declared in modes.items():
        if not isinstance(mode, str) or not mode:
            raise PluginError(f"modes: {mode!r} is no name of a mode, as 'managed'")
        if not isinstance(declared, Capabilities):
            raise PluginError(f"modes[{mode!r}] must be Capabilities, not {type(declared).__name__}")


def _check_plain_function(name: str, function: Any) -> None:
    if not callable(function):
        raise PluginError(f"{name} must be a function, not {type(function).__name__}")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise PluginError(f"{name} must be a plain function, not async: an adapter connects in its open()")


def _shared(fields: Collection[str], common: Collection[str]) -> list[str]:
    return [name for name in fields if name in common and name != "url"]


def _first_repeated(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
