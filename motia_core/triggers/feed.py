"""One stream's changes for all triggers that follow it: one live watch, and catch-up watches until they meet it.

Rules 10 and 21. A partition is a member of at most one reader. It joins by a catch-up
reader from what it has read, and moves to the live one when that is not behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from random import Random

from motia_core.adapter import Adapter
from motia_core.errors import MotiaError, PositionExpired
from motia_core.model import Batch, StreamSpec
from motia_core.triggers.clock import Clock
from motia_core.triggers.crew import Crew
from motia_core.triggers.definition import OrderKey, Report
from motia_core.triggers.partition import Partition
from motia_core.triggers.records import hash_key

GATHER = 0.02
"""Seconds to wait for others that want to catch up too."""

PATIENCE_LIVE = 0.05
PATIENCE = 1.0
"""Seconds for which a reader waits for a full member before it goes on without it."""

RETRY_CAP = 5.0
KNOWN_HASHES = 50_000


class Feed:
    """What one process reads of one stream."""

    def __init__(
        self,
        adapter: Adapter,
        spec: StreamSpec,
        clock: Clock,
        rng: Random,
        report: Callable[[Report], None],
        expired: Callable[[Partition, str, str], None],
    ) -> None:
        self.adapter = adapter
        self.spec = spec
        self.coalesced = adapter.capabilities(spec).is_coalesced
        self.clock = clock
        self.rng = rng
        self.report = report
        self.expired = expired
        """Called with a partition whose history is gone: the floor, and why."""
        self.live: Reader | None = None
        self.catching: dict[Reader, None] = {}
        self.full: dict[Partition, Crew] = {}
        """Members that read nothing for now."""
        self.hashes: dict[OrderKey, int] = {}
        self._joining: dict[Partition, Crew] = {}
        self._gathering: asyncio.Task[None] | None = None
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._closed = False

    def join(self, partition: Partition, crew: Crew) -> None:
        """Feed a partition from what it has read on."""
        if self._closed or partition.gone:
            return
        self._joining[partition] = crew
        if self._gathering is None:
            self._gathering = asyncio.create_task(self._gather(), name=f"motia-feed-{self.spec.name}")

    def leave(self, partition: Partition) -> None:
        """Feed it no more."""
        self._joining.pop(partition, None)
        self.full.pop(partition, None)
        for reader in (*self.catching, self.live):
            if reader is not None and partition in reader.members:
                reader.remove(partition)
                if not reader.members:
                    self._end(reader)

    def ease(self) -> None:
        """Work was taken off: whoever was full may read again."""
        for partition, crew in list(self.full.items()):
            if partition.hungry:
                del self.full[partition]
                self.join(partition, crew)

    def hash_of(self, key: OrderKey) -> int:
        """The key's hash, remembered."""
        found = self.hashes.get(key)
        if found is None:
            if len(self.hashes) >= KNOWN_HASHES:
                self.hashes.clear()
            found = self.hashes[key] = hash_key(key)
        return found

    async def close(self) -> None:
        """End every watch."""
        self._closed = True
        self._joining.clear()
        self.full.clear()
        tasks = [*self._tasks, *([self._gathering] if self._gathering else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.live = None
        self.catching.clear()

    # -- joining ---------------------------------------------------------------------

    async def _gather(self) -> None:
        await self.clock.sleep(GATHER)
        self._gathering = None
        joining, self._joining = self._joining, {}
        if joining:
            self.start(joining)

    def start(self, members: dict[Partition, Crew]) -> None:
        """A catch-up reader for these, from the least that one of them has read.

        States that others were told of (B9) are read from just where each of them stands.
        """
        if self.live is None:
            self.live = Reader(self, {}, None)
            self._spawn(self.live)
        apart: dict[str, dict[Partition, Crew]] = {}
        for partition, crew in members.items():
            alone = self.coalesced and not partition.reads_here
            apart.setdefault(partition.read if alone else "", {})[partition] = crew
        for together in apart.values():
            reader = Reader(self, together, min(partition.read for partition in together))
            self.catching[reader] = None
            self._spawn(reader)

    def attach(self, reader: Reader) -> bool:
        """Move a catch-up reader's members to the live one, once it is not behind (rule 10)."""
        live = self.live
        if live is None or live.position is None or reader.position is None:
            return False
        if not reader.established or reader.position < live.position:
            return False
        for partition, crew in list(reader.members.items()):
            partition.caught_up()
            live.add(partition, crew)
        reader.clear()
        self._end(reader)
        return True

    def _spawn(self, reader: Reader) -> None:
        task = reader.task = asyncio.create_task(reader.run(), name=f"motia-feed-{self.spec.name}")
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)

    def _end(self, reader: Reader) -> None:
        if reader is self.live:
            if self.catching or self._joining or self.full:
                return
            self.live = None
        self.catching.pop(reader, None)
        if reader.task is not None and reader.task is not asyncio.current_task():
            reader.task.cancel()

    def begin_again(self, reader: Reader, error: PositionExpired) -> None:
        """A reader's history is gone. Which of its members has lost something is found out one by one."""
        members = dict(reader.members)
        reader.clear()
        if reader is self.live:
            self.live = None
        self.catching.pop(reader, None)
        if len(members) == 1 and reader.only:
            ((partition, _),) = members.items()
            floor = error.floor
            assert floor is not None
            self.expired(partition, floor, str(error))
            return
        for partition, crew in members.items():
            self.start({partition: crew})


class Reader:
    """One watch, and the partitions that it feeds."""

    def __init__(self, feed: Feed, members: dict[Partition, Crew], position: str | None) -> None:
        self.feed = feed
        self.members: dict[Partition, Crew] = {}
        self.routes: dict[Crew, list[Partition | None]] = {}
        self.position = position
        """Read up to there; ``None``: not begun, at the head."""
        self.established = False
        """The store has acknowledged that its history reaches back to `position`."""
        self.reads_here = all(partition.reads_here for partition in members)
        """`position` is one that this process was told."""
        self.only = len(members) == 1
        self.task: asyncio.Task[None] | None = None
        for partition, crew in members.items():
            self.add(partition, crew)

    def add(self, partition: Partition, crew: Crew) -> None:
        """Feed this one too."""
        self.members[partition] = crew
        route = self.routes.setdefault(crew, [None] * crew.count)
        route[partition.number] = partition

    def remove(self, partition: Partition) -> None:
        """Feed it no more."""
        crew = self.members.pop(partition)
        self.routes[crew][partition.number] = None
        if not any(other is crew for other in self.members.values()):
            del self.routes[crew]

    def clear(self) -> None:
        """Feed nobody."""
        self.members.clear()
        self.routes.clear()

    async def run(self) -> None:
        """Read until nobody is fed any more; heal what can be healed."""
        feed, failures = self.feed, 0
        while True:
            try:
                if self.position is None:
                    self.position = await feed.adapter.head(feed.spec)
                    for reader in list(feed.catching):
                        feed.attach(reader)
                follow = feed.adapter.watch if self.reads_here else feed.adapter.resume
                async with aclosing(follow(feed.spec, self.position)) as batches:
                    async for batch in batches:
                        failures = 0
                        self.deliver(batch)
                        if self is not feed.live and (not self.members or feed.attach(self)):
                            feed.catching.pop(self, None)
                            return
                        await self._wait_for_the_full()
            except PositionExpired as error:
                if error.floor is None:
                    error.floor = await self._floor()
                if error.floor is not None:
                    feed.begin_again(self, error)
                    return
            except Exception as error:  # a defect, of an adapter mostly, must not end it without a word
                if failures == 0:
                    said = error if isinstance(error, MotiaError) else repr(error)
                    feed.report(Report("trouble", f"stream {feed.spec.name!r} cannot be read: {said}"))
            failures += 1
            await feed.clock.sleep(min(RETRY_CAP, 0.1 * 2.0 ** min(failures, 10)) * (0.5 + feed.rng.random() / 2))
            if self is not feed.live and not self.members:
                feed.catching.pop(self, None)
                return

    async def _floor(self) -> str | None:
        try:
            return await self.feed.adapter.floor(self.feed.spec)
        except MotiaError:
            return None

    def deliver(self, batch: Batch) -> None:
        """Hand out a batch, and note for everybody how far it was read."""
        start = self.position or ""
        hash_of, known = self.feed.hash_of, self.feed.hashes
        for crew, route in self.routes.items():
            trigger, count = crew.trigger, crew.count
            accepts, order_key = trigger.accepts, trigger.order_key
            before = start
            for change in batch.changes:
                if accepts is None or accepts(change):
                    key = order_key(change)
                    hash16 = known.get(key)
                    if hash16 is None:
                        hash16 = hash_of(key)
                    partition = route[hash16 * count >> 16]
                    if partition is not None:
                        partition.push(change, key, hash16, before)
                before = change.position
        self.position = batch.position
        self.established = self.reads_here = True
        for partition in self.members:
            partition.progress(batch.position)
        for crew in self.routes:
            crew.pump()

    async def _wait_for_the_full(self) -> None:
        """Give full members a moment, then let them go: they catch up later."""
        feed = self.feed
        await feed.clock.sleep(0)
        if not any(partition.full for partition in self.members):
            return
        patience = PATIENCE_LIVE if self is feed.live else PATIENCE
        until = feed.clock.monotonic() + patience
        while any(not partition.hungry for partition in self.members) and feed.clock.monotonic() < until:
            if all(partition.hungry or partition.limit or partition.gap for partition in self.members):
                break
            await feed.clock.sleep(0.001)
        for partition, crew in list(self.members.items()):
            if partition.full:
                self.remove(partition)
                feed.full[partition] = crew
