"""One partition that this process owns: what was read, what is settled, what must be stored."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from motia_core.model import Change
from motia_core.triggers.definition import OrderKey
from motia_core.triggers.entries import Entry, State
from motia_core.triggers.records import PartitionRecord
from motia_core.triggers.turn import Turn

if TYPE_CHECKING:
    from motia_core.triggers.checkpoint import Snapshot

BUFFER = 1_000
"""Changes read and not yet settled or parked, at which a partition stops reading for a while."""

PARKED_PER_KEY = 1_000
PARKED = 10_000

CAREFUL_AFTER = 3
"""Owners that died in a row, after which attempts are written down before they start."""


class Room(Protocol):
    """What a partition asks of its trigger's room."""

    ready: deque[Entry]
    """Entries whose turn it is."""
    unsaved: int
    """Runs whose outcome the store does not know."""
    finished: int
    """Runs that have settled their change since the last flush began."""

    max_attempts: int
    """After which a change is buried."""
    window: int
    """Settled changes that one that still runs may hold back."""
    order_key: Callable[[Change], OrderKey]
    topic: str | None
    turn: Turn
    """The process's."""

    def hurry(self) -> None:
        """Something waits for a flush."""

    def retry(self, entry: Entry) -> None:
        """Let it wait for its next attempt."""

    def pump(self) -> None:
        """Start what may start."""

    def buried(self, entry: Entry) -> None:
        """Its dead letter is stored."""

    def saved(self) -> None:
        """A flush was acknowledged: there is room again."""

    def cover(self, messages: list[str]) -> None:
        """The store knows that these messages are settled."""


class Partition:
    """The part of a trigger's changes whose keys fall into one range of hashes."""

    def __init__(
        self, room: Room, uid: str, number: int, hashes: tuple[int, int], record: PartitionRecord, version: str
    ) -> None:
        self.room = room
        self.uid = uid
        self.number = number
        self.hashes = hashes
        self.version = version
        self.owner = record.owner
        self.epoch = record.epoch
        self.nonce = record.nonce
        self.cursor = record.cursor
        """As the store has it."""
        self.era = record.era
        self.crashes = record.crashes
        self.skip_list = record.skip
        self.fresh = record.fresh
        self.stored_count = record.parked

        self.read = record.cursor
        """How far the replay has read, and everything up to there is in here."""
        self.reads_here = False
        """It was this process that read up to there."""
        self.order: deque[Entry] = deque()
        """What was read after the last position with everything before it settled or stored."""
        self.ahead = 0
        """Settled entries that others in `order` hold back."""
        self.done: set[str] = set(record.done)
        """Settled positions after the cursor that are not in `order`."""
        self.revivals: list[Entry] = []
        """Dead letters that somebody asked to be tried again."""
        self.tails: dict[OrderKey, Entry] = {}
        """The last entry of each key."""
        self.stored: dict[str, Entry] = {}
        """Parked in the store, by position."""
        self.parkers: dict[Entry, None] = {}
        """Heads of keys that are parked, or have to be."""
        self.dying: dict[Entry, None] = {}
        self.deletes: list[Entry] = []
        """Settled ones that the store still holds as parked."""
        self.open = 0
        """Entries that are neither settled nor stored."""
        self.running: dict[Entry, Callable[[], None]] = {}
        """Handlers that have not ended, and how to cancel them."""
        self.held: deque[Entry] = deque()
        """Ready entries that may not start for now."""
        self.unsaved = 0
        self.finished = 0
        """Settled since the last snapshot that was acknowledged."""

        self.ticks: list[Entry] = []
        """Of a cron trigger: ticks that are stored and become runs in one flush."""
        self.covered: list[str] = []
        """Of a queue: messages that are settled, and are still there."""
        self.remembered: set[str] | None = None
        """While what lies in the queue is read: messages that were settled meanwhile."""
        self.loaded = False
        self.draining = False
        """To be given back: nothing starts any more."""
        self.gone = False
        """Not ours any more."""
        self.gap: tuple[str, str, str] | None = None
        """Changes that are lost: from (exclusive), to (inclusive), why."""
        self.limit: str | None = None
        """Why nothing more is read, for as long as that is so."""
        self.closed = True
        """Nothing may go straight to the workers."""
        self.trying: Entry | None = None
        """While careful: the one entry whose turn it is."""
        self.suspects: set[Entry] = set()
        """What an owner that died may have been running; taken out once an attempt has ended here."""
        self.suspecting = record.crashes > 0
        """What is read now may be among them."""
        self.attempts: dict[str, Snapshot] = {}
        """Flushes whose outcome may still show, by nonce."""
        self.unsettled = False
        """The last flush's outcome is not known: it must be settled before the next."""
        self.alone = False
        """Its last flush failed together with others': the next goes by itself."""
        self.saved_at = 0.0

    # -- gates -----------------------------------------------------------------------

    @property
    def careful(self) -> bool:
        """Owners died here again and again: one handler at a time, written down first."""
        return self.crashes >= CAREFUL_AFTER

    @property
    def cleared(self) -> bool:
        """Whatever may have killed the owners before has had its turn, and this one lives."""
        return not self.suspecting and not self.suspects

    def caught_up(self) -> None:
        """What comes from now on, no former owner has seen."""
        self.suspecting = False

    def gate(self) -> None:
        """Something has changed that opens or shuts it."""
        self.closed = self.draining or self.gone or not self.loaded or self.gap is not None or self.careful

    def offer(self, entry: Entry) -> None:
        """It is this entry's turn."""
        if self.closed:
            self.held.append(entry)
            if self.careful:
                self.try_next()
        else:
            self.room.ready.append(entry)

    def reopen(self) -> None:
        """A gate may have opened."""
        self.gate()
        if not self.closed:
            if self.held:
                self.room.ready.extend(self.held)
                self.held.clear()
            self.room.pump()
        elif self.careful:
            self.try_next()

    def try_next(self) -> None:
        """While careful: have the next attempt written down; it starts when that is stored (rule 22).

        Only if no other partition of the process has such an attempt under way.
        """
        if self.trying is not None or self.running or self.draining or self.gone or not self.loaded or self.gap:
            return
        waiting = [entry for entry in self.held if entry.state == State.QUEUED]
        self.held.clear()
        if not waiting:
            return
        if not self.room.turn.take(self):
            self.held.extend(waiting)
            return
        waiting.sort(key=lambda entry: entry.order)
        entry, *rest = waiting
        self.held.extend(rest)
        self.trying = entry
        entry.attempts += 1
        entry.counted = True
        entry.unwritten = True
        self.parkers[entry] = None
        self.room.hurry()

    # -- what the feed brings --------------------------------------------------------

    def push(self, change: Change, key: OrderKey, hash16: int, before: str) -> None:
        """A change of this partition, in order; ``before`` is the position that was read before it."""
        position = change.position
        if position <= self.read:
            return
        if self.stored:
            parked = self.stored.get(position)
            if parked is not None:
                if self.order:
                    self.order.append(parked)
                return
        if self.done and position in self.done:
            return
        if self.skip_list and any(low <= hash16 < high and position <= to for low, high, to in self.skip_list):
            return
        entry = Entry(self, change, key, hash16, before if before > self.read else self.read, self.era)
        self.order.append(entry)
        self.open += 1
        if self.suspecting:
            self._suspect(entry)
        tail = self.tails.get(key)
        self.tails[key] = entry
        if tail is not None:
            tail.next = entry
        elif self.closed:
            self.offer(entry)
        else:
            self.room.ready.append(entry)

    def _suspect(self, entry: Entry) -> None:
        self.suspects.add(entry)
        if self.open >= BUFFER:  # no owner reads more before these are settled
            self.suspecting = False

    def progress(self, position: str) -> None:
        """The feed has read up to there."""
        self.reads_here = True
        if position > self.read:
            self.read = position

    @property
    def full(self) -> bool:
        """Enough was read for now."""
        return self.open >= BUFFER or self.limit is not None or self.gap is not None

    @property
    def hungry(self) -> bool:
        """More may be read again."""
        return self.open <= BUFFER // 2 and self.limit is None and self.gap is None

    def load(self, entries: list[Entry]) -> None:
        """What is parked in the store, before anything else is read."""
        for entry in sorted(entries, key=lambda entry: entry.order):
            entry.stored = True
            self.stored[entry.position] = entry
            self._chain(entry)
        if self.suspecting:
            self.suspects.update(entries)
        self.stored_count = len(entries)
        self.loaded = True
        self.gate()
        heads: dict[OrderKey, Entry] = {}
        for entry in self.stored.values():
            heads.setdefault(entry.key, entry)
        for entry in sorted(heads.values(), key=lambda entry: entry.order):
            self.parkers[entry] = None
            self.begin(entry)

    def begin(self, entry: Entry) -> None:
        """A parked entry is the first of its key: run it, let it wait, or bury it."""
        if entry.attempts >= self.room.max_attempts:
            self.bury(entry)
        elif entry.attempts > 0:
            entry.state = State.WAITING
            self.room.retry(entry)
        else:
            self.offer(entry)

    def revive(self, entry: Entry) -> None:
        """A dead letter that is parked again goes to the head of its key (rule 25)."""
        head = self.head_of(entry.key)
        self.stored[entry.position] = entry
        if head is not None and (head.state in (State.RUNNING, State.DYING) or head is self.trying):
            entry.next = head.next
            head.next = entry
            if entry.next is None:
                self.tails[entry.key] = entry
            return
        if head is None:
            self.tails[entry.key] = entry
        else:
            entry.next = head
            self.parkers.pop(head, None)
            head.state = State.QUEUED
            self._withdraw(head)
        self.parkers[entry] = None
        self.begin(entry)

    def head_of(self, key: OrderKey) -> Entry | None:
        """The first entry of a key that is not settled."""
        if key not in self.tails:
            return None
        of_key = {e for e in (*self.order, *self.stored.values()) if e.key == key and e.state != State.DONE}
        followers = {entry.next for entry in of_key}
        return next(iter(of_key - followers), None)

    def _withdraw(self, entry: Entry) -> None:
        """It is not this entry's turn after all."""
        for queue in (self.room.ready, self.held):
            if entry in queue:
                queue.remove(entry)

    def _chain(self, entry: Entry) -> None:
        tail = self.tails.get(entry.key)
        self.tails[entry.key] = entry
        if tail is not None:
            tail.next = entry

    # -- outcomes --------------------------------------------------------------------

    def started(self, entry: Entry) -> None:
        """Its handler begins."""
        entry.state = State.RUNNING
        entry.runs += 1
        self.unsaved += 1
        self.room.unsaved += 1

    def succeeded(self, entry: Entry) -> None:
        """Its handler has ended well."""
        runs = entry.runs - entry.saved_runs
        self.finished += runs
        self.room.finished += runs
        entry.saved_runs = entry.runs
        self.suspects.discard(entry)
        self.settle(entry)

    def failed(self, entry: Entry, error: str) -> None:
        """Its handler has failed: park it, and try again or bury it (rule 14)."""
        entry.error = error
        self.suspects.discard(entry)
        if not entry.counted:
            entry.attempts += 1
        entry.counted = False
        entry.unwritten = True
        self.parkers[entry] = None
        self._tried(entry)
        if entry.attempts >= self.room.max_attempts:
            self.bury(entry)
        else:
            entry.state = State.WAITING
            self.room.retry(entry)

    def tick(self, change: Change, key: OrderKey, hash16: int) -> None:
        """A tick is due: it runs once the store has it, and the cursor behind it, in one flush."""
        self.ticks.append(Entry(self, change, key, hash16, change.position, self.era))
        self.read = change.position
        self.room.hurry()

    def append(self, entry: Entry) -> None:
        """A tick that was stored takes its place behind those before it."""
        self.stored[entry.position] = entry
        first = entry.key not in self.tails
        self._chain(entry)
        if first:
            self.begin(entry)

    def drain(self) -> None:
        """Nothing starts any more; what runs may end."""
        self.draining = True
        self.gate()
        entry = self.trying
        if entry is not None and entry not in self.running:
            self.trying = None
            self.uncount(entry)
            self._withdraw(entry)
            self.held.append(entry)
        if self.trying is None:
            self.room.turn.give(self)
        self.room.hurry()

    def forgotten(self) -> None:
        """It is not ours any more."""
        self.gone = True
        self.gate()
        self.room.turn.give(self)

    def overdue(self, entry: Entry) -> None:
        """Its handler is cancelled, as it takes too long: it has not killed anybody."""
        if self.trying is entry:
            self.room.turn.give(self)

    def uncount(self, entry: Entry) -> None:
        """Its attempt was counted before it began, and it did not come to an end by itself."""
        if entry.counted:
            entry.counted = False
            entry.attempts -= 1
            entry.unwritten = True
            self.parkers[entry] = None

    def interrupted(self, entry: Entry) -> None:
        """Its handler was cancelled by a shutdown: no attempt."""
        self.uncount(entry)
        entry.state = State.QUEUED
        self._tried(entry)
        self.held.append(entry)

    def bury(self, entry: Entry) -> None:
        """Out of attempts. The next of its key starts when the dead letter is stored (rule 12)."""
        entry.state = State.DYING
        self.suspects.discard(entry)
        self.dying[entry] = None
        self.room.hurry()

    def settle(self, entry: Entry) -> None:
        """It has succeeded, or its dead letter is stored."""
        entry.state = State.DONE
        if self.room.topic is not None and entry.change.id is not None:
            self.covered.append(entry.change.id)
            if self.remembered is not None:
                self.remembered.add(entry.change.id)
        if entry.stored:
            self.deletes.append(entry)
            self.stored.pop(entry.position, None)
        else:
            self.open -= 1
        order = self.order
        if order and order[0] is entry:
            order.popleft()
            if self.ahead or self.stored:
                self.advance()
        elif entry.era == self.era and entry.position > self.read:
            self.done.add(entry.position)
        elif order:
            self.ahead += 1
        self.parkers.pop(entry, None)
        following = entry.next
        if following is None:
            del self.tails[entry.key]
        else:
            entry.next = None
            if following.stored or following.unwritten:
                self.parkers[following] = None
                self.begin(following)
            else:
                self.offer(following)
        if self.trying is entry:
            self._tried(entry)

    def advance(self) -> None:
        """Forget what no longer holds the cursor back."""
        order = self.order
        while order and (order[0].state == State.DONE or order[0].stored):
            if order.popleft().state == State.DONE and self.ahead:
                self.ahead -= 1
        if not order:
            self.ahead = 0

    def _tried(self, entry: Entry) -> None:
        if self.trying is entry:
            self.trying = None
            self.room.turn.give(self)
        if self.careful:
            self.try_next()

    def recover(self, messages: list[Change], position: str, hash_of: Callable[[OrderKey], int]) -> None:
        """Of a queue: take up what lies in it at a position, and go on from there.

        The messages are parked before anything else starts; what is known already is left out.
        """
        known = {entry.change.id for entry in (*self.order, *self.stored.values())}
        known.update(self.remembered or ())
        self.remembered = None
        low, high = self.hashes
        for change in messages:
            key = self.room.order_key(change)
            hash16 = hash_of(key)
            if change.id in known or not low <= hash16 < high:
                continue
            entry = Entry(self, change, key, hash16, self.read, self.era)
            self.order.append(entry)
            self.open += 1
            if self.suspecting:
                self._suspect(entry)
            first = key not in self.tails
            self._chain(entry)
            if first:
                self.held.append(entry)
        self.lost(position, "")

    def lost(self, floor: str, reason: str) -> None:
        """The history after `read` is gone: say so before anything else of this partition starts (rule 21)."""
        self.gap = (self.read, floor, reason)
        self.gate()
        self.room.hurry()

    @property
    def dirty(self) -> bool:
        """Whether a flush has anything but progress to store."""
        return bool(
            self.finished
            or self._must_park()
            or self.dying
            or self.deletes
            or self.revivals
            or self.ticks
            or self.gap is not None
            or self.unsettled
            or (self.draining and not self.running)
        )

    def _must_park(self) -> bool:
        for head in self.parkers:
            entry: Entry | None = head
            while entry is not None:
                if not entry.stored or entry.unwritten:
                    return True
                entry = entry.next
        return False
