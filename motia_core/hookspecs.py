"""What plugins can say: the hooks of entry-point group ``motia.adapters``.

Implement any of them in a module or class, mark them with `hookimpl`, and name it in
your distribution's ``[project.entry-points."motia.adapters"]``. Every hook but the first
may be ``async``; its result is awaited. A hook that raises, or answers something
unknown, never opens access.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

import pluggy

from motia_core.adapter import AdapterPlugin
from motia_core.definitions import Auth, AuthContext, Request, Subscription
from motia_core.model import Change, Write

PROJECT = "motia"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a function as an implementation of a hook."""


@hookspec
def motia_register_adapters() -> Sequence[AdapterPlugin]:
    """Return descriptions of the adapters this plugin brings. Called once; never async."""
    raise NotImplementedError


@hookspec
def motia_authenticate(request: Request) -> Awaitable[Auth | AuthContext] | Auth | AuthContext:
    """Say who is connecting: a dict, an `Auth` with an expiry, or ``None`` for "not mine".

    The first answer that is not ``None`` counts, the project's own ``authenticate``
    first. Raising refuses the client.
    """
    raise NotImplementedError


@hookspec
def motia_on_join(
    subscription: Subscription, ctx: Any, auth_context: AuthContext
) -> Awaitable[Mapping[str, Any] | None] | Mapping[str, Any] | None:
    """Allow or refuse a subscription, beside the stream's own ``on_join``.

    ``None`` means "no opinion"; any no, from anyone, refuses.
    """
    raise NotImplementedError


@hookspec
def motia_on_leave(subscription: Subscription, ctx: Any, auth_context: AuthContext) -> Awaitable[None] | None:
    """Told once when an allowed subscription has ended. Errors are logged."""
    raise NotImplementedError


@hookspec
def motia_before_write(stream: str, write: Write) -> Awaitable[None] | None:
    """Called before each write, after validation and before any I/O; raising refuses it.

    It gets a copy: changes to ``write`` change nothing.
    """
    raise NotImplementedError


@hookspec
def motia_trigger_matches(trigger: Any, change: Change) -> Awaitable[bool | None] | bool | None:
    """Narrow a stream trigger: ``False`` from anyone skips the change, ``None`` is no opinion."""
    raise NotImplementedError


@hookspec
def motia_on_change(change: Change) -> Awaitable[None] | None:
    """Observe every change of the project's streams, in each process. Errors are logged."""
    raise NotImplementedError
