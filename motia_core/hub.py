"""One upstream watch per stream, many local subscribers (SEMANTICS C).

The hub keeps the last changes in a *ring*. A join takes a snapshot and goes on from the
ring; a resume goes on from the ring at once, or has the ring reach further back first.
So joins buffer nothing of their own, and a thousand clients that come back together
cost the backend one read.

Positions decide everything: a member gets a change only if the change's position is
greater than the member's own. A member that is not live has the greatest position.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from contextlib import aclosing
from functools import partial
from itertools import chain, groupby
from typing import Any

from motia_core.adapter import Adapter
from motia_core.errors import BackendError, BackendUnavailable, GroupTooLarge, MotiaError, PositionExpired
from motia_core.members import NOT_LIVE, Member, Run, Sink
from motia_core.model import Batch, Change, Snapshot, StreamSpec
from motia_core.ring import RING_BYTES, RING_CHANGES, Ring
from motia_core.snapshots import SNAPSHOT_REUSE, SharedSnapshot
from motia_core.stories import Story

log = logging.getLogger("motia.hub")


OUTAGE_NOTICE = 1.0
"""Seconds of outage after which members are told, once an outage."""
SLOWEST = 2.0
"""Seconds between two attempts to read on, at most: everybody is up to date soon after the store is back."""


class Hub:
    """Distributes one stream's changes to this process's subscribers."""

    def __init__(
        self,
        adapter: Adapter,
        spec: StreamSpec,
        *,
        max_sync_items: int = 10_000,
        max_sync_bytes: int = 16_000_000,
        observe: Callable[[Change], None] | None = None,
    ) -> None:
        self._adapter = adapter
        self._story = Story(adapter) if adapter.capabilities(spec).is_coalesced else None
        self._source = self._story or adapter
        self._spec = spec
        self._max_sync_items = max_sync_items
        self._max_sync_bytes = max_sync_bytes
        self._observe = observe
        self._members: dict[tuple[str, str | None], dict[Member, None]] = {}
        self._ring = Ring()
        self._seen = ""
        self._written = ""
        self._generation = 0
        self._closed = False
        self._task: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._snapshots: dict[tuple[str, str | None], SharedSnapshot] = {}
        self._reaching = asyncio.Lock()
        self._wanted_floors: list[str] = []
        self._too_far = ""
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def adapter(self) -> Adapter:
        """The storage it watches."""
        return self._adapter

    @property
    def position(self) -> str:
        """How far the upstream watch has read."""
        return self._seen

    @property
    def members(self) -> int:
        """How many subscriptions there are."""
        return sum(map(len, self._members.values()))

    async def start(self) -> None:
        """Begin to watch, unless it has begun. Raises if the backend cannot say where its head is."""
        if self._task is not None:
            return
        async with self._starting:
            if self._task is None:
                self._seen = await self._source.head(self._spec)
                self._ring.restart(self._seen)
                self._task = asyncio.create_task(self._run(), name=f"motia-hub-{self._spec.name}")

    @property
    def is_closed(self) -> bool:
        """Whether nothing more will come."""
        return self._closed

    async def close(self) -> None:
        """End the watch. Members are told, and stay silent from now on."""
        self._closed = True
        tasks = [*self._tasks, *([self._task] if self._task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._story:
            await self._story.close()
        self._task = None
        self._tell_all(self._closed_error())
        self._members.clear()
        self._snapshots.clear()

    def _closed_error(self) -> BackendUnavailable:
        return BackendUnavailable(f"stream {self._spec.name!r} is closed")

    def _check_open(self) -> None:
        if self._closed:
            raise self._closed_error()

    def written(self, position: str) -> None:
        """Note a finished local write: syncs of later joins contain it."""
        if position > self._written:
            self._written = position

    async def join(self, sink: Sink, group: str, id: str | None = None, after: str | None = None) -> Member:
        """Subscribe: a sync and then each later change, or each change after ``after`` (C1, C2).

        When this returns, all of that up to `position` has gone to the sink. Raises
        `GroupTooLarge`, or the adapter's error; the sink is then not subscribed.
        """
        await self.start()
        self._check_open()
        member = Member(sink, group, id)
        self._members.setdefault((group, id), {})[member] = None
        try:
            if after is None or not await self._resume(member, after):
                await self._sync(member, None if after is None else "expired")
            self._check_open()  # what a member is told while it waits here, it would never hear
        except BaseException as error:
            self.leave(member)
            if self._closed and isinstance(error, asyncio.CancelledError) and not _is_cancelled():
                raise self._closed_error() from None  # what was waited for is cancelled, nobody who waits
            raise
        return member

    def leave(self, member: Member) -> None:
        """Unsubscribe; idempotent."""
        member.position = NOT_LIVE
        key = (member.group, member.id)
        members = self._members.get(key)
        if members is not None:
            members.pop(member, None)
            if not members:
                del self._members[key]
                self._snapshots.pop(key, None)

    def is_joined(self, member: Member) -> bool:
        """Whether the member has not left."""
        return member in self._members.get((member.group, member.id), ())

    def pause(self, member: Member) -> None:
        """Push nothing to it until its next `resync`."""
        member.position = NOT_LIVE

    def resync(self, member: Member, reason: str) -> asyncio.Task[None]:
        """Have a fresh sync sent, however long it takes, and go on from there (C5)."""
        self.pause(member)
        task = asyncio.create_task(self._resync(member, reason))
        self._end_with_hub(task)
        return task

    def _end_with_hub(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- upstream --------------------------------------------------------------------

    async def _run(self) -> None:
        """Watch for ever: heal what can be healed, tell the members what cannot (C6)."""
        loop = asyncio.get_running_loop()
        failures, down_since, told = 0, 0.0, False
        while not self._closed:  # an adapter may answer a cancellation with an error of its own
            try:
                async with aclosing(self._source.watch(self._spec, self._seen)) as batches:
                    async for batch in batches:
                        failures, told = 0, False
                        self._dispatch(batch)
                error: Exception = BackendError("the watch ended by itself")
            except PositionExpired as expired:
                try:
                    await self._start_over(expired)
                    continue
                except Exception as again:
                    error = again
            except Exception as caught:
                error = caught
            except asyncio.CancelledError:
                if self._closed or _is_cancelled():
                    raise
                error = BackendError("the adapter cancelled its own watch")
            if failures == 0:
                down_since = loop.time()
                log.warning("stream %s: the watch failed and is restarted: %s", self._spec.name, error)
            failures += 1
            if not told and loop.time() - down_since >= OUTAGE_NOTICE:
                told = True
                self._tell_all(error if isinstance(error, MotiaError) else BackendError(str(error)))
            await asyncio.sleep(random.uniform(0, min(SLOWEST, 0.05 * 2 ** min(failures, 8))))

    def _dispatch(self, batch: Batch) -> None:
        ring = self._ring
        if batch.leaps:  # it may not tell of the end of what a snapshot from within it shows (B9)
            for member in self._everybody():
                if self._seen < member.position < batch.position:
                    self.resync(member, "reset")
        for change in batch.changes:
            if ring.append(change):
                for member in self._everybody():
                    if member.sink.trim(member, ring.floor):
                        member.position = NOT_LIVE
            if self._observe:
                self._observe(change)
        for group, changes in groupby(batch.changes, _group):
            self._push(group, list(changes))
        self._seen = batch.position
        if batch.leaps:
            ring.restart(batch.position)

    def _push(self, group: str, changes: list[Change]) -> None:
        """To the group's subscribers all of it, to each item's what is about the item (C3)."""
        members = self._members
        whole = members.get((group, None))
        if len(members) == (1 if whole else 0):
            if whole:
                _deliver(whole, Run(changes))
            return
        first, last = changes[0].position, changes[-1].position
        if whole and any(first <= member.position < last for member in whole):
            # One that gets only the rest of the run would be ahead of its sink's other members.
            for change in changes:
                self._push_mixed(group, whole, [change])
        else:
            self._push_mixed(group, whole, changes)

    def _push_mixed(self, group: str, whole: Iterable[Member] | None, changes: list[Change]) -> None:
        """To group and items, such that a sink with several of them gets rising positions."""
        if whole:
            _deliver(whole, Run(changes))
        for id, about in groupby(changes, _id):
            single = self._members.get((group, id)) if id is not None else None
            if single:
                _deliver(single, Run(list(about)))

    async def _start_over(self, expired: PositionExpired) -> None:
        """The history we were reading is gone: a new start, and a sync for everybody (B8)."""
        log.warning("stream %s: %s; subscribers get a fresh sync", self._spec.name, expired)
        if self._story:
            self._story.renew()
        self._seen = await self._source.head(self._spec)
        self._ring.restart(self._seen)
        self._generation += 1
        self._written = self._too_far = ""
        self._snapshots.clear()
        for member in self._everybody():
            self.resync(member, "reset")

    async def _resync(self, member: Member, reason: str) -> None:
        delay = 0.1
        while self.is_joined(member) and not member.live:
            try:
                await self._sync(member, reason)
            except GroupTooLarge as error:
                self.leave(member)
                member.sink.failed(member, error)
            except Exception as error:
                log.warning("stream %s: a sync failed and is tried again: %s", self._spec.name, error)
                await asyncio.sleep(random.uniform(0, delay))
                delay = min(SLOWEST, delay * 2)

    def _tell_all(self, error: MotiaError) -> None:
        for member in self._everybody():
            member.sink.failed(member, error)

    def _everybody(self) -> list[Member]:
        return [member for members in self._members.values() for member in members]

    # -- bringing one member up to date ------------------------------------------------

    async def _sync(self, member: Member, reason: str | None) -> None:
        key = (member.group, member.id)
        while True:
            self._check_open()
            generation = self._generation
            shared = self._snapshots.get(key)
            if shared is None or not shared.usable(self._ring.floor, self._written):
                shared = self._snapshots[key] = SharedSnapshot(self._snapshot(*key), self._written)
                self._end_with_hub(shared.task)
                shared.task.add_done_callback(partial(self._let_go_soon, key, shared))
            snapshot = await shared.get()
            # One older than the ring, or of a lost history, cannot be continued from the ring.
            if generation == self._generation and snapshot.position >= self._ring.floor:
                break
            self._snapshots.pop(key, None)
            await asyncio.sleep(0.001)
        if self.is_joined(member):
            snapshot = shared.brought_forward(self._ring, self._seen, *key)
            self._ring.mark(snapshot.position)
            member.position = snapshot.position
            member.sink.sync(member, snapshot, reason)

    def _let_go_soon(self, key: tuple[str, str | None], shared: SharedSnapshot, _: asyncio.Task[Snapshot]) -> None:
        """Once nobody may have it any more a snapshot is only memory."""
        asyncio.get_running_loop().call_later(SNAPSHOT_REUSE, self._let_go, key, shared)

    def _let_go(self, key: tuple[str, str | None], shared: SharedSnapshot) -> None:
        if self._snapshots.get(key) is shared:
            del self._snapshots[key]

    async def _snapshot(self, group: str, id: str | None) -> Snapshot:
        limit = self._max_sync_items
        snapshot = await self._source.snapshot(self._spec, group, id, limit=limit + 1)
        if len(snapshot.items) > limit:
            raise GroupTooLarge(f"group {group!r} holds more than {limit} items: read it in pages with list()")
        size = sum(len(item.json) for item in snapshot.items)
        if size > self._max_sync_bytes and id is None:
            raise GroupTooLarge(
                f"group {group!r} holds {size} bytes, {self._max_sync_bytes} at most in one sync:"
                " read it in pages with list()"
            )
        return snapshot

    async def _resume(self, member: Member, after: str) -> bool:
        """Continue after a position; False if the history since then cannot be had."""
        story, generation = self._story, self._generation
        try:
            if story:
                return await self._resume_states(story, member, after)
            if after < self._ring.floor:
                await self._reach_back(after)
            # Only the backend can tell a snapshot's position from another store's.
            if after >= self._ring.floor and not self._ring.knows(after):
                await self._probe(after)
                if generation != self._generation:
                    return False  # it was known in a history that is lost
                self._ring.mark(after)
        except PositionExpired:
            return False
        if after < self._ring.floor:  # too much for a ring, or it moved on while we asked
            return False
        if self.is_joined(member):
            self._go_live(member, after)
        return True

    async def _resume_states(self, story: Story, member: Member, after: str) -> bool:
        """As `_resume`, where only this hub's own positions can be gone on from by the ring."""
        missed: tuple[Change, ...] = ()
        position, generation = after, self._generation
        known = after <= self._seen or self._ring.knows(after)  # else it is a snapshot's of long ago, or nobody's
        if not (story.told(after) and known) or after < self._ring.floor:
            batch = await story.resume(self._spec, after, self._ring.floor)
            if batch is None or not story.told(batch.position) or batch.position < self._ring.floor:
                return False
            if generation != self._generation:
                return False  # all have had a sync of the new history, which may be newer
            missed, position = batch.changes, batch.position
        if self.is_joined(member):
            self._go_live(member, position, missed)
        return True

    def _go_live(self, member: Member, position: str, missed: Iterable[Change] = ()) -> None:
        """From here on without a gap: first what it missed, then what the ring has, then what comes."""
        member.position = position
        wanted = [change for change in chain(missed, self._ring.after(position)) if member.wants(change)]
        if wanted:
            member.sink.replay(Run(wanted))

    async def _probe(self, position: str) -> None:
        async with aclosing(self._source.watch(self._spec, position)) as batches:
            async for _ in batches:
                return

    async def _reach_back(self, after: str) -> None:
        """Have the ring reach back to ``after``: one read for all who wait for one.

        Where that is too much for a ring it stays as it is: a sync is then the better answer.
        """
        self._wanted_floors.append(after)
        try:
            async with self._reaching:
                for start in dict.fromkeys((min(self._wanted_floors), after)):
                    # What was too much stays so: the history only grows.
                    if after < self._ring.floor and start > self._too_far:
                        try:
                            await self._extend(start)
                        except PositionExpired:
                            if start == after:
                                raise
        finally:
            self._wanted_floors.remove(after)

    async def _extend(self, start: str) -> None:
        older: list[Change] = []
        size, generation = 0, self._generation
        async with aclosing(self._source.watch(self._spec, start)) as batches:
            async for batch in batches:
                older += batch.changes
                size += sum(len(change.json or b"") for change in batch.changes)
                if generation != self._generation:
                    return
                too_much = len(older) > RING_CHANGES or size > RING_BYTES
                if too_much or batch.position >= self._ring.floor:
                    if too_much or not self._ring.prepend(start, older):
                        self._too_far = max(self._too_far, start)
                    return


def _is_cancelled() -> bool:
    """Whether it is this very task that was cancelled."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _deliver(members: Iterable[Member], run: Run) -> None:
    first = run.first
    for member in tuple(members):
        if member.position < first:
            member.push(run)
        elif member.position < run.last:
            member.push(Run([change for change in run.changes if change.position > member.position]))


def _group(change: Change) -> str:
    return change.group_id


def _id(change: Change) -> str | None:
    return change.id
