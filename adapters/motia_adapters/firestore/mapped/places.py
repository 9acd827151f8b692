"""The history of a mapped stream: what tells it from another one, and how far back it can be followed."""

from __future__ import annotations

from typing import Any

from motia_adapters.firestore.connection import Connection, LostRace
from motia_adapters.firestore.history import new_mark
from motia_adapters.firestore.mapped.departures import REACH
from motia_adapters.firestore.mapped.layout import MappedLayout, Place
from motia_adapters.firestore.mapped.states import States
from motia_adapters.firestore.wire import micros, stored
from motia_core.adapter import Retention
from motia_core.errors import PositionExpired

GRACE = 600
"""Seconds by which a floor is told higher than what Firestore remembers, so that it can be started from."""


class Places:
    """Positions: those that can be gone on from, and those that cannot."""

    def __init__(
        self,
        connection: Connection,
        layout: MappedLayout,
        states: States,
        retention: Retention,
        name: str,
    ) -> None:
        self._connection = connection
        self._layout = layout
        self._states = states
        self._retention = retention
        self._name = name
        self._floor = ""
        self._floor_time = 0
        self._since = 0

    @property
    def floor(self) -> str:
        """The oldest position that a watch can start from."""
        self._move_floor()
        return self._floor

    async def now(self) -> Any:
        """The server's time, in the history that is there; one is begun if there is none. One billed read."""
        while True:
            (document,), at = await self._connection.get([self._layout.history])
            if document is not None:
                self._layout.identity = document.fields["mark"].string_value
                self._since = micros(document.update_time)
                return at
            try:
                await self._connection.commit([stored(self._layout.history, {"mark": new_mark()}, fresh=True)])
            except LostRace:  # another process gave it one
                continue

    async def check(self, position: str) -> Place:
        """What a position says. Raises `PositionExpired`. One billed read."""
        now = micros(await self.now())
        try:
            place = self._layout.place(position)
        except ValueError:
            raise self.expired(position, "is none of this database's history") from None
        if place.time > now:
            raise self.expired(position, "lies ahead of this database: was it restored?")
        if place.since < self._since and position < self._states.kept.since:
            # A copy that was put back has its history anew; Firestore does not remember what was before.
            raise self.expired(position, "is from before this database got its data")
        if not self._layout.is_ours(self._floor):
            self._move_floor()
        if position < self._floor or place.since < now - REACH * 1_000_000:
            raise self.expired(position, "is too long ago: Firestore remembers an hour, retention may be shorter")
        return place

    async def check_history(self, position: str) -> None:
        """Raise `PositionExpired` if the history is another one by now. One billed read."""
        await self.now()
        if not self._layout.is_ours(position):
            raise self.expired(position, "is none of this database's history any more")

    def expired(self, position: str, reason: str) -> PositionExpired:
        """The error of a position that a watch cannot start from."""
        return PositionExpired(
            f"firestore: position {position[:64]!r} of stream {self._name!r} {reason}",
            position=position,
            floor=self.floor,
        )

    def _move_floor(self) -> None:
        """The floor never goes back, except to another history.

        What time takes it moves by a tenth of it at once: a floor that moved all the time could never be started from.
        """
        now = self._connection.now()
        age = round(min(REACH - GRACE, self._retention.age or REACH) * 1_000_000)
        is_new = not self._layout.is_ours(self._floor)
        if is_new or now - age - self._floor_time >= age // 10:
            self._floor_time = max(now - age, self._since)
        floor = self._layout.position(self._floor_time)
        if self._retention.count is not None:
            floor = max(floor, self._states.kept.nth_last(self._retention.count) or "")
        if is_new or floor > self._floor:
            self._floor = floor
