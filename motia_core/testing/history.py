"""The history checker: was anything lost, told twice, reordered, or stale at the end?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

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


def check_history(changes: Iterable[Any], final: Mapping[Key, Any], *, written: int | None = None) -> Verdict:
    """Judge what one observer saw, from an empty start.

    ``changes`` have type, group_id, id, data, position, timestamp. ``final`` maps
    ``(group, id)`` to the stored value at the end. ``written``: how many changes there
    must be.
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
            if key not in state:
                verdict.lost.append(f"a create before the {where}")
            state.pop(key, None)
    if written is not None and count < written:
        verdict.lost.append(f"{written - count} of {written} changes")
    for key in sorted({*state, *final}):
        if state.get(key) != final.get(key):
            verdict.stale.append(f"{key}: seen {state.get(key)!r}, stored {final.get(key)!r}")
    return verdict
