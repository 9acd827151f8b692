"""What must be true, at every write that lands, at every start of a handler, and at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from motia_core.model import Change, StreamSpec, Write
from motia_core.triggers import RunInfo
from motia_core.triggers.partition import CAREFUL_AFTER
from motia_core.triggers.records import CONTROL, NOTICE, hash_key, partition_of
from motia_core.values import decode

from .world import Process, Violated, World


@dataclass(slots=True, eq=False)
class Run:
    """One run of a handler."""

    process: Process
    change: Change
    epoch: int


@dataclass(slots=True)
class Checks:
    """One trigger's history, as an all-seeing observer has it."""

    world: World
    partitions: int
    window: int
    attempts: int
    changes: list[Change] = field(default_factory=list)
    """All that the trigger has to handle, in order."""
    claims: dict[tuple[str, int], Process] = field(default_factory=dict)
    active: list[Run] = field(default_factory=list)
    succeeded: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    started: Counter[str] = field(default_factory=Counter)
    losers: set[str] = field(default_factory=set)
    """Owners from whom something was claimed while they were gone."""
    log: list[str] = field(default_factory=list)
    over: bool = False
    """Nothing counts any more."""

    def note(self, text: str) -> None:
        self.log.append(f"{self.world.loop.time() - self.world.began:8.3f} {text}")

    def violated(self, text: str) -> None:
        self.note(f"VIOLATED: {text}")
        raise Violated(text)

    # -- the store --------------------------------------------------------------------

    def rows(self, prefix: str) -> dict[str, dict[str, Any]]:
        state = self.world.store.stream("motia", CONTROL.name)
        rows = {}
        for group, items in state.groups.items():
            if group == prefix or (prefix.endswith(":") and group.startswith(prefix)):
                rows.update({id: decode(row.json) for id, row in items.items()})
        return rows

    def partition_of(self, change: Change) -> int:
        return partition_of(hash_key((change.group_id, change.id)), self.partitions)

    def landed(self, process: Process, stream: StreamSpec, writes: Sequence[Write]) -> None:
        """A write of a process is about to take effect."""
        if self.over:
            return
        if stream.name != CONTROL.name:
            return
        parts = self.rows("part:")
        for write in writes:
            kind = write.group.partition(":")[0]
            if kind == "part" and write.kind == "set" and write.id in parts:
                assert write.json is not None
                self._moved(process, write.id, parts[write.id], decode(write.json))
            elif kind in ("parked", "dead") and write.id is not None:
                number = partition_of(int(write.id[:4], 16), self.partitions)
                owner = self.claims.get((f"{number:05d}", parts[f"{number:05d}"]["epoch"]))
                if owner is not process or parts[f"{number:05d}"]["owner"] is None:
                    self.violated(f"{process.host.name} {kind} {write.kind} in partition {number}, which it lost")

    def _moved(self, process: Process, id: str, old: dict[str, Any], new: dict[str, Any]) -> None:
        if new["epoch"] < old["epoch"]:
            self.violated(f"the epoch of partition {id} went back")
        if new["cursor"] < old["cursor"]:
            self.violated(f"the cursor of partition {id} went back, from {old['cursor']} to {new['cursor']}")
        if new["epoch"] > old["epoch"]:
            workers = self.rows("workers")
            if old["owner"] is not None and old["owner"] != new["owner"]:
                if old["owner"] in workers:
                    self.violated(f"partition {id} was taken from {old['owner']}, who lives")
                self.losers.add(old["owner"])
            elif old["owner"] is not None:
                self.losers.add(f"{old['owner']} {old['epoch']}")
            self.claims[id, new["epoch"]] = process
            self.note(f"{process.host.name} claims {id} at epoch {new['epoch']} from {old['owner']}")
            return
        if new["owner"] is not None and self.claims.get((id, old["epoch"])) is not process:
            self.violated(f"{process.host.name} moved partition {id}, which it lost")

    # -- handlers ---------------------------------------------------------------------

    def start(self, process: Process, change: Change, info: RunInfo) -> Run:
        """A handler begins."""
        if self.over:
            return Run(process, change, info.epoch)
        id = f"{info.partition:05d}"
        self.note(f"{process.host.name} starts {change.id} {change.position} attempt {info.attempt} epoch {info.epoch}")
        record = self.rows("part:")[id]
        if record["epoch"] != info.epoch or record["owner"] is None or self.claims.get((id, info.epoch)) is not process:
            self.violated(f"{process.host.name} starts {change.position} although partition {id} is not its any more")
        key = (change.group_id, change.id)
        dead, gaps = self.rows("dead:"), list(self.rows("lost:").values())
        for earlier in self.changes:
            if earlier.position >= change.position:
                break
            if (earlier.group_id, earlier.id) == key and not self.is_settled(earlier, dead, gaps):
                self.violated(f"{change.position} starts, but {earlier.position} of its item is not settled")
        for other in self.active:
            if (other.change.group_id, other.change.id) == key and not (other.process.hurt or other.process.host.dead):
                self.violated(f"{change.position} starts while {other.change.position} of its item runs")
        # An attempt that was written down before it began counts even if the process dies of it.
        written = self.started[change.position] if record["crashes"] >= CAREFUL_AFTER else self.failed[change.position]
        if info.attempt > written + 1:
            self.violated(f"{change.position}: attempt {info.attempt} after {written} failed ones")
        self.started[change.position] += 1
        run = Run(process, change, info.epoch)
        self.active.append(run)
        return run

    def end(self, run: Run, outcome: str) -> None:
        """A handler has ended: "ok", "failed" or "cancelled"."""
        if run.process.host.dead or self.over:
            return
        self.active.remove(run)
        self.note(f"{run.process.host.name} ends {run.change.id} {run.change.position}: {outcome}")
        if outcome == "ok":
            self.succeeded[run.change.position] += 1
        elif outcome == "failed":
            self.failed[run.change.position] += 1

    def died(self, process: Process) -> None:
        self.note(f"{process.host.name} dies")
        self.active = [run for run in self.active if run.process is not process]

    # -- the end ----------------------------------------------------------------------

    def is_settled(self, change: Change, dead: dict[str, Any], gaps: list[dict[str, Any]]) -> bool:
        if self.succeeded[change.position]:
            return True
        if any(id.endswith(change.position) for id in dead):
            return True
        number = self.partition_of(change)
        return any(gap["partition"] == number and gap["from"] < change.position <= gap["to"] for gap in gaps)

    def open(self) -> list[Change]:
        """What is neither handled, dead nor reported lost."""
        dead, gaps = self.rows("dead:"), list(self.rows("lost:").values())
        return [change for change in self.changes if not self.is_settled(change, dead, gaps)]

    def finish(self) -> None:
        """Nothing runs any more."""
        if left := self.open():
            self.violated(f"never handled: {[change.position for change in left]}")
        if parked := self.rows("parked:"):
            self.violated(f"still parked: {sorted(parked)}")
        for id, letter in self.rows("dead:").items():
            position = letter["change"]["position"]
            if letter["attempts"] != self.attempts or self.started[position] < self.attempts:
                self.violated(f"dead letter {id}: {letter['attempts']} attempts, {self.failed[position]} failed runs")
            unhurt = not any(process.hurt or process.host.dead for process in self.world.processes)
            if unhurt and self.failed[position] != self.attempts:
                self.violated(f"dead letter {id}: {self.failed[position]} runs failed, without any fault")
        again = sum(count - 1 for count in self.succeeded.values())
        if again > len(self.losers) * self.window:
            self.violated(f"{again} duplicates of {len(self.losers)} unclean takeovers, window {self.window}")
        workers = [id for id in self.rows("workers") if id != NOTICE]
        self.note(f"finished: {len(self.changes)} changes, {again} duplicates, workers {workers}")
