"""Who is alive: this worker's own beats, and its watch over the others' (rules 1-3)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from motia_core.errors import BackendError, Conflict, MotiaError, OutcomeUnknown
from motia_core.model import ABSENT, Item, Write
from motia_core.triggers.clock import Clock
from motia_core.triggers.control import Control, put, remove
from motia_core.triggers.records import NOTICE, WORKERS, WorkerRecord

FRESH = 0.54
"""Of the lease: how long an acknowledged beat counts, from when it was sent."""

EXPIRED = 0.9
"""Of the lease: how long another's record must have stood still."""

BEATS = 5
"""Beats in a lease."""

LATE = 2.5
"""Beats between two rounds, above which nothing can be said about the others."""


@dataclass(frozen=True, slots=True)
class View:
    """The workers as one read showed them."""

    workers: dict[str, tuple[str, ...]]
    """The uids that each declares."""
    notice: str


class Lease:
    """This process's worker record: a new id for each life, dead for ever when it is gone."""

    def __init__(self, control: Control, clock: Clock, seconds: float, uids: Callable[[], tuple[str, ...]]) -> None:
        self.seconds = seconds
        self.id = ""
        self._control = control
        self._clock = clock
        self._uids = uids
        self._version: str | None = None
        self._beat = 0
        self._fresh_until = float("-inf")

    @property
    def interval(self) -> float:
        """Seconds between beats."""
        return self.seconds / BEATS

    def fresh(self) -> bool:
        """Whether this worker may start and claim: nobody can have declared it dead yet."""
        return self._clock.monotonic() < self._fresh_until

    async def register(self) -> None:
        """Begin a life under an id that was never used. Raises what the store raises.

        A registration whose fate is not known may land after its death: never again that id.
        """
        while True:
            self.id = self.new_id()
            self._version, self._beat, self._fresh_until = None, 0, float("-inf")
            sent = self._clock.monotonic()
            try:
                (result,) = await self._control.write([put(WORKERS, self.id, self._record(), ABSENT)])
            except (Conflict, OutcomeUnknown):
                continue
            assert result is not None
            self.acknowledged(result.version, sent)
            return

    def new_id(self) -> str:
        """Random: no other life has it."""
        return f"w{self._control.token()}"

    def beat(self) -> Write:
        """The next beat, for a batch. Whoever writes it calls `acknowledged` when the store has it."""
        self._beat += 1
        return put(WORKERS, self.id, self._record(), self._version)

    def acknowledged(self, version: str, sent: float) -> None:
        """The store has the beat that was sent at ``sent``, on our own clock."""
        self._version = version
        self._fresh_until = sent + FRESH * self.seconds

    def dead(self) -> None:
        """Never fresh again under this id."""
        self._fresh_until = float("-inf")
        self._version = None

    async def renew(self) -> bool:
        """Beat. ``False``: the record is gone, this life is over. Raises `BackendError` if that is not known."""
        if self._version is None:
            return False
        sent = self._clock.monotonic()
        try:
            (result,) = await self._control.write([self.beat()])
        except Conflict:
            return await self.look()
        assert result is not None
        self.acknowledged(result.version, sent)
        return True

    async def look(self) -> bool:
        """After a conflict: a beat of ours that landed late, or our death."""
        item = await self._control.get(WORKERS, self.id)
        if item is None:
            self.dead()
            return False
        self._version = item.version
        return True

    async def leave(self) -> None:
        """End this life in good order, and tell the others."""
        if self._version is None:
            return
        with contextlib.suppress(MotiaError):  # else the others will see it expire
            await self._control.write([remove(WORKERS, self.id, self._version), self._control.notice()])
        self.dead()

    def _record(self) -> bytes:
        return WorkerRecord(self._beat, self._uids()).encode()


class Others:
    """Times how long each other worker's version stands still, on our own clock (rule 2)."""

    def __init__(self, control: Control, clock: Clock, lease: Lease) -> None:
        self._control = control
        self._clock = clock
        self._lease = lease
        self._since: dict[str, tuple[str, float]] = {}
        self._last: float | None = None

    def reset(self) -> None:
        """Nothing is known any more: the store, or we, were away."""
        self._since.clear()
        self._last = None

    async def read(self) -> View:
        """The workers now; those that stood still for too long are deleted first, with their version."""
        start = self._clock.monotonic()
        if self._last is not None and start - self._last > LATE * self._lease.interval:
            self.reset()
        self._last = start
        try:
            items = await self._control.list(WORKERS)
        except BaseException:
            self.reset()
            raise
        end = self._clock.monotonic()
        known, self._since = self._since, {}
        buried = []
        for item in items:
            if item.id in (NOTICE, self._lease.id):
                continue
            version, since = known.get(item.id, ("", end))
            if version != item.version:
                since = end
            self._since[item.id] = (item.version, since)
            if start - since >= EXPIRED * self._lease.seconds and await self._bury(item):
                buried.append(item.id)
        return view([item for item in items if item.id not in buried])

    async def _bury(self, item: Item) -> bool:
        if not self._lease.fresh():
            return False
        try:
            await self._control.write([remove(WORKERS, item.id, item.version)])
        except (Conflict, BackendError):
            return False
        self._since.pop(item.id, None)
        return True


def view(items: list[Item]) -> View:
    """What a list of the workers says."""
    workers = {item.id: WorkerRecord.decode(item).uids for item in items if item.id != NOTICE}
    return View(workers, next((item.version for item in items if item.id == NOTICE), ""))
