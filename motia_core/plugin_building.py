"""From a description to an adapter: what is wrong with an author's factory is said with the plugin's name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from motia_core.adapter import Adapter, AdapterPlugin, Capabilities, StorageSettings
from motia_core.adapter_checks import check_adapter_class
from motia_core.errors import MissingDependency, MotiaError, PluginError
from motia_core.model import StreamSpec
from motia_core.plugin_checks import is_async, said


def build_adapter(plugin: AdapterPlugin, settings: StorageSettings, options: BaseModel, origin: str = "") -> Adapter:
    """Import the adapter's driver and build the adapter; it is not open yet.

    ``origin`` names the plugin and its distribution in errors. Raises `MissingDependency`,
    with the command that installs it, if the driver is missing, and `PluginError` for
    whatever is wrong with the plugin: a factory that is none, an adapter that does not
    keep the contract.
    """
    who = named(plugin, settings, origin)
    try:
        factory = _called("load()", plugin.load)
        _check_factory(factory)
        adapter = _called(f"its factory {_name(factory)}", factory, settings, options)
        _check_built(adapter, _name(factory))
    except ImportError as error:
        remedy = f'; install it with: pip install "{plugin.install}"' if plugin.install else ""
        if " " in plugin.install:  # not a package
            remedy = f"; it needs {plugin.install}"
        raise MissingDependency(f"{who} cannot import what it needs ({error}){remedy}") from error
    except PluginError as error:
        raise PluginError(f"{who}: {error}") from error.__cause__
    return adapter  # type: ignore[no-any-return]


def declared(adapter: Adapter, stream: StreamSpec, who: str) -> Capabilities:
    """What an adapter promises for ``stream``.

    Raises `PluginError` that begins with ``who`` if it is no such thing.
    """
    try:
        found: Any = _called("capabilities()", adapter.capabilities, stream)
    except PluginError as error:
        raise PluginError(f"{who}: {error}") from error.__cause__
    if not isinstance(found, Capabilities):
        raise PluginError(f"{who}: capabilities() must return Capabilities, not {type(found).__name__}")
    return found


def named(plugin: AdapterPlugin, settings: StorageSettings, origin: str) -> str:
    """The storage, its adapter and where that comes from, to begin a message with."""
    return f"storage {settings.name!r}: adapter {plugin.name!r}" + (f" ({origin})" if origin else "")


def _called(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        result = function(*arguments)
    except (ImportError, MotiaError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise PluginError(f"{what} raised {said(error)}") from error
    if not isinstance(result, Adapter) and not inspect.isclass(result) and is_async(result):
        raise PluginError(f"{what} is async: it must be a plain function, an adapter connects in its open()")
    return result


def _check_factory(factory: Any) -> None:
    if isinstance(factory, Adapter):
        raise PluginError("load() must return what builds the adapter (its class, or a function), not an adapter")
    if not callable(factory):
        raise PluginError(f"load() must return what builds the adapter, not {type(factory).__name__}")
    if inspect.isclass(factory):
        check_adapter_class(factory)
    if inspect.iscoroutinefunction(factory) or inspect.isasyncgenfunction(factory):
        raise PluginError(
            f"load() returned {_name(factory)}, which is async: what builds the adapter must be a plain function,"
            " an adapter connects in its open()"
        )


def _check_built(adapter: Any, factory: str) -> None:
    if not isinstance(adapter, Adapter):
        raise PluginError(f"its factory {factory} must return an Adapter, not {type(adapter).__name__}")
    check_adapter_class(type(adapter))
    if not hasattr(adapter, "settings"):
        raise PluginError(f"{type(adapter).__name__}.__init__ does not call super().__init__(settings)")


def _name(factory: Any) -> str:
    return getattr(factory, "__qualname__", type(factory).__name__).rpartition("<locals>.")[2]
