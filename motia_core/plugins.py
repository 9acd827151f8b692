"""The plugins of an application: its adapters, and the hooks it calls (see `hookspecs`).

Plugins come from the entry-point group ``motia.adapters``, one by one: one that is
broken is recorded and leaves the others alone. Objects that the application passes in
itself come first in every call, and raise at once when they are broken.

``MOTIA_BLOCK_PLUGINS=a,b`` blocks plugins, ``MOTIA_REQUIRE_PLUGINS=a,b`` refuses to start
without them (for those that guard access); both take an entry point's name, a
distribution's, or ``distribution:name``. ``MOTIA_TRACE_PLUGINS=1`` logs every hook call,
without its arguments, to the logger ``motia.plugins``.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import time
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import pluggy

from motia_core.adapter import AdapterPlugin
from motia_core.errors import ConfigError, PluginError
from motia_core.plugin_building import build_adapter
from motia_core.plugin_checks import HOOKS, suggestion
from motia_core.plugin_loading import APPLICATION, GROUP, Claim, Loader, PluginRecord, conflict, reason

__all__ = ["APPLICATION", "GROUP", "PluginRecord", "Plugins", "build_adapter", "is_no_failure"]

logger = logging.getLogger("motia.plugins")


class Plugins:
    """The plugins of one application. Make it with `load`; it does not change afterwards."""

    def __init__(self, loader: Loader, *, trace: bool = False) -> None:
        self._loader = loader
        self._trace = trace
        self._calls: dict[str, list[pluggy.HookImpl]] = {
            hook: list(reversed(getattr(loader.manager.hook, hook).get_hookimpls())) for hook in HOOKS
        }

    @classmethod
    def load(
        cls,
        *,
        extra: Iterable[object] = (),
        blocked: Iterable[str] = (),
        environ: Mapping[str, str] | None = None,
    ) -> Plugins:
        """Load the installed plugins, the built-in ``memory`` adapter and ``extra``.

        ``extra`` holds the application's own plugins: modules, objects, classes whose
        constructor takes no arguments, or plain `AdapterPlugin` descriptions; they are
        called first, in this order. ``blocked`` adds to ``MOTIA_BLOCK_PLUGINS``. An
        installed plugin that is broken becomes a "failed" record and a warning in the log.

        Raises `PluginError` for a broken plugin of ``extra``, and for one that
        ``MOTIA_REQUIRE_PLUGINS`` names but that is not loaded.
        """
        from motia_core.memory import MEMORY

        if isinstance(extra, str | bytes | Mapping) or not isinstance(extra, Iterable):
            raise PluginError(f"plugins must be a list of plugins, not {type(extra).__name__}")
        env = os.environ if environ is None else environ
        trace = env.get("MOTIA_TRACE_PLUGINS", "") not in ("", "0")
        loader = Loader(blocked={*blocked, *_split(env.get("MOTIA_BLOCK_PLUGINS", ""))}, verbose=trace)
        # pluggy calls the last registered first, so all is added backwards.
        loader.add_installed()
        loader.add_builtin(MEMORY)
        for plugin in reversed(list(extra)):
            loader.add_own(plugin)
        loader.finish(required=_split(env.get("MOTIA_REQUIRE_PLUGINS", "")))
        return cls(loader, trace=trace)

    @property
    def records(self) -> tuple[PluginRecord, ...]:
        """One record for each plugin, in the order in which they are called."""
        return tuple(self._loader.records)

    @property
    def hook(self) -> pluggy.HookRelay:
        """pluggy's own callers, which await nothing; `call`, `first` and `notify` do."""
        return self._loader.manager.hook

    @property
    def adapters(self) -> Mapping[str, AdapterPlugin]:
        """Adapters by name, without the names that two plugins claim."""
        names = sorted(self._loader.names.items())
        return MappingProxyType({name: claims[0][1] for name, claims in names if len(claims) == 1})

    def adapter(self, name: str) -> AdapterPlugin:
        """The adapter called ``name``.

        Raises `ConfigError` if there is none, and `PluginError` if two plugins claim it.
        """
        claims = self._loader.names.get(name)
        if claims is None:
            raise ConfigError(f"unknown adapter {name!r}{suggestion(name, self._loader.names)}{self._left_out()}")
        return _only(claims, f"adapter {name!r}")

    def adapter_for_scheme(self, scheme: str) -> AdapterPlugin:
        """The adapter that URLs of this scheme choose (``redis`` for ``redis://...``).

        Raises as `adapter` does.
        """
        claims = self._loader.schemes.get(scheme.lower())
        if claims is None:
            known = suggestion(scheme.lower(), self._loader.schemes)
            raise ConfigError(f"no adapter takes URLs of scheme {scheme!r}{known}{self._left_out()}")
        return _only(claims, f"URL scheme {scheme.lower()!r}")

    def origin(self, adapter: AdapterPlugin) -> str:
        """The plugin that brought ``adapter``, with its distribution; empty if none did."""
        claims = self._loader.names.get(adapter.name, [])
        return next((str(record) for record, claimed in claims if claimed is adapter), "")

    def implements(self, hook: str) -> bool:
        """Whether any plugin implements ``hook``: spares the callers of busy hooks the call."""
        return bool(self._calls[hook])

    async def call(self, hook: str, /, **arguments: Any) -> list[Any]:
        """Call ``hook`` of every plugin in turn, awaiting each; the answers that are not ``None``.

        The first exception ends it, and is raised as it is.
        """
        answers = [await self._ask(implementation, arguments) for implementation in self._calls[hook]]
        return [answer for answer in answers if answer is not None]

    async def first(self, hook: str, /, **arguments: Any) -> Any:
        """The first answer that is not ``None`` (later plugins are not asked), or ``None``."""
        for implementation in self._calls[hook]:
            answer = await self._ask(implementation, arguments)
            if answer is not None:
                return answer
        return None

    async def notify(self, hook: str, limit: float | None = None, /, **arguments: Any) -> None:
        """Tell every plugin; what one raises is logged and stops neither caller nor others.

        ``limit``: seconds for each; one that takes longer is cancelled.
        """
        for implementation in self._calls[hook]:
            try:
                async with asyncio.timeout(limit):
                    await self._ask(implementation, arguments)
            except BaseException as error:
                if is_no_failure(error):
                    raise
                logger.exception("%s of plugin %s failed", hook, implementation.plugin_name)

    async def _ask(self, implementation: pluggy.HookImpl, arguments: Mapping[str, Any]) -> Any:
        started = time.perf_counter()
        outcome = "raised"
        try:
            answer = implementation.function(*[arguments[name] for name in implementation.argnames])
            if inspect.isawaitable(answer):
                answer = await answer
            outcome = f"answered {type(answer).__name__}"
            return answer
        finally:
            if self._trace:
                name, plugin = implementation.function.__name__, implementation.plugin_name
                logger.info("%s of %s %s in %.1f ms", name, plugin, outcome, (time.perf_counter() - started) * 1000)

    def _left_out(self) -> str:
        return "".join(f"\n  {record} {reason(record)}" for record in self.records if record.status != "loaded")


def is_no_failure(error: BaseException) -> bool:
    """Whether what came out of a hook must go on: a Ctrl-C, or the cancellation of whoever called it.

    All else is the hook's own failure, a ``SystemExit`` or somebody's ``CancelledError`` too.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0
    return isinstance(error, (KeyboardInterrupt, GeneratorExit))


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def _only(claims: list[Claim], what: str) -> AdapterPlugin:
    if len(claims) > 1:
        raise PluginError(conflict(what, claims))
    return claims[0][1]
