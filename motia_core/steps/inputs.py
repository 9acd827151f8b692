"""Handler inputs, which read both ways: ``input["groupId"]`` and ``input.group_id``."""

from __future__ import annotations

from typing import Any

from motia_core.model import Change
from motia_core.states import VALUE


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


def stream_input(change: Change) -> Input:
    """What a stream trigger's handler gets: type, timestamp (ms), streamName, groupId, id, event."""
    return Input(
        type="stream",
        timestamp=int(change.timestamp),
        streamName=change.stream,
        groupId=change.group_id,
        id=change.id,
        event=_event(change, change.data),
    )


def state_input(change: Change) -> Input:
    """What a state trigger's handler gets: type, timestamp (ms), groupId, key, value, event.

    Of a delete, ``value`` is the one that was there.
    """
    value = None if change.json is None else change.data.get(VALUE)
    return Input(
        type="state",
        timestamp=int(change.timestamp),
        groupId=change.group_id,
        key=change.id,
        value=value,
        event=_event(change, value),
    )


def cron_input(expression: str, tick: float, missed: int) -> Input:
    """What a cron trigger's handler gets: type, expression, timestamp, missed.

    ``timestamp``: the tick's own time in ms, however late it runs. ``missed``: how many
    ticks before it ran for nobody.
    """
    return Input(type="cron", expression=expression, timestamp=int(tick), missed=missed)


def queue_input(data: Any) -> Any:
    """What a queue trigger's handler gets: the message's data, with attributes if it is an object."""
    return Input(data) if isinstance(data, dict) else data


def _event(change: Change, data: Any) -> Input:
    event = Input(type=change.type, data=data)
    if change.event_type is not None:
        event["eventType"] = change.event_type
    return event
