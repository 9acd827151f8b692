"""Finding and registering plugins, one by one, so that one broken plugin harms no other."""

from __future__ import annotations

import inspect
import itertools
import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

import pluggy

from motia_core import hookspecs
from motia_core.adapter import AdapterPlugin
from motia_core.errors import PluginError
from motia_core.plugin_checks import check_adapters, check_hooks, guarded, said

GROUP = "motia.adapters"
"""The entry-point group of plugins."""

APPLICATION = "this application"
"""Stands as the distribution of plugins that the application passed in itself."""

logger = logging.getLogger("motia.plugins")

_REGISTER = "motia_register_adapters"


@dataclass(frozen=True, slots=True)
class PluginRecord:
    """What became of one plugin. ``reason`` says why it is blocked, failed or in conflict."""

    name: str
    distribution: str
    version: str
    status: Literal["loaded", "blocked", "failed"] = "loaded"
    reason: str = ""
    adapters: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"plugin {self.name!r} of {self.distribution} {self.version}".rstrip()

    @property
    def address(self) -> str:
        """``distribution:name``, as ``MOTIA_BLOCK_PLUGINS`` takes it."""
        return f"{self.distribution}:{self.name}"

    def named_in(self, names: Collection[str]) -> bool:
        """Whether one of ``names`` means this plugin."""
        return not {self.name, self.distribution, self.address}.isdisjoint(names)


Claim = tuple[PluginRecord, AdapterPlugin]
"""An adapter and the plugin that brought it."""


class Loader:
    """Registers plugins with pluggy and keeps the books. Add in reverse order of calling."""

    def __init__(self, *, blocked: Collection[str], verbose: bool) -> None:
        self.manager = pluggy.PluginManager(hookspecs.PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.records: list[PluginRecord] = []
        self.names: dict[str, list[Claim]] = {}
        self.schemes: dict[str, list[Claim]] = {}
        self._blocked = blocked
        self._verbose = verbose

    def add_installed(self) -> None:
        """Add every plugin of the entry-point group that is not blocked; never raises."""
        for point in sorted(entry_points(group=GROUP), key=lambda p: (_distribution(p), p.name), reverse=True):
            version = point.dist.version if point.dist is not None else ""
            self._add_foreign(PluginRecord(point.name, _distribution(point), version or ""), point)

    def _add_foreign(self, record: PluginRecord, point: EntryPoint) -> None:
        if self._is_blocked(record):
            return
        try:
            self.add(_imported(point), record)
        except PluginError as error:
            self.records.append(replace(record, status="failed", reason=str(error)))
            logger.warning("%s is left out: %s", record, error, exc_info=error if self._verbose else None)

    def add_builtin(self, plugin: AdapterPlugin) -> None:
        """Add an adapter of the core itself, unless it is blocked."""
        record = PluginRecord(plugin.name, "motia-core", "(built in)")
        if not self._is_blocked(record):
            self.add(plugin, record)

    def add_own(self, plugin: object) -> None:
        """Add one of the application's own plugins; raises `PluginError` if it is broken."""
        name = plugin.name if isinstance(plugin, AdapterPlugin) else getattr(plugin, "__name__", None)
        record = PluginRecord(str(name or type(plugin).__name__), APPLICATION, "")
        try:
            self.add(plugin, record)
        except PluginError as error:
            raise PluginError(f"{record}: {error}") from error.__cause__

    def add(self, plugin: object, record: PluginRecord) -> None:
        """Register one plugin with its adapters, or leave no trace of it and raise `PluginError`."""
        hooks: tuple[str, ...] = ()
        if isinstance(plugin, AdapterPlugin):
            adapters = check_adapters([plugin])
        else:
            plugin = _instance(plugin)
            hooks = _hooks(self.manager, plugin)
            adapters = _described(plugin) if _REGISTER in hooks else ()
            try:
                self.manager.register(plugin, name=self._unused(record.address))
            except ValueError as error:  # pluggy compares by equality
                raise PluginError("is registered twice, or is equal to another plugin") from error
        record = replace(record, adapters=tuple(adapter.name for adapter in adapters), hooks=hooks)
        self.records.append(record)
        for adapter in adapters:
            self.names.setdefault(adapter.name, []).append((record, adapter))
            for scheme in adapter.schemes:
                self.schemes.setdefault(scheme, []).append((record, adapter))

    def finish(self, required: Iterable[str]) -> None:
        """Put the records into the order of calling, note conflicts, look for required plugins."""
        self.records.reverse()
        for what, claims in contested(self.names, self.schemes):
            message = conflict(what, claims)
            for claimed, _ in claims:
                index = next(i for i, r in enumerate(self.records) if replace(r, reason="") == claimed)
                found = self.records[index]
                self.records[index] = replace(found, reason=f"{found.reason}; {message}".removeprefix("; "))
        for name in required:
            matching = [record for record in self.records if record.named_in([name])]
            if not any(record.status == "loaded" for record in matching):
                why = f"{matching[0]} {reason(matching[0])}" if matching else "no plugin of that name is installed"
                raise PluginError(f"MOTIA_REQUIRE_PLUGINS asks for {name!r}, but {why}")

    def _unused(self, name: str) -> str:
        names = (name if number == 1 else f"{name}#{number}" for number in itertools.count(1))
        return next(name for name in names if not self.manager.has_plugin(name))

    def _is_blocked(self, record: PluginRecord) -> bool:
        blocked = record.named_in(self._blocked)
        if blocked:
            self.records.append(replace(record, status="blocked", reason="blocked by name"))
        return blocked


def reason(record: PluginRecord) -> str:
    """``is failed: ...``, for the end of a sentence about a plugin that is not loaded."""
    return f"is left out ({record.status}: {record.reason})"


def conflict(what: str, claims: Sequence[Claim]) -> str:
    """The sentence that names all who claim one name, with the remedy."""
    records = [record for record, _ in claims]
    block = next((record.address for record in records if record.distribution != APPLICATION), "")
    remedy = f"; block one of them, as in MOTIA_BLOCK_PLUGINS={block}" if block else ""
    return f"{what} is claimed by {' and by '.join(map(str, records))}{remedy}"


def contested(names: dict[str, list[Claim]], schemes: dict[str, list[Claim]]) -> list[tuple[str, Sequence[Claim]]]:
    """What more than one plugin claims."""
    return [
        (f"{what} {name!r}", claims)
        for what, registry in (("adapter", names), ("URL scheme", schemes))
        for name, claims in registry.items()
        if len(claims) > 1
    ]


def _distribution(point: EntryPoint) -> str:
    return (point.dist.name if point.dist is not None else None) or "an unknown distribution"


def _imported(point: EntryPoint) -> object:
    if not point.pattern.match(point.value):
        raise PluginError(f"its entry point {point.value!r} is neither 'package.module' nor 'package.module:name'")
    try:
        return point.load()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        why = said(error)
        if isinstance(error, ModuleNotFoundError) and f"{point.module}.".startswith(f"{error.name}."):
            why = f"its entry point names module {point.module!r}, and {error.name!r} is not there"
        raise PluginError(f"cannot be imported: {why}") from error


def _instance(plugin: object) -> object:
    if not inspect.isclass(plugin):
        return plugin
    return guarded(f"{plugin.__name__}()", plugin)


def _hooks(manager: pluggy.PluginManager, plugin: object) -> tuple[str, ...]:
    return guarded("looking for its hooks", check_hooks, manager, plugin)


def _described(plugin: Any) -> tuple[AdapterPlugin, ...]:
    return check_adapters(guarded(_REGISTER, getattr(plugin, _REGISTER)))
