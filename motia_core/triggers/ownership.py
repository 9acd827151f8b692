"""Who runs which partition: quota, claims, and what is given back (rules 4-8)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from motia_core.errors import BackendError, Conflict
from motia_core.triggers.clock import Clock
from motia_core.triggers.control import Control, put
from motia_core.triggers.crew import Crew
from motia_core.triggers.leases import Lease, Others, View, view
from motia_core.triggers.records import WORKERS, PartitionRecord, part_group, part_id, rank

RELIST = 30.0
"""Seconds after which partitions are listed even though nothing seems to have changed."""

CLAIMS = 16
"""Partitions claimed in one batch, at most."""


@dataclass(frozen=True, slots=True)
class Found:
    """A partition record as a list showed it."""

    crew: Crew
    number: int
    version: str
    record: PartitionRecord


class Ownership:
    """One per process; its rounds follow each other in one task."""

    def __init__(
        self,
        control: Control,
        clock: Clock,
        lease: Lease,
        crews: Mapping[str, Crew],
        *,
        claimed: Callable[[Crew, int, PartitionRecord, str], None],
        fenced: Callable[[Crew, int], None],
        refresh: Callable[[], Awaitable[None]],
    ) -> None:
        self._control = control
        self._clock = clock
        self._lease = lease
        self._crews = crews
        """By uid."""
        self._claimed = claimed
        self._fenced = fenced
        self._refresh = refresh
        self._others = Others(control, clock, lease)
        self._seen: tuple[dict[str, tuple[str, ...]], str] | None = None
        self._listed_at = float("-inf")
        self._stable = 0
        self.view = View({}, "")
        self.relist = True

    def reset(self) -> None:
        """A new life begins, or the store was away."""
        self._others.reset()
        self._seen = None
        self.relist = True

    async def round(self) -> None:
        """Look at the workers, and at the partitions when something has changed; claim and give back."""
        seen = await self._others.read()
        changed = self._seen is None or self._seen[0] != seen.workers
        noticed = self._seen is None or self._seen[1] != seen.notice
        self._stable = 0 if changed else self._stable + 1
        self._seen = (seen.workers, seen.notice)
        self.view = seen
        now = self._clock.monotonic()
        if not (changed or noticed or self.relist or now - self._listed_at >= RELIST or self._stable == 2):
            return
        self.relist = False
        self._listed_at = now
        try:
            found, alive = await self.look()
            await self._balance(found, alive)
        except BaseException:
            self.relist = True
            raise

    async def look(self) -> tuple[list[Found], View]:
        """Partition records first, workers after: an owner that is missing there is dead (rule 4)."""
        found = await self.partitions()
        return found, view(await self._control.list(WORKERS))

    async def partitions(self) -> list[Found]:
        """All partition records of the triggers that this process declares."""
        await self._refresh()
        return [part for crew in list(self._crews.values()) for part in await self.partitions_of(crew)]

    async def partitions_of(self, crew: Crew) -> list[Found]:
        """The partition records of one trigger."""
        items = await self._control.list(part_group(crew.uid))
        return [Found(crew, int(item.id), item.version, PartitionRecord.decode(item)) for item in items]

    async def _balance(self, found: list[Found], alive: View) -> None:
        me = self._lease.id
        wanted: list[Found] = []
        surplus: list[Found] = []
        for crew in self._crews.values():
            mine = [part for part in found if part.crew is crew]
            for part in mine:
                running = crew.parts.get(part.number)
                if (
                    running is not None
                    and not running.draining
                    and (part.record.owner != me or part.record.epoch > running.epoch)
                ):
                    self._fenced(crew, part.number)
            if crew.retired:
                for partition in crew.parts.values():
                    if not partition.draining:
                        partition.drain()
                continue
            if crew.target is not None:  # its number of partitions is being changed: all must be free
                for partition in crew.parts.values():
                    if not partition.draining:
                        partition.drain()
                surplus += [
                    part
                    for part in mine
                    if part.record.owner and part.number not in crew.parts and self._is_free(part, alive)
                ]
                continue
            quota = self.quota(crew, alive)
            held = [part for part in crew.parts.values() if not part.draining]
            free = [part for part in mine if part.number not in crew.parts and self._is_free(part, alive)]
            free.sort(key=lambda part: self.preference(crew, part.number))
            room = max(0, quota - len(held))
            wanted += free[:room]
            surplus += [part for part in free[room:] if part.record.owner == me]
            if len(held) > quota and self._stable >= 2:
                held.sort(key=lambda part: self.preference(crew, part.number))
                for partition in held[quota:]:
                    partition.drain()
        await self._claim(wanted)
        for part in surplus:
            await self._give_back(part)

    def _is_free(self, part: Found, alive: View) -> bool:
        owner = part.record.owner
        return owner is None or owner == self._lease.id or owner not in alive.workers

    def quota(self, crew: Crew, alive: View) -> int:
        """Partitions of a trigger that this worker should run (rule 5)."""
        workers = sorted(
            (id for id, uids in alive.workers.items() if crew.uid in uids), key=lambda id: rank(crew.uid, id)
        )
        if self._lease.id not in workers:
            return 0
        each, more = divmod(crew.count, len(workers))
        return each + (workers.index(self._lease.id) < more)

    def preference(self, crew: Crew, number: int) -> bytes:
        """The order in which this worker takes partitions, and the reverse of that in which it leaves them."""
        return rank(self._lease.id, crew.uid, str(number))

    async def _claim(self, wanted: list[Found]) -> None:
        size = min(CLAIMS, self._control.capabilities.max_batch_writes - 1)
        for at in range(0, len(wanted), size):
            some = wanted[at : at + size]
            if not await self._claim_together(some) and len(some) > 1:
                for part in some:
                    await self._claim_together([part])

    async def _claim_together(self, parts: list[Found]) -> bool:
        """One batch with our own beat: whoever was declared dead claims nothing (rule 6)."""
        if not self._lease.fresh():
            self.relist = True
            return True
        me = self._lease.id
        records = [
            replace(
                part.record,
                owner=me,
                epoch=part.record.epoch + 1,
                nonce=self._control.token(),
                crashes=part.record.crashes + (part.record.owner not in (None, me)),
            )
            for part in parts
        ]
        sent = self._clock.monotonic()
        writes = [self._lease.beat()]
        writes += [
            put(part_group(part.crew.uid), part_id(part.number), record.encode(), part.version)
            for part, record in zip(parts, records, strict=True)
        ]
        try:
            results = await self._control.write(writes)
        except Conflict:
            self.relist = True
            return not await self._lease.look()
        except BackendError:
            self.relist = True
            raise
        for result in results:
            assert result is not None
        assert results[0] is not None
        self._lease.acknowledged(results[0].version, sent)
        for part, record, result in zip(parts, records, results[1:], strict=True):
            assert result is not None
            self._claimed(part.crew, part.number, record, result.version)
        return True

    async def _give_back(self, part: Found) -> None:
        """A claim that landed late (rule 7), or a dead owner's that nobody is to claim now (rule 24)."""
        crashes = part.record.crashes + (part.record.owner != self._lease.id)
        record = replace(part.record, owner=None, nonce=self._control.token(), crashes=crashes)
        write = put(part_group(part.crew.uid), part_id(part.number), record.encode(), part.version)
        try:
            await self._control.write([write, self._control.notice()])
        except Conflict:
            self.relist = True
