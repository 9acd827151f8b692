"""Stores what the partitions of one process have done: one batch at a time, for all that are dirty."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from motia_core.errors import BackendUnavailable, Conflict, MotiaError, OutcomeUnknown
from motia_core.model import Write, WriteResult
from motia_core.triggers.checkpoint import Snapshot, acknowledge, take
from motia_core.triggers.clock import Clock
from motia_core.triggers.control import Control
from motia_core.triggers.definition import Report
from motia_core.triggers.partition import Partition
from motia_core.triggers.records import PartitionRecord, part_group, part_id

INTERVAL = 1.0
"""Seconds between flushes, unless something is urgent."""

PROGRESS_INTERVAL = 60.0
"""Seconds between flushes of a partition that has nothing but progress to store (rule 19)."""


class Flusher:
    """One per process."""

    def __init__(
        self,
        control: Control,
        clock: Clock,
        partitions: Callable[[], Iterable[Partition]],
        *,
        released: Callable[[Partition], None],
        fenced: Callable[[Partition], None],
        report: Callable[[Report], None],
        before: Callable[[], Awaitable[None]],
    ) -> None:
        """``before``: awaited before each flush; it must not raise."""
        self._before = before
        self._control = control
        self._clock = clock
        self._partitions = partitions
        self._released = released
        self._fenced = fenced
        self._report = report
        self._wake = asyncio.Event()
        self._flushing = asyncio.Lock()
        self._failing = False

    def hurry(self) -> None:
        """Flush now, or as soon as the flush that runs is over."""
        self._wake.set()

    async def tick(self) -> None:
        """For ever: ask for a flush once a second."""
        while True:
            await self._clock.sleep(INTERVAL)
            self._wake.set()

    async def run(self) -> None:
        """For ever: flush when asked to."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not await self.flush():
                await self._clock.sleep(INTERVAL / 2)

    async def flush(self, *, progress: bool = False) -> bool:
        """Store all that is dirty; with ``progress`` also where cursors have only moved.

        ``False``: the store cannot be reached; what was not stored stays dirty.
        """
        async with self._flushing:
            try:
                await self._flush(progress)
            except MotiaError as error:
                if not self._failing:
                    self._report(Report("trouble", f"progress cannot be stored: {error}"))
                self._failing = True
                return False
            self._failing = False
            return True

    async def _flush(self, progress: bool) -> None:
        await self._before()
        now = self._clock.monotonic()
        due: list[Partition] = []
        for partition in list(self._partitions()):
            if partition.gone:
                continue
            partition.room.finished = 0
            if partition.unsettled and not await self._settle(partition):
                continue
            if partition.dirty or (
                partition.loaded
                and partition.read != partition.cursor
                and (progress or now - partition.saved_at >= PROGRESS_INTERVAL)
            ):
                due.append(partition)
        failure: MotiaError | None = None
        while due:
            try:
                await self._write(self._pack(due))
            except MotiaError as error:
                failure = error
                if isinstance(error, BackendUnavailable):
                    break
        if failure is not None:
            raise failure

    def _pack(self, due: list[Partition]) -> list[Snapshot]:
        """As many partitions as one batch takes; they leave ``due``."""
        capabilities = self._control.capabilities
        packed: list[Snapshot] = []
        writes, size = 1, 0
        while due:
            partition = due[-1]
            if partition.gone:
                due.pop()
                continue
            snapshot = take(
                partition,
                nonce=self._control.token(),
                max_writes=capabilities.max_batch_writes,
                max_bytes=capabilities.max_batch_bytes,
                max_value=capabilities.max_value_bytes,
            )
            writes += len(snapshot.writes)
            size += snapshot.size
            if packed and (
                partition.alone or writes > capabilities.max_batch_writes or size > capabilities.max_batch_bytes
            ):
                break
            due.pop()
            packed.append(snapshot)
            if partition.alone:
                break
        return packed

    async def _write(self, snapshots: list[Snapshot]) -> None:
        """One atomic batch; after a conflict each partition's alone (rule 15)."""
        if not snapshots:
            return
        for snapshot in snapshots:
            snapshot.partition.attempts[snapshot.record.nonce] = snapshot
            snapshot.partition.unsettled = True
        try:
            results = await self._store(snapshots)
        except Conflict:
            for snapshot in snapshots:
                snapshot.partition.unsettled = False
            if len(snapshots) == 1:
                await self._settle(snapshots[0].partition)
            else:
                for snapshot in snapshots:
                    if not snapshot.partition.gone:
                        await self._write([snapshot])
            return
        except OutcomeUnknown:
            for snapshot in snapshots:
                await self._settle(snapshot.partition)
            return
        except BackendUnavailable:
            for snapshot in snapshots:
                snapshot.partition.unsettled = False
                snapshot.partition.attempts.pop(snapshot.record.nonce, None)
            raise
        except MotiaError:
            for snapshot in snapshots:
                snapshot.partition.alone = True
            raise
        at = 0
        for snapshot in snapshots:
            result = results[at]
            assert result is not None
            self._acknowledge(snapshot, result.version)
            at += len(snapshot.writes)

    async def _store(self, snapshots: list[Snapshot]) -> list[WriteResult | None]:
        writes: list[Write] = [write for snapshot in snapshots for write in snapshot.writes]
        if any(snapshot.release for snapshot in snapshots):
            writes.append(self._control.notice())
        return list(await self._control.write(writes))

    def _acknowledge(self, snapshot: Snapshot, version: str) -> None:
        partition = snapshot.partition
        if partition.gone:
            return
        acknowledge(snapshot, version)
        partition.saved_at = self._clock.monotonic()
        if snapshot.release:
            self._released(partition)
        else:
            partition.room.saved()

    async def _settle(self, partition: Partition) -> bool:
        """What became of the last flush (rule 18). ``False``: the partition is lost."""
        partition.unsettled = True
        item = await self._control.get(part_group(partition.uid), part_id(partition.number))
        if partition.gone:
            return False
        record = PartitionRecord.decode(item) if item is not None else None
        if item is not None and record is not None:
            landed = partition.attempts.get(record.nonce)
            if landed is not None:
                self._acknowledge(landed, item.version)
                return not partition.gone
            if record.owner == partition.owner and record.epoch == partition.epoch:
                partition.version = item.version
                partition.unsettled = False
                return True
        self._fenced(partition)
        return False
