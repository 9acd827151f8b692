"""Bugs that somebody once had, planted again: the simulation must catch each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

from motia_core.triggers import checkpoint, flush
from motia_core.triggers.checkpoint import Snapshot
from motia_core.triggers.entries import Entry, State
from motia_core.triggers.feed import Feed, Reader
from motia_core.triggers.flush import Flusher
from motia_core.triggers.leases import Lease, View, view
from motia_core.triggers.ownership import Found, Ownership
from motia_core.triggers.partition import Partition
from motia_core.triggers.records import WORKERS

Plant = Callable[[], Any]

take = checkpoint.take


@contextmanager
def checkpoint_without_expect() -> Iterator[None]:
    """Whoever comes last moves the checkpoint."""

    def blind(partition: Partition, **arguments: Any) -> Snapshot:
        snapshot = take(partition, **arguments)
        snapshot.writes[0] = replace(snapshot.writes[0], expect=None)
        return snapshot

    with mock.patch.object(flush, "take", blind):
        yield


@contextmanager
def highest_completed_position_as_cursor() -> Iterator[None]:
    """A slow change is forgotten as soon as a later one is done."""

    def highest(partition: Partition, passing: set[Entry]) -> tuple[str, list[Entry]]:
        done = [entry.position for entry in partition.order if entry.state == State.DONE]
        cursor, held_back = reach(partition, passing)
        return max([cursor, *done]), held_back

    reach = checkpoint.reach
    with mock.patch.object(checkpoint, "reach", highest):
        yield


@contextmanager
def successor_before_the_dead_letter() -> Iterator[None]:
    """The next of its key starts while the dead letter is only on its way."""
    bury = Partition.bury

    def eager(self: Partition, entry: Entry) -> None:
        bury(self, entry)
        following = entry.next
        if following is not None and following.state == State.QUEUED and not following.stored:
            self.offer(following)

    with mock.patch.object(Partition, "bury", eager):
        yield


@contextmanager
def attached_too_early() -> Iterator[None]:
    """A partition joins the live watch before it has read up to it."""

    def attach(self: Feed, reader: Reader) -> bool:
        live = self.live
        if live is None or live.position is None:
            return False
        for partition, crew in list(reader.members.items()):
            live.add(partition, crew)
        reader.clear()
        self._end(reader)
        return True

    with mock.patch.object(Feed, "attach", attach):
        yield


@contextmanager
def flush_in_two_writes() -> Iterator[None]:
    """The record first, what it refers to after."""

    async def store(self: Flusher, snapshots: list[Snapshot]) -> list[Any]:
        results = await self._control.write([snapshot.writes[0] for snapshot in snapshots])
        rest = [write for snapshot in snapshots for write in snapshot.writes[1:]]
        if rest:
            await self._control.write(rest)
        spread: list[Any] = []
        for snapshot, result in zip(snapshots, results, strict=True):
            spread += [result, *snapshot.writes[1:]]
        return spread

    with mock.patch.object(Flusher, "_store", store):
        yield


@contextmanager
def no_self_fencing() -> Iterator[None]:
    """A worker believes in itself, whatever time has passed."""
    with mock.patch.object(Lease, "fresh", return_value=True):
        yield


@contextmanager
def reused_owner_id() -> Iterator[None]:
    """A new life under the name of the old one, as a host name would be: the record is taken over."""

    async def register(self: Lease) -> None:
        self.id = self.id or "w-the-only"
        self._version = None
        sent = self._clock.monotonic()
        (result,) = await self._control.write([replace(self.beat(), expect=None)])
        self.acknowledged(result.version, sent)  # type: ignore[union-attr]

    with mock.patch.object(Lease, "register", register):
        yield


@contextmanager
def counter_instead_of_nonce() -> Iterator[None]:
    """The number of the checkpoint: two attempts at the same one look alike."""

    def counted(partition: Partition, *, nonce: str, **arguments: Any) -> Snapshot:
        last = partition.nonce if partition.nonce.isdigit() else "0"
        return take(partition, nonce=str(int(last) + 1), **arguments)

    with mock.patch.object(flush, "take", counted):
        yield


@contextmanager
def workers_before_partitions() -> Iterator[None]:
    """A worker that came in between looks dead."""

    async def look(self: Ownership) -> tuple[list[Found], View]:
        workers = view(await self._control.list(WORKERS))
        return await self.partitions(), workers

    with mock.patch.object(Ownership, "look", look):
        yield


PLANTS: dict[str, Plant] = {
    plant.__name__: plant
    for plant in (
        checkpoint_without_expect,
        highest_completed_position_as_cursor,
        successor_before_the_dead_letter,
        attached_too_early,
        flush_in_two_writes,
        no_self_fencing,
        reused_owner_id,
        counter_instead_of_nonce,
        workers_before_partitions,
    )
}
