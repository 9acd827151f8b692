"""Key-value state, by group and key, on a storage type of its own (``ctx.state``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from motia_core.errors import InvalidValue
from motia_core.model import StreamSpec
from motia_core.operations import parse
from motia_core.streams import Stream

STATE = StreamSpec("$state", hidden=True)
"""The hidden stream that state lives in; its changes are what state triggers watch."""

VALUE = "value"
"""The field of its item that holds a value."""


class State:
    """Values of any JSON type under a group and a key.

    >>> await ctx.state.set("workspaces", "workspace-1", {"members": ["user-42"]})
    >>> await ctx.state.get("workspaces", "workspace-1")
    {'members': ['user-42']}
    """

    def __init__(self, stream: Stream[dict[str, Any]]) -> None:
        self._stream = stream

    async def get(self, group_id: str, key: str) -> Any:
        """The value, or ``None``."""
        item = await self._stream.get(group_id, key)
        return None if item is None else item.get(VALUE)

    async def set(
        self, group_id: str, key: str, value: Any, *, expect: Literal["absent"] | None = None, ttl: float | None = None
    ) -> Any:
        """Store a value, for ``ttl`` seconds if given; returns it as stored.

        ``expect="absent"``: only if there is none, else it raises `Conflict`.
        """
        with _paths_from_the_value():
            result = await self._stream.set(group_id, key, {VALUE: value}, expect=expect, ttl=ttl)
        return result.new_value[VALUE]

    def check(self, group_id: str, key: str, value: Any) -> None:
        """Raise what `set` would raise for this before any I/O; nothing is written."""
        with _paths_from_the_value():
            self._stream.check(group_id, key, {VALUE: value})

    async def update(self, group_id: str, key: str, operations: Sequence[Mapping[str, Any]]) -> Any:
        """Apply update operations atomically (`motia_core.operations`); returns the new value."""
        result = await self._stream.update(group_id, key, parse(operations, below=(VALUE,)))
        return result.new_value.get(VALUE)

    async def delete(self, group_id: str, key: str) -> Any:
        """Remove a value; returns it, or ``None``."""
        result = await self._stream.delete(group_id, key)
        return None if result is None else result.old_value.get(VALUE)

    async def list(self, group_id: str, *, limit: int | None = None, after: str | None = None) -> Sequence[Any]:
        """The group's values, ordered by key."""
        return [item.get(VALUE) for item in await self._stream.list(group_id, limit=limit, after=after)]

    get_group = list

    async def list_groups(self) -> Sequence[str]:
        """The groups that hold values."""
        return await self._stream.list_groups()


@contextmanager
def _paths_from_the_value() -> Iterator[None]:
    """Errors say where in the value, not where in the item that holds it."""
    try:
        yield
    except InvalidValue as error:
        path = f"$.{VALUE}"
        if not error.path.startswith(path):
            raise
        message = str(error).removeprefix(f"{error.path}: ")
        raise InvalidValue(message, path=f"${error.path.removeprefix(path)}") from error.__cause__
