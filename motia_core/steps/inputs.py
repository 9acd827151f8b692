"""Handler inputs, which read both ways: ``input["groupId"]`` and ``input.group_id``."""

from __future__ import annotations

from typing import Any


class Input(dict[str, Any]):
    """A dict with camelCase keys that can be read as snake_case attributes too.

    The user's own data inside stays as it is: plain dicts and lists.
    """

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        head, *rest = name.split("_")
        key = head + "".join(part.capitalize() for part in rest)
        try:
            return self[key]
        except KeyError:
            raise AttributeError(f"the input has no {name!r}; it has {', '.join(self)}") from None
