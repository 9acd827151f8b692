"""Who may connect and listen (SEMANTICS E): everything but a clear yes is a no."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from motia_core.definitions import Auth, AuthContext, JoinHook, Request, StreamConfig, Subscription
from motia_core.errors import AccessDenied
from motia_core.plugins import Plugins, is_no_failure

log = logging.getLogger("motia.access")

Authenticate = Callable[[Request], Any]
"""The project's own ``authenticate(request)``, plain or async."""


@dataclass(frozen=True, slots=True)
class Admission:
    """An allowed subscription, to be handed to `Access.leave` once when it ends."""

    subscription: Subscription
    auth_context: AuthContext


class Access:
    """Asks the project and its plugins.

    ``make_context`` builds the ``ctx`` that hooks get; the timeouts are in seconds. The
    project's plain (not async) hooks run in a thread, so that a slow one blocks nobody
    else.
    """

    def __init__(
        self,
        streams: Mapping[str, StreamConfig],
        *,
        authenticate: Authenticate | None = None,
        plugins: Plugins,
        make_context: Callable[[], Any] = lambda: None,
        auth_timeout: float = 10.0,
        join_timeout: float = 10.0,
    ) -> None:
        self._streams = streams
        self._authenticate = authenticate
        self._plugins = plugins
        self._make_context = make_context
        self._auth_timeout = auth_timeout
        self._join_timeout = join_timeout

    async def authenticate(self, request: Request) -> Auth:
        """Who is connecting. Raises `AccessDenied` when any hook raises, is late, or makes no sense."""
        try:
            async with asyncio.timeout(self._auth_timeout) as limit:
                answer = None
                if self._authenticate is not None:
                    answer = _read_auth(await _call(self._authenticate, request))
                if answer is None:
                    answer = _read_auth(await self._plugins.first("motia_authenticate", request=request))
            _check_in_time(limit)
            return answer or Auth(None)
        except AccessDenied as denied:
            raise self._denied(str(denied), denied.reason or str(denied)) from denied.__cause__
        except BaseException as error:
            if is_no_failure(error):
                raise
            # Raising is how a client is refused; what looks like a mistake is shown with its place.
            mistake = None if isinstance(error, (PermissionError, TimeoutError)) else error
            raise self._denied("not authenticated", f"authenticate failed: {_named(error)}", mistake) from error

    async def join(self, subscription: Subscription, auth_context: AuthContext) -> Admission:
        """Ask whether a client may listen. Raises `AccessDenied` unless everybody who has a say says yes."""
        config = self._streams.get(subscription.stream_name)
        if config is None:
            raise self._denied("no such stream, or no access to it", f"unknown stream {subscription.stream_name!r}")
        message = "no such stream, or no access to it"
        context: dict[str, Any] = {}
        try:
            async with asyncio.timeout(self._join_timeout) as limit:
                if config.on_join is not None:
                    context |= _read_join(await self._ask(config.on_join, subscription, auth_context))
                for answer in await self._plugins.call("motia_on_join", **self._arguments(subscription, auth_context)):
                    context |= _read_join(answer)
            _check_in_time(limit)
        except AccessDenied as denied:
            raise self._denied(message, denied.reason) from None
        except BaseException as error:
            if is_no_failure(error):
                raise
            reason = f"on_join of {subscription.stream_name!r} failed: {_named(error)}"
            raise self._denied(message, reason, error) from error
        if not context:
            return Admission(subscription, auth_context)
        return Admission(replace(subscription, context=context), {**(auth_context or {}), **context})

    async def leave(self, admission: Admission) -> None:
        """Tell the stream and the plugins that an allowed subscription has ended. Never raises."""
        config = self._streams.get(admission.subscription.stream_name)
        try:
            async with asyncio.timeout(self._join_timeout):
                if config is not None and config.on_leave is not None:
                    await self._ask(config.on_leave, admission.subscription, admission.auth_context)
        except BaseException as error:
            if is_no_failure(error):
                raise
            log.exception("on_leave of %r failed: %s", admission.subscription.stream_name, _named(error))
        arguments = self._arguments(admission.subscription, admission.auth_context)
        await self._plugins.notify("motia_on_leave", self._join_timeout, **arguments)

    async def _ask(self, hook: JoinHook, subscription: Subscription, auth_context: AuthContext) -> Any:
        return await _call(hook, *self._arguments(subscription, auth_context).values())

    def _arguments(self, subscription: Subscription, auth_context: AuthContext) -> dict[str, Any]:
        # A copy each time: no hook can change who the client is for the next.
        auth = dict(auth_context) if auth_context is not None else None
        return {"subscription": subscription, "ctx": self._make_context(), "auth_context": auth}

    def _denied(self, message: str, reason: str, mistake: BaseException | None = None) -> AccessDenied:
        log.log(logging.WARNING if mistake else logging.INFO, "access denied: %s", reason, exc_info=mistake)
        return AccessDenied(message, reason=reason)


async def _call(hook: Callable[..., Any], *arguments: Any) -> Any:
    """Call a hook of the project's; a plain function runs in a thread."""
    if inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(getattr(hook, "__call__", None)):  # noqa: B004
        return await hook(*arguments)
    result = await asyncio.to_thread(hook, *arguments)
    return await result if inspect.isawaitable(result) else result


def _read_auth(answer: Any) -> Auth | None:
    if answer is None:
        return None
    auth = answer if isinstance(answer, Auth) else Auth(answer)
    if auth.context is not None and not isinstance(auth.context, dict):
        raise AccessDenied("not authenticated", reason=f"authenticate returned {type(answer).__name__}, not a dict")
    if auth.expires_at is not None and not _is_time(auth.expires_at):
        raise AccessDenied("not authenticated", reason="expires_at must be seconds since the epoch")
    return auth


def _is_time(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return not math.isnan(value)
    except OverflowError:
        return False


def _read_join(answer: Any) -> dict[str, Any]:
    """The context of a clear yes, in either spelling; anything else is a no (E1)."""
    if not isinstance(answer, Mapping):
        raise AccessDenied("", reason=f"on_join returned {type(answer).__name__}, not a dict")
    verdicts = [
        *([answer["authorized"] is True] if "authorized" in answer else []),
        *([answer["unauthorized"] is False] if "unauthorized" in answer else []),
    ]
    if not verdicts or not all(verdicts):
        raise AccessDenied("", reason="on_join said no" if verdicts else "on_join said neither yes nor no")
    context = answer.get("context")
    if context is not None and not isinstance(context, Mapping):
        raise AccessDenied("", reason=f"on_join returned a context of type {type(context).__name__}")
    return dict(context or {})


def _check_in_time(limit: asyncio.Timeout) -> None:
    """A hook that was told that its time is over and answered all the same is late."""
    if limit.expired():
        raise TimeoutError


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
