"""Where ``motia-core migrate from-motia`` puts items, and what is there already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from motia_core.adapter import Adapter
from motia_core.app import Motia
from motia_core.cli.data import check_shared
from motia_core.errors import ConfigError
from motia_core.model import StreamSpec
from motia_core.states import STATE, VALUE


class Door(Protocol):
    """How items are written: a stream, or state."""

    def check(self, group: str, id: str, value: Any, /) -> None:
        """Raise what `set` would raise before any I/O."""

    async def set(self, group: str, id: str, value: Any, /, *, expect: Any, ttl: float | None) -> Any:
        """Store it."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where items go, and how one is read there: a value of state that is null is not an item that is missing."""

    door: Door
    adapter: Adapter
    spec: StreamSpec

    async def has(self, group: str, id: str, value: Any) -> bool | None:
        """Whether the item is there with this value; ``None``: it is not there."""
        item = await self.adapter.get(self.spec, group, id)
        if item is None:
            return None
        return _equal(item.value, {VALUE: value} if self.spec == STATE else value)


def target_of(motia: Motia, source: str, name: str) -> Target:
    """Where a stream goes (or state, if ``source`` is empty). Raises `ConfigError` if nothing would stay there."""
    if not source:
        storage, spec, what = motia.settings.state.storage, STATE, "state"
    elif name not in motia.stream_configs:
        raise ConfigError(
            f"the project has no stream {name!r}: declare it, or say --stream {source}=NAME"
            f" (--stream {source}= to leave it out)"
        )
    else:
        storage, spec, what = motia.stream_configs[name].storage_type, StreamSpec(name), f"stream {name!r}"
    adapter = motia.storages[storage]
    check_shared(what, storage, adapter, spec)
    return Target(motia.state if spec == STATE else motia.streams[name], adapter, spec)


def _equal(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same; Python takes ``true`` for 1."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)
