"""Dead letters: read, tried again, dropped; and the gaps beside them (rule 25). Needs no running worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from motia_core.errors import Conflict, MotiaError
from motia_core.model import Change, Item
from motia_core.triggers.control import Control, put, remove
from motia_core.triggers.records import NameRecord, dead_group, decode_change, lost_group, retry_group


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A change that was given up."""

    id: str
    """As ``retry`` and ``drop`` take it."""
    change: Change
    attempts: int
    error: str | None
    """Of the last attempt."""
    requested: bool
    """It is going to be tried again."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Changes that were lost before a partition saw them: after ``start``, up to and with ``end``."""

    partition: int
    start: str
    end: str
    reason: str


class DeadLetters:
    """The dead letters and gaps of one trigger."""

    def __init__(self, control: Control, name: NameRecord) -> None:
        self._control = control
        self._uid = name.uid

    async def list(self) -> Sequence[DeadLetter]:
        """All of them."""
        requested = {item.id for item in await self._control.list(retry_group(self._uid))}
        return [_letter(item, item.id in requested) for item in await self._control.list(dead_group(self._uid))]

    async def get(self, id: str) -> DeadLetter:
        """One of them. Raises `MotiaError` if there is none of that id."""
        item = await self._control.get(dead_group(self._uid), id)
        if item is None:
            raise MotiaError(f"there is no dead letter {id!r}")
        return _letter(item, await self._control.get(retry_group(self._uid), id) is not None)

    async def retry(self, *ids: str) -> int:
        """Ask for these (none: all) to be tried again; whoever owns them does it. Returns how many."""
        wanted = list(ids) or [item.id for item in await self._control.list(dead_group(self._uid))]
        for id in wanted:
            await self.get(id)
        size = self._control.capabilities.max_batch_writes - 1
        for at in range(0, len(wanted), size):
            some = wanted[at : at + size]
            requests = [put(retry_group(self._uid), id, b"{}") for id in some]
            await self._control.write([*requests, self._control.notice()])
        return len(wanted)

    async def drop(self, *ids: str) -> int:
        """Forget these (none: all) for good. Returns how many."""
        group = dead_group(self._uid)
        items: list[Item | None]
        items = [await self._control.get(group, id) for id in ids] if ids else [*await self._control.list(group)]
        dropped = 0
        for id, item in zip(ids or [item.id for item in items if item], items, strict=True):
            if item is None:
                raise MotiaError(f"there is no dead letter {id!r}")
            try:
                await self._control.write([remove(group, id, item.version), remove(retry_group(self._uid), id)])
            except Conflict:
                continue  # it was taken up again in the meantime
            dropped += 1
        return dropped

    async def gaps(self) -> Sequence[Gap]:
        """What was lost."""
        return [_gap(item.value) for item in await self._control.list(lost_group(self._uid))]


def _letter(item: Item, requested: bool) -> DeadLetter:
    value = item.value
    return DeadLetter(item.id, decode_change(value["change"]), value["attempts"], value["error"], requested)


def _gap(value: dict[str, Any]) -> Gap:
    return Gap(value["partition"], value["from"], value["to"], value["reason"])
