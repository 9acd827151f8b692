"""What one flush stores of a partition, and what becomes true when the store has it (rules 15-18)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import orjson

from motia_core.model import Write
from motia_core.triggers.control import put, remove
from motia_core.triggers.entries import Entry, State
from motia_core.triggers.partition import PARKED, PARKED_PER_KEY, Partition
from motia_core.triggers.records import (
    PartitionRecord,
    dead_group,
    encode_parked,
    lost_group,
    parked_group,
    part_group,
    part_id,
    place,
    retry_group,
)


@dataclass(slots=True, kw_only=True)
class Snapshot:
    """One attempt to store a partition. Only what stands here is true once it is acknowledged."""

    partition: Partition
    record: PartitionRecord
    writes: list[Write]
    size: int
    finished: int
    parked: list[tuple[Entry, int, int]] = field(default_factory=list)
    """With the attempts and runs that were written."""
    buried: list[Entry] = field(default_factory=list)
    deleted: list[Entry] = field(default_factory=list)
    revived: list[Entry] = field(default_factory=list)
    ticked: list[Entry] = field(default_factory=list)
    gap: tuple[str, str, str] | None = None
    release: bool = False
    covered: int = 0
    """Of a queue: how many of its settled messages."""


class _Room:
    """How much a batch still takes."""

    def __init__(self, writes: int, size: int, value: int) -> None:
        self.writes, self.size, self.value = writes, size, value

    def take(self, writes: int, size: int = 0) -> bool:
        if writes > self.writes or size > self.size:
            return False
        self.writes -= writes
        self.size -= size
        return True


def take(partition: Partition, *, nonce: str, max_writes: int, max_bytes: int, max_value: int) -> Snapshot:
    """The next flush of a partition: as much as fits into one batch, in an order that any prefix may stop at."""
    # The record itself, and the notice; one change must fit beside them.
    room = _Room(max_writes - 2, max_bytes - 4_096, min(max_value, max_bytes - 8_192))
    p = partition
    snapshot = Snapshot(
        partition=p,
        record=PartitionRecord(p.owner, p.epoch, nonce, p.cursor),
        writes=[],
        size=4_096,
        finished=p.finished,
        covered=len(p.covered),
    )
    passing: set[Entry] = set()
    _tick(snapshot, room)
    complete = _delete(snapshot, room)
    complete = _bury(snapshot, room, passing) and complete
    complete = _park(snapshot, room, passing) and complete
    complete = _revive(snapshot, room) and complete
    cursor, held_back = reach(p, passing)
    if p.gap is not None and not p.draining and complete and not held_back and room.take(1, 1_024):
        snapshot.gap = p.gap
        if p.room.topic is None:
            _report_gap(snapshot, p.gap)
        cursor = p.gap[1]
    if snapshot.gap is None:
        settled = [e.position for e in held_back if e.state == State.DONE or (e in passing and e.state == State.DYING)]
        settled += [e.position for e in snapshot.buried if e not in held_back]
        settled += p.done
        done = sorted({position for position in settled if position > cursor})
    else:
        done = sorted(position for position in p.done if position > cursor) if p.gap and p.gap[1] >= p.read else []
    snapshot.release = p.draining and not p.running and complete
    new_era = snapshot.gap is not None and snapshot.gap[1] < p.read
    snapshot.record = PartitionRecord(
        owner=None if snapshot.release else p.owner,
        epoch=p.epoch,
        nonce=nonce,
        cursor=cursor,
        done=done,
        crashes=0 if p.cleared else p.crashes,
        era=p.era + new_era,
        parked=p.stored_count
        + sum(not e.stored for e, _, _ in snapshot.parked)
        + len(snapshot.revived)
        + len(snapshot.ticked)
        - sum(e.stored for e in (*snapshot.deleted, *snapshot.buried)),
        skip=[part for part in p.skip_list if part[2] > cursor and not new_era],
        fresh=p.fresh and snapshot.gap is None,
    )
    record = put(part_group(p.uid), part_id(p.number), snapshot.record.encode(), p.version)
    snapshot.writes.insert(0, record)
    snapshot.size = max_bytes - room.size + len(record.json or b"")
    return snapshot


def reach(partition: Partition, passing: set[Entry]) -> tuple[str, list[Entry]]:
    """How far everything is settled or stored (rule 16), and what was read after it."""
    order = partition.order
    for index, entry in enumerate(order):
        if not (entry.state == State.DONE or entry.stored or entry in passing):
            if partition.ahead or passing:
                return entry.before, [order[i] for i in range(index, len(order))]
            return entry.before, [entry]
    return partition.read, []


def acknowledge(snapshot: Snapshot, version: str) -> None:
    """The store has it: what was so in it is so."""
    p = snapshot.partition
    record = snapshot.record
    p.version, p.nonce = version, record.nonce
    p.cursor, p.crashes, p.skip_list, p.fresh = record.cursor, record.crashes, record.skip, record.fresh
    p.stored_count = record.parked
    p.unsettled = p.alone = False
    p.attempts.clear()
    saved = snapshot.finished
    p.finished -= snapshot.finished
    for entry, attempts, runs in snapshot.parked:
        if not entry.stored and entry.state != State.DONE:
            p.open -= 1
            p.stored[entry.position] = entry
        elif not entry.stored:
            p.deletes.append(entry)
        entry.stored = True
        if entry.attempts == attempts:
            entry.unwritten = False
        saved += _saved(entry, runs)
    if snapshot.covered:
        p.room.cover(p.covered[: snapshot.covered])
        del p.covered[: snapshot.covered]
    gone = {id(entry) for entry in snapshot.deleted}
    p.deletes = [entry for entry in p.deletes if id(entry) not in gone]
    for entry in snapshot.deleted:
        entry.stored = False
    p.unsaved -= saved
    p.room.unsaved -= saved
    if p.done:
        p.done = {position for position in p.done if position > p.cursor}
    p.advance()
    if snapshot.gap is not None:
        p.gap = None
        p.era, p.read = record.era, snapshot.gap[1]
        p.done = set(record.done)
    p.gate()
    for entry in snapshot.buried:
        del p.dying[entry]
        saved = _saved(entry, entry.runs)
        p.unsaved -= saved
        p.room.unsaved -= saved
        if entry.stored:
            entry.stored = False
            p.stored.pop(entry.position, None)
            p.open += 1  # which `settle` takes away again
        p.settle(entry)
        p.room.buried(entry)
        if p.room.topic is not None:
            p.room.cover([p.covered.pop()])
    revived = {id(entry) for entry in snapshot.revived}
    p.revivals = [entry for entry in p.revivals if id(entry) not in revived]
    for entry in snapshot.revived:
        entry.stored = True
        p.revive(entry)
    ticked = {id(entry) for entry in snapshot.ticked}
    p.ticks = [entry for entry in p.ticks if id(entry) not in ticked]
    for entry in snapshot.ticked:
        entry.stored = True
        p.append(entry)
    trying = p.trying
    if (
        trying is not None
        and trying.state == State.QUEUED
        and (trying, trying.attempts, trying.runs) in snapshot.parked
    ):
        p.room.ready.append(trying)
    p.reopen()


def _saved(entry: Entry, runs: int) -> int:
    """Runs of a parked entry whose outcome is stored now."""
    saved = runs - entry.saved_runs
    if saved <= 0:
        return 0
    entry.saved_runs = runs
    return saved


def _delete(snapshot: Snapshot, room: _Room) -> bool:
    p = snapshot.partition
    for entry in p.deletes:
        if not room.take(1):
            return False
        snapshot.writes.append(remove(parked_group(p.uid), place(entry.hash, entry.position)))
        snapshot.deleted.append(entry)
    return True


def _bury(snapshot: Snapshot, room: _Room, passing: set[Entry]) -> bool:
    p = snapshot.partition
    for entry in p.dying:
        json = encode(entry, room.value)
        if not room.take(2, len(json)):
            return False
        id = place(entry.hash, entry.position)
        snapshot.writes.append(put(dead_group(p.uid), id, json))
        if entry.stored:
            snapshot.writes.append(remove(parked_group(p.uid), id))
        snapshot.buried.append(entry)
        passing.add(entry)
    return True


def _park(snapshot: Snapshot, room: _Room, passing: set[Entry]) -> bool:
    """Heads that must be parked, and behind each all of its key, as long as each one fits (rule 17)."""
    p = snapshot.partition
    heads = dict.fromkeys(p.parkers)
    if p.gap is not None and not p.draining:
        heads |= dict.fromkeys(e for e in p.order if not e.stored and e.state not in (State.DONE, State.DYING))
    elif p.ahead > p.room.window and (first := _holding_back(p)) is not None:
        heads[first] = None
    total, limit, complete = len(p.stored), None, True
    for head in heads:
        depth = 0
        entry: Entry | None = head
        while entry is not None and entry.state not in (State.DONE, State.DYING):
            depth += 1
            if entry not in passing and (not entry.stored or entry.unwritten):
                if not entry.stored and (depth > PARKED_PER_KEY or total >= PARKED) and p.gap is None:
                    key = f"{entry.key[0]!r}, {entry.key[1]!r}"
                    limit = f"{depth - 1} changes of item ({key}) and {total} in all are parked"
                    break
                json = encode(entry)
                if len(json) > room.value:
                    complete = complete and p.draining
                    break
                if not room.take(1, len(json)):
                    p.limit = limit
                    return False
                total += not entry.stored
                snapshot.writes.append(put(parked_group(p.uid), place(entry.hash, entry.position), json))
                runs = entry.runs - (entry.state == State.RUNNING)
                snapshot.parked.append((entry, entry.attempts, runs))
                passing.add(entry)
                if entry.state == State.RUNNING:
                    p.parkers[entry] = None
            entry = entry.next
    p.limit = limit
    return complete


def _holding_back(p: Partition) -> Entry | None:
    """The run that everything behind it waits for, if it is more than a window that is settled (rule 17)."""
    first = next((e for e in p.order if not e.stored and e.state != State.DONE), None)
    if first is None or first.state != State.RUNNING:
        return None
    settled = sum(entry.state == State.DONE for entry in p.order)
    return first if settled > p.room.window else None


def _revive(snapshot: Snapshot, room: _Room) -> bool:
    p = snapshot.partition
    if p.draining:
        return True
    for entry in p.revivals:
        json = encode(entry)
        if not room.take(3, len(json)):
            return False
        id = place(entry.hash, entry.position)
        snapshot.writes += [
            put(parked_group(p.uid), id, json),
            remove(dead_group(p.uid), id),
            remove(retry_group(p.uid), id),
        ]
        snapshot.revived.append(entry)
    return True


def _tick(snapshot: Snapshot, room: _Room) -> None:
    """The first to be taken: the cursor lies behind them already."""
    p = snapshot.partition
    for entry in p.ticks:
        json = encode(entry)
        room.take(1, len(json))
        snapshot.writes.append(put(parked_group(p.uid), place(entry.hash, entry.position), json))
        snapshot.ticked.append(entry)


def _report_gap(snapshot: Snapshot, gap: tuple[str, str, str]) -> None:
    p = snapshot.partition
    after, to, reason = gap
    json = orjson.dumps({"from": after, "to": to, "reason": reason, "partition": p.number})
    snapshot.writes.append(put(lost_group(p.uid), f"{part_id(p.number)}{after}", json))


def encode(entry: Entry, limit: int | None = None) -> bytes:
    """An entry's parked record; over ``limit`` bytes its data is left out."""
    arguments = {"attempts": entry.attempts, "error": entry.error, "era": entry.era, "matched": entry.matched}
    json = encode_parked(entry.change, **arguments)  # type: ignore[arg-type]
    if limit is not None and len(json) > limit:
        arguments["error"] = f"{entry.error} (its data of {len(entry.change.json or b'')} bytes did not fit)"
        json = encode_parked(replace(entry.change, json=None), **arguments)  # type: ignore[arg-type]
    return json
