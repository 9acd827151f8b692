"""`Runner`: runs the durable triggers of one storage in this process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from random import Random, SystemRandom

from motia_core.adapter import Adapter
from motia_core.errors import ConfigError, MotiaError
from motia_core.triggers import resize
from motia_core.triggers.clock import Alarm, Clock, SystemClock
from motia_core.triggers.control import Control
from motia_core.triggers.crew import Crew
from motia_core.triggers.cron import run_schedule
from motia_core.triggers.deadletters import DeadLetters
from motia_core.triggers.definition import LAG_COUNTED, Report, Trigger, TriggerStatus
from motia_core.triggers.entries import Entry
from motia_core.triggers.feed import Feed
from motia_core.triggers.flush import Flusher
from motia_core.triggers.leases import Lease, view
from motia_core.triggers.loading import load_parked, load_requested
from motia_core.triggers.ownership import Ownership
from motia_core.triggers.partition import Partition
from motia_core.triggers.queues import Sweeper, messages_of
from motia_core.triggers.records import WORKERS, PartitionRecord, hash_range, trigger_id
from motia_core.triggers.registry import Registry
from motia_core.triggers.status import describe
from motia_core.triggers.turn import Turn

log = logging.getLogger("motia.triggers")

HANDLERS_MAY_END = 10.0
"""Seconds that `Runner.stop` gives to handlers before it cancels them."""

CANCELLED_MAY_END = 2.0
"""Seconds that it then gives them to come to their end."""

LOUD = frozenset({"gap", "dead", "stuck", "limit", "reset", "trouble"})


class Runner:
    """Runs triggers whose streams, and whose records, lie in one storage.

    Any number of processes may run the same triggers on it: they share the partitions,
    and take over from each other (TRIGGERS.md; SEMANTICS D1-D6). One runner per storage
    and process; it must be started and stopped on the event loop of its adapter.
    """

    def __init__(
        self,
        adapter: Adapter,
        triggers: Iterable[Trigger],
        *,
        lease: float = 5.0,
        clock: Clock | None = None,
        rng: Random | None = None,
        report: Callable[[Report], None] | None = None,
        turn: Turn | None = None,
    ) -> None:
        """``lease``: seconds; a crashed process is replaced within two of them. ``turn``: one for all of a process."""
        self.triggers = tuple(triggers)
        ids = [trigger_id(trigger.key) for trigger in self.triggers]
        for trigger, id in zip(self.triggers, ids, strict=True):
            if ids.count(id) > 1:
                raise ConfigError(f"two triggers have the key {trigger.key!r}")
        self.clock: Clock = clock or SystemClock()
        self.rng = rng or SystemRandom()
        self.adapter = adapter
        self.control = Control(adapter, self.rng)
        self.registry = Registry(self.control, self.clock)
        self.lease = Lease(self.control, self.clock, lease, self._declared)
        self.crews: dict[str, Crew] = {}
        """By uid."""
        self.feeds: dict[str, Feed] = {}
        self.alarm = Alarm(self.clock)
        self.turn = turn or Turn()
        self.flusher = Flusher(
            self.control,
            self.clock,
            self.partitions,
            released=self._forget,
            fenced=self._fenced,
            report=self.tell,
            before=self._remove_settled,
        )
        self.ownership = Ownership(
            self.control,
            self.clock,
            self.lease,
            self.crews,
            claimed=self._claimed,
            fenced=lambda crew, number: self._fenced(crew.parts[number]),
            refresh=self._refresh,
        )
        self._report = report
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._started = False
        self._reborn = False
        """A new life began, and nobody has looked yet whether the store still knows the triggers."""
        self._sweepers: list[Sweeper] = []

    # -- life ------------------------------------------------------------------------

    async def start(self) -> None:
        """Register, and begin. When it returns, a new trigger misses nothing that happens from now on.

        Raises what the store raises, and `UnsupportedCapability` where triggers cannot run.
        """
        if self._started:
            raise RuntimeError("this runner was started before")
        self._started = True
        await self.control.open()
        if not self.triggers:
            return
        for spec in {trigger.stream.name: trigger.stream for trigger in self.triggers}.values():
            if spec.log:
                await self.adapter.prepare(spec)
            self.feeds[spec.name] = Feed(self.adapter, spec, self.clock, self.rng, self.tell, self._expired)
        await self.registry.ensure(self.triggers)
        for trigger in self.triggers:
            crew = Crew(
                trigger,
                clock=self.clock,
                alarm=self.alarm,
                rng=self.rng,
                fresh=self.lease.fresh,
                turn=self.turn,
                hurry=self.flusher.hurry,
                report=self.tell,
            )
            crew.eased = self.feeds[trigger.stream.name].ease
            self._learn(crew)
            self.crews[crew.uid] = crew
            if trigger.topic is not None:
                self._sweepers.append(Sweeper(self, crew, trigger.topic))
        declared = {uid for uids in view(await self.control.list(WORKERS)).workers.values() for uid in uids}
        for record in self.registry.strangers(self.triggers):
            if record.uid in declared:
                continue
            name = "/".join(record.key)
            self.tell(
                Report(
                    "unknown",
                    "the store holds a trigger that no step here and no live worker declares",
                    name,
                    {"uid": record.uid},
                )
            )
        await self.lease.register()
        sweeps = [sweeper.run() for sweeper in self._sweepers]
        for work in (self._live(), self.flusher.run(), self.flusher.tick(), *sweeps):
            self._spawn(work)

    async def stop(self) -> None:
        """Give everything back: handlers get ten seconds, then they are cancelled, and no attempt is counted."""
        self._stopping = True
        if not self._tasks:
            await self.alarm.close()
            return
        for partition in self.partitions():
            if not partition.draining:
                partition.drain()
        await self._wait_for_handlers(HANDLERS_MAY_END)
        for crew in self.crews.values():
            crew.interrupt()
        await self._wait_for_handlers(CANCELLED_MAY_END)
        for partition in self.partitions():
            if partition.running:
                log.warning("stopping although handlers ignore their cancellation; others may run their changes too")
        for _ in range(3):
            if not any(not partition.running for partition in self.partitions()):
                break
            await self.flusher.flush(progress=True)
        await self._remove_settled()
        await self.abort()
        await self.lease.leave()

    async def abort(self) -> None:
        """End without storing anything more, as a crash does; another process takes over."""
        self._stopping = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(feed.close() for feed in self.feeds.values()))
        await self.alarm.close()
        await asyncio.gather(*(crew.close() for crew in self.crews.values()))

    # -- what people ask --------------------------------------------------------------

    def partitions(self) -> list[Partition]:
        """The partitions that this process owns."""
        return [partition for crew in self.crews.values() for partition in crew.parts.values()]

    async def status(self, *, counted: int = LAG_COUNTED) -> Sequence[TriggerStatus]:
        """Each trigger that the store knows, declared here or not; ``counted``: where counting waiting changes ends."""
        return await describe(self, counted)

    async def dead_letters(self, key: tuple[str, ...]) -> DeadLetters:
        """The dead letters of a trigger. Raises `MotiaError` if the store has none of that key."""
        await self.registry.refresh()
        found = self.registry.known.get(trigger_id(key))
        if found is None:
            raise MotiaError(f"the store holds no trigger {'/'.join(key)!r}")
        return DeadLetters(self.control, found[1])

    async def drop(self, key: tuple[str, ...]) -> None:
        """Remove a stored trigger, with its dead letters.

        Raises `ConfigError` if a step here declares it, or a worker that runs does (it
        takes a lease to find out that one does not run any more).
        """
        name = "/".join(key)
        if any(trigger.key == key for trigger in self.triggers):
            raise ConfigError(f"trigger {name!r} has a step: remove that first")
        await self.registry.refresh()
        found = self.registry.known.get(trigger_id(key))
        if found is not None and (running := await self._running(found[1].uid)):
            raise ConfigError(f"trigger {name!r} is run by worker {running}: stop or update that first")
        await self.registry.drop(key)

    async def _running(self, uid: str) -> str | None:
        """A worker that runs a trigger: one whose record changes within a lease."""
        until = self.clock.monotonic() + self.lease.seconds
        seen: dict[str, str] | None = None
        while seen is None or (seen and self.clock.monotonic() < until):
            if seen is not None:
                await self.clock.sleep(self.lease.interval)
            items = await self.control.list(WORKERS)
            alive = view(items).workers
            now = {item.id: item.version for item in items if uid in alive.get(item.id, ())}
            if seen is None:
                seen = now
            for id, version in now.items():
                if seen.get(id) != version:
                    return id
        return None

    async def resize(self, key: tuple[str, ...], partitions: int) -> None:
        """Ask for another number of partitions; running workers drain, and change it within seconds."""
        await resize.request(self.control, self.registry, trigger_id(key), partitions)

    def tell(self, report: Report) -> None:
        """Log a report, and hand it on."""
        level = logging.ERROR if report.kind in LOUD else logging.WARNING
        log.log(level, "%s%s", f"trigger {report.trigger}: " if report.trigger else "", report.message)
        if self._report is not None:
            self._report(report)

    # -- rounds ----------------------------------------------------------------------

    async def _live(self) -> None:
        """Beat, look, claim; once each fifth of a lease."""
        failing = False
        while True:
            started = self.clock.monotonic()
            try:
                if await self.lease.renew():
                    self._resume()
                    if not self._stopping:
                        await self.ownership.round()
                else:
                    await self._begin_new_life()
                failing = False
            except MotiaError as error:
                self.ownership.reset()
                if not failing:
                    self.tell(Report("trouble", f"the store of the triggers cannot be used: {error}"))
                failing = True
            self._resume()
            passed = self.clock.monotonic() - started
            await self.clock.sleep(max(0.0, self.lease.interval - passed))

    def _resume(self) -> None:
        for crew in self.crews.values():
            crew.pump()

    async def _begin_new_life(self) -> None:
        """Somebody declared this worker dead: drop everything, begin under a new id (rule 3)."""
        self.tell(Report("fenced", "this worker was declared dead: it drops its partitions and begins anew"))
        self.lease.dead()
        for partition in self.partitions():
            self._forget(partition)
        if self._stopping:
            return
        self._reborn = True
        await self.lease.register()
        self.ownership.reset()

    async def _refresh(self) -> None:
        """Before partitions are listed: names, changes of P, requests to retry."""
        await self.registry.refresh()
        missing = [c for c in self.crews.values() if not c.retired and self.registry.record(c.trigger) is None]
        if missing:
            if await self._store_was_lost():
                await self._restore_names()
            else:
                await self._retire(missing)
        self._reborn = False
        for crew in list(self.crews.values()):
            self._learn(crew)
            if crew.target is not None and not crew.parts:
                await self._resize(crew)
            for partition in list(crew.parts.values()):
                if partition.loaded and not partition.draining:
                    partition.revivals += await load_requested(self.control, partition)
                    if partition.revivals:
                        self.flusher.hurry()

    def _declared(self) -> tuple[str, ...]:
        return tuple(uid for uid, crew in self.crews.items() if not crew.retired)

    async def _store_was_lost(self) -> bool:
        """Whether names are missing because all is: this worker's own record, or each of its triggers."""
        if {record.uid for _, record in self.registry.known.values()} & set(self.crews):
            return False
        reborn, self._reborn = self._reborn, False
        return reborn or await self.control.get(WORKERS, self.lease.id) is None

    async def _retire(self, crews: list[Crew]) -> None:
        """Another process has renamed or dropped these: what is left of them is the other's."""
        for crew in crews:
            crew.retired = True
            message = "it was renamed or dropped by another process: this one runs it no more"
            self.tell(Report("trouble", message, crew.trigger.name))
        await self.lease.renew()

    async def _restore_names(self) -> None:
        """The store forgot the triggers that run here."""
        self.tell(Report("reset", "the store lost the records of its triggers: they begin at the oldest it has"))
        for partition in self.partitions():
            self._forget(partition)
        await self.registry.ensure(self.triggers, after_loss=True)
        for crew in list(self.crews.values()):
            del self.crews[crew.uid]
            self._learn(crew)
            self.crews[crew.uid] = crew
        await self.lease.renew()

    def _learn(self, crew: Crew) -> None:
        record = self.registry.record(crew.trigger)
        if record is None:
            return
        crew.uid, crew.target = record.uid, record.target
        if not crew.parts:
            crew.count = record.partitions

    async def _resize(self, crew: Crew) -> None:
        id = trigger_id(crew.trigger.key)
        version, record = self.registry.known[id]
        found = await self.ownership.partitions_of(crew)
        if await resize.perform(self.control, id, version, record, found):
            await self.registry.refresh()
            self._learn(crew)
        else:
            self.ownership.relist = True

    # -- partitions come and go -------------------------------------------------------

    def _claimed(self, crew: Crew, number: int, record: PartitionRecord, version: str) -> None:
        partition = Partition(crew, crew.uid, number, hash_range(number, crew.count), record, version)
        partition.saved_at = self.clock.monotonic()
        crew.parts[number] = partition
        if self._stopping:
            partition.drain()
        self._spawn(self._load(crew, partition))

    async def _load(self, crew: Crew, partition: Partition) -> None:
        """What is parked first, after the claim has succeeded; then the stream (rule 10)."""
        while not partition.gone:
            try:
                parked: list[Entry] = []
                if partition.stored_count:
                    parked = await load_parked(self.control, partition, crew.trigger.order_key)
                requested = await load_requested(self.control, partition)
            except MotiaError as error:
                self.tell(Report("trouble", f"parked changes cannot be read: {error}", crew.trigger.name))
                await self.clock.sleep(1.0)
                continue
            if partition.gone:
                return
            partition.load(parked)
            partition.revivals = requested
            if requested:
                self.flusher.hurry()
            if partition.draining:
                self.flusher.hurry()
            elif crew.trigger.schedule is not None:
                partition.caught_up()
                partition.reopen()
                schedule, key = crew.trigger.schedule, crew.trigger.key
                self._spawn(run_schedule(self.clock, partition, schedule, key, self.tell))
            elif partition.fresh:
                await self._take_up(crew, partition)
            else:
                self.feeds[crew.trigger.stream.name].join(partition, crew)
                partition.reopen()
            return

    def _fenced(self, partition: Partition) -> None:
        crew = self.crews[partition.uid]
        if crew.parts.get(partition.number) is not partition:
            return
        message = f"partition {partition.number} was taken by another process: its handlers are cancelled"
        self.tell(Report("fenced", message, crew.trigger.name, {"epoch": partition.epoch}))
        self._forget(partition)
        self.ownership.relist = True

    def _forget(self, partition: Partition) -> None:
        crew = self.crews[partition.uid]
        self.feeds[crew.trigger.stream.name].leave(partition)
        crew.forget(partition)

    def _expired(self, partition: Partition, floor: str, reason: str) -> None:
        """Its history is gone (rule 21)."""
        crew = self.crews[partition.uid]
        if crew.trigger.topic is not None:
            self._spawn(self._take_up(crew, partition))
            return
        message = f"changes after {partition.read} and up to {floor} are lost: {reason}"
        self.tell(Report("gap", message, crew.trigger.name, {"partition": partition.number}))
        self.feeds[crew.trigger.stream.name].full[partition] = crew
        partition.lost(floor, reason)

    async def _remove_settled(self) -> None:
        """Before the store knows that messages are settled, they go: else a successor could find them again."""
        for sweeper in self._sweepers:
            with contextlib.suppress(MotiaError):  # tried again before the next flush
                await sweeper.remove_settled()

    async def _take_up(self, crew: Crew, partition: Partition) -> None:
        """A queue's truth is its items, not the log: go on from what is there."""
        feed = self.feeds[crew.trigger.stream.name]
        assert crew.trigger.topic is not None
        while not partition.gone:
            partition.remembered = {*partition.covered, *crew.covered}
            try:
                messages, position = await messages_of(self.adapter, crew.trigger.topic)
            except MotiaError as error:
                self.tell(Report("trouble", f"the queue cannot be read: {error}", crew.trigger.name))
                await self.clock.sleep(1.0)
                continue
            if not partition.gone:
                # Not before: who is full is fed again when there is room, also with what the items tell.
                feed.full[partition] = crew
                partition.recover(messages, position, feed.hash_of)
            return

    async def _wait_for_handlers(self, seconds: float) -> None:
        until = self.clock.monotonic() + seconds
        while any(crew.busy for crew in self.crews.values()) and self.clock.monotonic() < until:
            await self.clock.sleep(0.02)

    def _spawn(self, work: object) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work, name="motia-triggers")  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("the trigger runner failed: this is a bug", exc_info=error)
