"""Live streams in the database you already run.

Everything a project needs is importable from here, and loaded when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from motia_core.app import Motia as Motia
    from motia_core.definitions import Auth as Auth
    from motia_core.definitions import Request as Request
    from motia_core.definitions import StreamConfig as StreamConfig
    from motia_core.definitions import Subscription as Subscription
    from motia_core.errors import AccessDenied as AccessDenied
    from motia_core.errors import BackendError as BackendError
    from motia_core.errors import BackendUnavailable as BackendUnavailable
    from motia_core.errors import ConfigError as ConfigError
    from motia_core.errors import Conflict as Conflict
    from motia_core.errors import GroupTooLarge as GroupTooLarge
    from motia_core.errors import InvalidName as InvalidName
    from motia_core.errors import InvalidValue as InvalidValue
    from motia_core.errors import MissingDependency as MissingDependency
    from motia_core.errors import MotiaError as MotiaError
    from motia_core.errors import OutcomeUnknown as OutcomeUnknown
    from motia_core.errors import PluginError as PluginError
    from motia_core.errors import PositionExpired as PositionExpired
    from motia_core.errors import SchemaError as SchemaError
    from motia_core.errors import UnsupportedCapability as UnsupportedCapability
    from motia_core.errors import UpdateError as UpdateError
    from motia_core.hookspecs import hookimpl as hookimpl
    from motia_core.steps import Context as Context
    from motia_core.steps import Step as Step
    from motia_core.steps import cron as cron
    from motia_core.steps import http as http
    from motia_core.steps import queue as queue
    from motia_core.steps import state as state
    from motia_core.steps import step as step
    from motia_core.steps import stream as stream
    from motia_core.streams import Stream as Stream

_HOMES = {
    "motia_core.app": ["Motia"],
    "motia_core.definitions": ["Auth", "Request", "StreamConfig", "Subscription"],
    "motia_core.errors": [
        "AccessDenied",
        "BackendError",
        "BackendUnavailable",
        "ConfigError",
        "Conflict",
        "GroupTooLarge",
        "InvalidName",
        "InvalidValue",
        "MissingDependency",
        "MotiaError",
        "OutcomeUnknown",
        "PluginError",
        "PositionExpired",
        "SchemaError",
        "UnsupportedCapability",
        "UpdateError",
    ],
    "motia_core.hookspecs": ["hookimpl"],
    "motia_core.steps": ["Context", "Step", "cron", "http", "queue", "state", "step", "stream"],
    "motia_core.streams": ["Stream"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'motia_core' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
