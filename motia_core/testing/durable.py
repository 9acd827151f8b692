"""Clauses D: triggers, by the real runner on the backend, with worker processes that are really killed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from motia_core.adapter import Adapter, Retention
from motia_core.model import Change, StreamSpec
from motia_core.testing.harness import Cannot, World, eventually
from motia_core.testing.suite import Suite
from motia_core.testing.workers import Job, Line, Worker, read_journal
from motia_core.triggers import Report, RunInfo, Runner, Trigger
from motia_core.triggers.control import lacking

SPEC = StreamSpec("documents")
LEASE = 1.0
"""Seconds; a tenth of what a busy test machine may need would prove nothing."""
MOST_DEATHS = 10
"""Workers that a change may take with it before it is buried, at most: three without and three with a count."""

KEY = ("handler", "stream", SPEC.name, "0")


class Seen:
    """What handlers were given."""

    def __init__(self) -> None:
        self.runs: list[tuple[Change, RunInfo]] = []

    async def handle(self, change: Change, run: RunInfo) -> None:
        """Remember it."""
        self.runs.append((change, run))

    def of(self, id: str) -> list[Any]:
        """The values of one item's changes, in the order of their runs."""
        return [change.data["n"] for change, _ in self.runs if change.id == id]


def trigger(handle: Callable[[Change, RunInfo], Awaitable[object]], **options: Any) -> Trigger:
    """A trigger of the tests: patient with nothing."""
    given = {"key": KEY, "stream": SPEC, "backoff": 0.01, "backoff_cap": 0.05, **options}
    return Trigger(handle=handle, **given)


class Triggers(Suite):
    """Durable triggers (SEMANTICS D)."""

    async def test_D1_each_matching_change_is_handled(self, world: World) -> None:
        docs = await world.stream()
        adapter = able(docs.hub.adapter)
        seen = Seen()
        everything = Seen()
        some = trigger(seen.handle, accepts=lambda change: change.group_id == "g" and change.type != "event")
        every = trigger(everything.handle, key=("every", "stream", SPEC.name, "0"))
        async with Running(adapter, [some, every]):
            await docs.set("g", "x", {"n": 1})
            await settled(everything, 1)
            await docs.set("h", "x", {"n": 2})
            await docs.update("g", "x", [{"type": "increment", "path": "n", "by": 2}])
            await settled(everything, 3)
            await docs.delete("g", "x")
            await settled(everything, 4)
            await settled(seen, 3)
        assert [(change.type, change.data) for change, _ in seen.runs] == [
            ("create", {"n": 1}),
            ("update", {"n": 3}),
            ("delete", {"n": 3}),
        ]
        assert len(everything.runs) == 4

    async def test_D1_a_condition_decides_and_one_that_raises_is_tried_again(self, world: World) -> None:
        docs = await world.stream()
        adapter = able(docs.hub.adapter)
        seen = Seen()
        asked: Counter[str] = Counter()

        async def condition(change: Change) -> bool:
            asked[str(change.id)] += 1
            if change.id == "late" and asked["late"] < 3:
                raise RuntimeError("not yet")
            return bool(change.data["n"] % 2)

        async with Running(adapter, [trigger(seen.handle, matches=condition)]):
            for n in range(4):
                await docs.set("g", f"{n}", {"n": n})
            await docs.set("g", "late", {"n": 9})
            await settled(seen, 3)
        assert sorted(change.data["n"] for change, _ in seen.runs) == [1, 3, 9]
        assert asked["late"] == 3

    async def test_D2_one_items_changes_in_order_and_different_items_at_once(self, world: World) -> None:
        docs = await world.stream()
        adapter = able(docs.hub.adapter)
        running: dict[str, int] = {}
        most = 0
        handled: dict[str, list[int]] = {}

        async def handle(change: Change, run: RunInfo) -> None:
            nonlocal most
            id = str(change.id)
            assert id not in running, "two runs of one item at once"
            running[id] = 1
            most = max(most, len(running))
            await asyncio.sleep(0.002 * (change.data["n"] % 3))
            del running[id]
            handled.setdefault(id, []).append(change.data["n"])

        async with Running(adapter, [trigger(handle)]):
            for n in range(20):
                for item in range(6):
                    await docs.set("g", f"{item}", {"n": n})
            await eventually(when(lambda: _ends(handled, 6, 19)), "each item's last change to be handled")
        full = docs.capabilities.history.level == "full"
        for numbers in handled.values():
            assert numbers == (list(range(20)) if full else sorted(set(numbers)))
        assert most > 1, "different items waited for each other"

    async def test_D2_an_item_waits_for_the_change_that_fails(self, world: World) -> None:
        docs = await world.stream()
        adapter = able(docs.hub.adapter)
        started: list[tuple[str, int]] = []

        async def handle(change: Change, run: RunInfo) -> None:
            started.append((str(change.id), change.data["n"]))
            if started[-1] == ("slow", 1) and ("other", 1) not in started:
                raise RuntimeError("try again")

        async with Running(adapter, [trigger(handle, attempts=1000, backoff=0.2, backoff_cap=0.2)]):
            await docs.set("g", "slow", {"n": 1})
            await eventually(when(lambda: ("slow", 1) in started), "the first attempt")
            await docs.set("g", "slow", {"n": 2})
            await docs.set("g", "other", {"n": 1})
            await eventually(when(lambda: ("other", 1) in started), "another item, which does not wait")
            await eventually(when(lambda: ("slow", 2) in started), "the change that waited")
        slow = [n for id, n in started if id == "slow"]
        assert slow == [*[1] * (len(slow) - 1), 2]

    async def test_D3_a_restart_goes_on_where_it_stopped(self, world: World) -> None:
        docs = await world.stream()
        adapter = able(docs.hub.adapter)
        before, after = Seen(), Seen()
        await docs.set("g", "earlier", {"n": 0})
        async with Running(adapter, [trigger(before.handle)]):
            for n in range(30):
                await docs.set("g", f"{n}", {"n": n})
            await settled(before, 30)
        for n in range(30, 40):
            await docs.set("g", f"{n}", {"n": n})
        async with Running(await world.adapter(), [trigger(after.handle)]):
            await settled(after, 10)
            await docs.set("g", "last", {"n": 40})
            await settled(after, 11)
        assert sorted(change.data["n"] for change, _ in before.runs) == list(range(30))
        assert sorted(change.data["n"] for change, _ in after.runs) == list(range(30, 41))

    async def test_D3_a_new_trigger_begins_now_or_at_the_beginning(self, world: World) -> None:
        docs = await world.stream()
        adapter = able(docs.hub.adapter)
        await docs.set("g", "old", {"n": 1})
        now, beginning = Seen(), Seen()
        triggers = [
            trigger(now.handle, key=("now", "stream", SPEC.name, "0")),
            trigger(beginning.handle, key=("beginning", "stream", SPEC.name, "0"), start="beginning"),
        ]
        runner = Runner(adapter, triggers, lease=LEASE)
        await runner.start()
        try:
            await docs.set("g", "new", {"n": 2})  # at once: "now" was fixed before start returned
            await settled(now, 1)
            await settled(beginning, 2)
        finally:
            await runner.stop()
        assert [change.id for change, _ in now.runs] == ["new"]
        assert sorted(str(change.id) for change, _ in beginning.runs) == ["new", "old"]

    async def test_D4_a_handler_that_always_fails_ends_in_dead_letters(self, world: World) -> None:
        docs = await world.stream()
        adapter = able(docs.hub.adapter)
        attempts: list[int] = []
        fine = Seen()
        broken = True

        async def handle(change: Change, run: RunInfo) -> None:
            if change.id == "bad" and change.data["n"] == 1 and broken:
                attempts.append(run.attempt)
                raise ValueError("no good")
            await fine.handle(change, run)

        async with Running(adapter, [trigger(handle, attempts=3)]) as runner:
            await docs.set("g", "bad", {"n": 1})
            await eventually(when(lambda: bool(attempts)), "the first attempt")
            await docs.set("g", "bad", {"n": 2})
            await docs.set("g", "good", {"n": 3})
            await settled(fine, 2)
            letters = await runner.dead_letters(KEY)
            (letter,) = await letters.list()
            assert attempts == [1, 2, 3]
            assert letter.attempts == 3
            assert "no good" in (letter.error or "")
            assert letter.change.data == {"n": 1}
            broken = False
            await letters.retry(letter.id)
            await settled(fine, 3)
            assert fine.of("bad") == [2, 1], "a dead letter that is tried again is out of order"

            async def empty() -> bool:
                return not await letters.list()

            await eventually(empty, "the dead letter to be gone")

    async def test_D4_dead_letters_outlive_the_process_and_can_be_dropped(self, world: World) -> None:
        docs = await world.stream()
        adapter = able(docs.hub.adapter)

        async def handle(change: Change, run: RunInfo) -> None:
            raise ValueError("never")

        async with Running(adapter, [trigger(handle, attempts=2)]) as runner:
            await docs.set("g", "x", {"n": 1})
            letters = await runner.dead_letters(KEY)

            async def dead() -> bool:
                return len(await letters.list()) == 1

            await eventually(dead, "the dead letter")
        letters = await Runner(await world.adapter(), []).dead_letters(KEY)
        (letter,) = await letters.list()
        assert letter.change.data == {"n": 1}
        assert await letters.drop(letter.id) == 1
        assert not await letters.list()

    async def test_D5_two_processes_share_the_work_and_one_takes_over(self, world: World) -> None:
        docs = await world.stream()
        adapters = [able(docs.hub.adapter), await world.adapter()]
        if not docs.capabilities.multi_process:
            pytest.skip("several processes are declared unsupported")
        seen = [Seen(), Seen()]
        runners = [Runner(a, [trigger(s.handle)], lease=LEASE) for a, s in zip(adapters, seen, strict=True)]
        for runner in runners:
            await runner.start()
        try:
            count = 0

            async def both() -> bool:
                nonlocal count
                for _ in range(10):
                    count += 1
                    await docs.set("g", f"{count}", {"n": count})
                return all(len(s.runs) > 0 for s in seen)

            await eventually(both, "both to have their share")
            await eventually(when(lambda: sum(len(s.runs) for s in seen) >= count), "all to be handled")
            assert sum(len(s.runs) for s in seen) == count
            await runners[0].stop()
            for _ in range(20):
                count += 1
                await docs.set("g", f"{count}", {"n": count})
            await eventually(when(lambda: sum(len(s.runs) for s in seen) >= count), "the rest to be handled")
            assert sum(len(s.runs) for s in seen) == count, "something was handled twice although nobody crashed"
        finally:
            for runner in runners:
                await runner.stop()

    async def test_D5_of_processes_that_claim_at_once_one_has_each_partition(self, world: World) -> None:
        docs = await world.stream()
        able(docs.hub.adapter)
        if not docs.capabilities.multi_process:
            pytest.skip("several processes are declared unsupported")
        for turn in range(3):
            key = (f"claimed {turn}", *KEY[1:])
            seen = Seen()
            runners = [Runner(await world.adapter(), [trigger(seen.handle, key=key)], lease=LEASE) for _ in range(3)]
            await asyncio.gather(*(runner.start() for runner in runners))
            try:
                for n in range(100):
                    await docs.set("g", f"{turn} {n}", {"n": n})
                await settled(seen, 100)
                owners = [partition.number for runner in runners for partition in runner.partitions()]
                assert len(owners) == len(set(owners)), "two processes believe that they own a partition"
            finally:
                await asyncio.gather(*(runner.stop() for runner in runners))
            assert sorted(change.data["n"] for change, _ in seen.runs) == list(range(100))

    async def test_D6_what_was_trimmed_before_it_was_read_is_reported(self, world: World) -> None:
        adapter = able(await world.adapter(retention=Retention(count=20)))
        docs = await world.stream(adapter=adapter)
        async with Running(adapter, [trigger(Seen().handle)]):
            pass
        positions = [(await docs.set("g", f"{n}", {"n": n})).position for n in range(300)]
        count = 300

        async def trimmed() -> bool:
            nonlocal count
            await docs.set("g", f"{count}", {"n": count})
            count += 1
            return await adapter.floor(SPEC) >= positions[100]

        await eventually(trimmed, "the log to be trimmed")
        reports: list[Report] = []
        seen = Seen()
        async with Running(adapter, [trigger(seen.handle)], report=reports.append) as runner:
            await docs.set("g", "last", {"n": -1})
            await eventually(when(lambda: bool(seen.of("last"))), "what came after the gap")
            gaps = await (await runner.dead_letters(KEY)).gaps()
            assert gaps

            async def the_rest() -> bool:
                """One partition had what came last; others may still be at what came before, or find their gap."""
                told = await (await runner.dead_letters(KEY)).gaps()
                lost_until = max(gap.end for gap in told)
                handled = {change.position for change, _ in seen.runs}
                return {position for position in positions if position > lost_until} <= handled

            await eventually(the_rest, "what was not lost to be handled")
        assert any(report.kind == "gap" for report in reports)
        for gap in gaps:
            assert gap.start < gap.end

    # -- processes that are really killed ---------------------------------------------

    async def test_D1_changes_survive_the_kill_of_a_worker(self, world: World, tmp_path: Path) -> None:
        """RELIABILITY 4: killed mid-handler, again and again."""
        job = _job(world, tmp_path, pause=0.005)
        docs = await world.stream()
        able(docs.hub.adapter)
        workers = [await Worker.start(job), await Worker.start(job)]
        try:
            n = 0
            for turn in range(4):
                # Counted before: where writes are slow, little may be left to do when the last is in.
                before = len(read_journal(job.journal))
                for _ in range(30):
                    await docs.set("g", f"{n % 7}", {"n": n})
                    n += 1
                await _progress(job, before + 5)
                await workers[turn % 2].kill()
                workers[turn % 2] = await Worker.start(job)
            await _complete(job, docs, n)
        finally:
            for worker in workers:
                await worker.kill()
        judge(read_journal(job.journal), every=range(n) if docs.capabilities.history.level == "full" else ())

    async def test_D1_what_another_process_ran_and_is_gone_is_run(self, world: World, tmp_path: Path) -> None:
        """A process that tells states goes on where each partition stands: its item may have come and gone since."""
        job = _job(world, tmp_path)
        docs = await world.stream()
        adapter = able(docs.hub.adapter)
        worker = await Worker.start(job)
        try:
            made = await docs.set("g", "x", {"n": 1})

            async def saved() -> bool:
                (status,) = await Runner(adapter, []).status()
                return any(partition.cursor >= made.position for partition in status.partitions)

            await eventually(saved, "the run in a checkpoint")
            await worker.kill()
            await docs.delete("g", "x")
            worker = await Worker.start(job)
            await _progress(job, 4)
        finally:
            await worker.kill()
        ends = {line.position: line.id for line in read_journal(job.journal) if line.kind == "end"}
        assert list(ends.values()) == ["x", "x"]

    async def test_D5_a_frozen_worker_is_fenced(self, world: World, tmp_path: Path) -> None:
        """RELIABILITY 23: it wakes up, believes that it owns its partitions, and may move nothing."""
        job = _job(world, tmp_path, pause=0.02)
        docs = await world.stream()
        adapter = able(docs.hub.adapter)
        workers = [await Worker.start(job), await Worker.start(job)]
        try:
            n = 0

            async def both() -> bool:
                nonlocal n
                for _ in range(10):
                    await docs.set("g", f"{n % 7}", {"n": n})
                    n += 1
                return len({line.worker for line in read_journal(job.journal)}) == 2

            await eventually(both, "both processes to have their share")
            workers[0].freeze()
            frozen = workers[0].process.pid
            for _ in range(70):
                await docs.set("g", f"{n % 7}", {"n": n})
                n += 1
            await _complete(job, docs, n, without=frozen)
            epochs = await _epochs(adapter)
            workers[0].thaw()
            for _ in range(70):
                await docs.set("g", f"{n % 7}", {"n": n})
                n += 1
            await _complete(job, docs, n)
            assert all(after >= before for before, after in zip(epochs, await _epochs(adapter), strict=True))
        finally:
            for worker in workers:
                worker.thaw()
                await worker.kill()
        lines = read_journal(job.journal)
        judge(lines, every=range(n) if docs.capabilities.history.level == "full" else (), fenced=frozen)

    async def test_D4_a_change_that_kills_its_worker_is_buried(self, world: World, tmp_path: Path) -> None:
        """RELIABILITY 5, and worse: the handler takes the process with it."""
        job = _job(world, tmp_path, poison="killer", attempts=3, lease=0.5)
        docs = await world.stream()
        adapter = able(docs.hub.adapter)
        await docs.set("g", "killer", {"n": 0})
        await docs.set("g", "fine", {"n": 1})
        worker = await Worker.start(job)
        try:
            given_up: list[str | None] = []

            async def killed_or_buried() -> bool:
                nonlocal given_up
                killed = worker.process.returncode is not None
                letters = await (await Runner(adapter, []).dead_letters(("journal", *KEY[1:]))).list()
                given_up = [letter.change.id for letter in letters]
                return killed or bool(given_up)

            for _ in range(MOST_DEATHS):
                await eventually(killed_or_buried, "the killer to kill its worker, or to be buried")
                if given_up:
                    break
                worker = await Worker.start(job)
            assert given_up == ["killer"], "the killer is buried, and nobody else with it"
            await docs.set("g", "after", {"n": 2})
            await eventually(
                when(
                    lambda: {line.id for line in read_journal(job.journal) if line.kind == "end"} >= {"fine", "after"}
                ),
                "the others to be handled",
            )
        finally:
            await worker.kill()


class Running:
    """A runner for the length of a block, whose triggers hold their partitions when it begins."""

    def __init__(self, adapter: Adapter, triggers: Sequence[Trigger], **options: Any) -> None:
        self.runner = Runner(adapter, triggers, lease=LEASE, **options)

    async def __aenter__(self) -> Runner:
        await self.runner.start()
        return self.runner

    async def __aexit__(self, *_: object) -> None:
        await self.runner.stop()


def judge(lines: Sequence[Line], *, every: Iterable[int] = (), fenced: int | None = None) -> None:
    """D1 and D2 of what worker processes wrote down; change ``n`` is one of item ``n % 7``.

    ``every``: the numbers that must have been handled. ``fenced``: the process whose runs,
    begun before it was cut off, may overlap others.
    """
    ended = {line.n for line in lines if line.kind == "end"}
    assert set(every) <= ended, f"never handled: {sorted(set(every) - ended)[:20]}"
    done: dict[str, set[int]] = {}
    for line in lines:
        if line.kind == "end":
            done.setdefault(line.id, set()).add(line.n)
        elif line.worker != fenced:
            waiting = [n for n in every if f"{n % 7}" == line.id and n < line.n and n not in done.get(line.id, ())]
            assert not waiting, f"{line.n} of item {line.id} began before {waiting}"


def able(adapter: Adapter) -> Adapter:
    """The adapter; skip the test where the backend declares that triggers cannot run."""
    if missing := lacking(adapter):
        pytest.skip(f"triggers need what is declared unsupported: {missing}")
    return adapter


def _job(world: World, folder: Path, **options: Any) -> Job:
    try:
        make = world.harness.maker(world.settings())
    except Cannot as reason:
        pytest.skip(str(reason))
    return Job(make, world.settings(), folder / "journal", **{"lease": LEASE, **options})


def when(check: Callable[[], bool]) -> Callable[[], Any]:
    """A condition as `eventually` takes it."""

    async def checked() -> bool:
        return check()

    return checked


def _ends(handled: dict[str, list[int]], items: int, last: int) -> bool:
    return len(handled) == items and all(numbers[-1] == last for numbers in handled.values())


async def settled(seen: Seen, count: int) -> None:
    """Wait until so many runs were seen."""
    await eventually(when(lambda: len(seen.runs) >= count), f"{count} runs")


async def _progress(job: Job, lines: int) -> None:
    await eventually(when(lambda: len(read_journal(job.journal)) >= lines), "the workers to go on")


async def _complete(job: Job, docs: Any, n: int, without: int | None = None) -> None:
    """Wait until the last change of each item was handled: the deadline is for each step on the way there."""
    last = {f"{number % 7}": number for number in range(max(0, n - 7), n)}
    had = 0

    def ended() -> list[Line]:
        return [line for line in read_journal(job.journal) if line.kind == "end" and line.worker != without]

    def complete(lines: Sequence[Line]) -> bool:
        return all(any(line.id == id and line.n == number for line in lines) for id, number in last.items())

    async def more() -> bool:
        return len(ended()) > had

    while not complete(lines := ended()):
        had = len(lines)
        assert had < 20 * n, "changes are handled again and again, and some never"
        await eventually(more, "each item's last change to be handled")


async def _epochs(adapter: Adapter) -> list[int]:
    (status,) = await Runner(adapter, []).status()
    return [partition.epoch for partition in status.partitions]
