"""The history checker (was anything lost, told twice, reordered, or stale at the end?) and
what a coalesced log may leave out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from motia_core.adapter import Capabilities
from motia_core.streams import Stream

Key = tuple[str, str]


@dataclass(slots=True)
class Verdict:
    """What was wrong, per item; empty lists: nothing."""

    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    reordered: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        """True if nothing was wrong."""
        return not (self.lost or self.duplicated or self.reordered or self.stale)


def check_history(
    changes: Iterable[Any], final: Mapping[Key, Any], *, written: int | None = None, coalesced: bool = False
) -> Verdict:
    """Judge what one observer saw, from an empty start.

    ``changes`` have type, group_id, id, data, position, timestamp. ``final`` maps
    ``(group, id)`` to the stored value at the end. ``written``: how many changes there
    must be. ``coalesced``: an item that came and went may be told as a delete only.
    """
    verdict = Verdict()
    state: dict[Key, Any] = {}
    position, timestamp, seen = "", 0.0, set()
    count = 0
    for change in changes:
        where = f"{change.type} of {change.group_id}/{change.id} at {change.position}"
        count += 1
        if change.position in seen:
            verdict.duplicated.append(where)
            continue
        seen.add(change.position)
        if change.position <= position or change.timestamp <= timestamp:
            verdict.reordered.append(where)
        position, timestamp = change.position, change.timestamp
        key = (change.group_id, change.id)
        if change.type == "create":
            if key in state:
                verdict.lost.append(f"a delete before the {where}")
            state[key] = change.data
        elif change.type == "update":
            if key not in state:
                verdict.lost.append(f"a create before the {where}")
            state[key] = change.data
        elif change.type == "delete":
            if key not in state and not coalesced:
                verdict.lost.append(f"a create before the {where}")
            state.pop(key, None)
    if written is not None and count < written:
        verdict.lost.append(f"{written - count} of {written} changes")
    for key in sorted({*state, *final}):
        if state.get(key) != final.get(key):
            verdict.stale.append(f"{key}: seen {state.get(key)!r}, stored {final.get(key)!r}")
    return verdict


class Told(NamedTuple):
    """What a change says, without where and when: ``event`` is a custom event's type."""

    type: str
    group: str
    id: str | None
    data: Any
    event: str | None = None


def is_coalesced(stream: Stream[Any]) -> bool:
    """Whether the stream's backend tells states instead of steps (B9)."""
    return stream.capabilities.is_coalesced


def told(changes: Iterable[Any]) -> list[Told]:
    """What changes say, in their order."""
    return [Told(c.type, c.group_id, c.id, c.data, c.event_type) for c in changes]


def story(capabilities: Capabilities, entries: Iterable[Told]) -> list[Told]:
    """``entries`` as far as a backend of these capabilities has to tell them.

    All of them where history is full. Where it is coalesced: of each item the last,
    as a "create" if the item was not there before and is now. Two logs that may differ
    in what they leave out have one story.
    """
    if capabilities.history.level == "full":
        return list(entries)
    last: dict[Any, Told] = {}
    new: set[Any] = set()
    for number, entry in enumerate(entries):
        if entry.type == "event":
            last[number] = entry
            continue
        key = (entry.group, entry.id)
        if key not in last and entry.type == "create":
            new.add(key)
        last.pop(key, None)
        if entry.type != "delete":
            entry = entry._replace(type="create" if key in new else "update")
        last[key] = entry
    return list(last.values())
