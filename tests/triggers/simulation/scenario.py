"""A story told by a seed: processes that come and go, changes, handlers that fail, faults."""

from __future__ import annotations

import asyncio
import gc
import logging
from dataclasses import dataclass, field
from random import Random

from motia_core.errors import MotiaError
from motia_core.model import Change, StreamSpec, Write
from motia_core.triggers import RunInfo, Runner, Trigger

from .checks import Checks
from .loop import VirtualLoop
from .world import Fault, Plan, Process, Violated, World

DOCS = StreamSpec("docs")
KEY = ("step", "stream", "docs", "0")

GIVE_UP = 300.0
"""Virtual seconds in which everything must have been handled."""


@dataclass(slots=True)
class Story:
    """What happens, beside the faults."""

    seed: int
    plan: Plan
    processes: int = 2
    partitions: int = 4
    items: int = 5
    changes: int = 20
    span: float = 8.0
    """Seconds over which they are written."""
    window: int = 6
    concurrency: int = 3
    failing: float = 0.15
    """Of the changes: how many fail once or twice."""
    poison: float = 0.08
    """Of the changes: how many always fail."""
    duration: float = 1.0
    """Seconds that a handler takes at most."""
    leaving: float = 0.0
    """The chance that a process is stopped and replaced in good order."""
    retention: int | None = None
    one_item: bool = False


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    violation: str | None
    gates: int
    log: list[str]
    faults: list[tuple[int, Fault, str]] = field(default_factory=list)

    def tell(self) -> str:
        return "\n".join([*self.log, f"faults: {self.faults}", f"violation: {self.violation}"])


def random_story(seed: int) -> Story:
    """The story of a seed."""
    rng = Random(seed)
    plan = Plan(
        chance=rng.choice([0.005, 0.01, 0.03]),
        most=rng.choice([2, 4, 8, 16]),
        latency=rng.choice([0.001, 0.02, 0.1]),
        jitter=rng.choice([0.02, 0.2]),
    )
    return Story(
        seed,
        plan,
        processes=rng.choice([2, 2, 3]),
        partitions=rng.choice([2, 4]),
        items=rng.choice([2, 5]),
        changes=rng.choice([15, 30]),
        span=rng.choice([3.0, 12.0]),
        window=rng.choice([3, 6, 12]),
        concurrency=rng.choice([2, 4]),
        duration=rng.choice([0.0, 0.3, 3.0]),
        leaving=rng.choice([0.0, 0.5]),
        retention=rng.choice([None, None, None, 6]),
    )


def play(story: Story, *, watch_first: bool = False) -> Outcome:
    """Play a story to its end. With ``watch_first`` only the first process's awaits are gates."""
    logging.disable(logging.CRITICAL)
    rng = Random(story.seed * 7919 + 1)
    loop = VirtualLoop(rng)  # type: ignore[abstract]  # what nobody asks for is not there
    world = World(loop, rng, story.plan, story.retention)
    checks = Checks(world, story.partitions, story.window, attempts=3)
    scene = _Scene(story, world, checks, watch_first)
    violation = None
    collecting = gc.isenabled()
    gc.disable()  # a collection would finalize dead processes' generators at odd moments
    try:
        loop.run_until_complete(scene.play())
    except Violated as error:
        violation = str(error)
    finally:
        scene.bury(loop)
        loop.close()
        if collecting:
            gc.enable()
        logging.disable(logging.NOTSET)
    if violation is None and scene.broken:
        violation = scene.broken
    return Outcome(violation, world.gates, checks.log, world.faults)


class _Scene:
    def __init__(self, story: Story, world: World, checks: Checks, watch_first: bool) -> None:
        self.story, self.world, self.checks = story, world, checks
        self.rng = world.rng
        self.watch_first = watch_first
        self.broken = ""
        self.tasks: list[asyncio.Task[object]] = []
        self.fails: dict[str, int] = {}
        self.changed = asyncio.Event()
        world.landed = self.landed
        world.died = self.died

    async def play(self) -> None:
        await self.world.server.open()
        await self.world.server.prepare(DOCS)
        for number in range(self.story.processes):
            process = self.live()
            if number == 0 and self.watch_first:
                self.world.watched = process
            if number == 0:
                await self.until(lambda: bool(self.checks.rows("names")), 60.0)
        await self.write_changes()
        await self.until(lambda: not self.checks.open() and not self.checks.rows("parked:"), GIVE_UP)
        await asyncio.sleep(2.0)  # what is still on its way may be the parking of something settled since
        await self.until(lambda: not self.checks.rows("parked:"), GIVE_UP)
        self.checks.finish()

    async def until(self, condition: object, seconds: float) -> None:
        """Wait for it, but no longer; what is broken meanwhile ends the story."""
        until = self.world.loop.time() + seconds
        while self.world.loop.time() < until:
            if self.broken:
                raise Violated(self.broken)
            if condition():  # type: ignore[operator]
                return
            await asyncio.sleep(0.25)

    async def write_changes(self) -> None:
        story = self.story
        if self.story.leaving and self.rng.random() < story.leaving:
            self.world.on_server(self.leave_some_day())
        for number in range(story.changes):
            await asyncio.sleep(self.rng.random() * 2 * story.span / story.changes)
            item = f"i{self.rng.randrange(story.items)}"
            (result,) = await self.world.server.write(DOCS, [Write("set", "g", item, b'{"n":%d}' % number)])
            assert result is not None
            luck = self.rng.random()
            if luck < story.poison:
                self.fails[result.position] = 1_000
            elif luck < story.poison + story.failing:
                self.fails[result.position] = self.rng.choice([1, 2])
            self.checks.changes.append(
                Change("update", "docs", "g", item, None, result.timestamp, result.version, result.position)
            )

    async def leave_some_day(self) -> None:
        """A rolling deployment: one goes in good order, another comes."""
        await asyncio.sleep(self.rng.random() * 15)
        process = self.rng.choice(self.world.processes)
        if process.runner is None or process.host.dead or process.host.paused:
            return
        self.checks.note(f"{process.host.name} is asked to stop")
        self.live()
        self.tasks.append(self.world.loop.start_on(process.host, self.stop(process)))

    async def stop(self, process: Process) -> None:
        assert process.runner is not None
        await process.runner.stop()
        process.stopped = True
        self.checks.note(f"{process.host.name} has stopped")

    def live(self) -> Process:
        """A new process."""
        process = self.world.process()
        self.tasks.append(self.world.loop.start_on(process.host, self.run(process)))
        return process

    async def run(self, process: Process) -> None:
        while True:
            runner = self.runner(process)
            try:
                await runner.start()
            except MotiaError:  # its supervisor starts it again
                await runner.abort()
                await process.sleep(0.5)
                continue
            process.runner = runner
            return

    def runner(self, process: Process) -> Runner:
        story = self.story

        async def handle(change: Change, info: RunInfo) -> None:
            try:
                run = self.checks.start(process, change, info)
            except Violated as error:
                self.broken = str(error)
                raise
            outcome = "cancelled"
            try:
                if story.duration and self.rng.random() < 0.8:
                    await process.sleep(self.rng.random() * story.duration)
                if self.checks.failed[change.position] < self.fails.get(change.position, 0):
                    outcome = "failed"
                    raise RuntimeError("it fails")
                outcome = "ok"
            finally:
                self.checks.end(run, outcome)

        trigger = Trigger(
            key=KEY,
            stream=DOCS,
            handle=handle,
            attempts=3,
            backoff=0.5,
            backoff_cap=2.0,
            timeout=30.0,
            concurrency=story.concurrency,
            window=story.window,
            partitions=story.partitions,
        )
        return Runner(process.adapter, [trigger], lease=5.0, clock=process, rng=Random(self.rng.random()))

    def landed(self, process: Process, stream: StreamSpec, writes: object) -> None:
        try:
            self.checks.landed(process, stream, writes)  # type: ignore[arg-type]
        except Violated as error:
            self.broken = str(error)

    def died(self, process: Process) -> None:
        self.checks.died(process)

        async def replace() -> None:
            await asyncio.sleep(self.rng.random() * 4)
            self.live()

        self.world.on_server(replace())

    def bury(self, loop: VirtualLoop) -> None:
        """Let every task end, the dead ones' too; nothing that they do counts any more."""
        self.checks.over = True
        self.world.died = lambda process: None
        self.world.plan = Plan()
        for host in loop.hosts:
            host.dead = host.paused = False

        async def end() -> None:
            for _ in range(20):
                tasks = [task for task in asyncio.all_tasks(loop) if task is not asyncio.current_task()]
                if not tasks:
                    return
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks, timeout=0.5)

        loop.run_until_complete(end())
