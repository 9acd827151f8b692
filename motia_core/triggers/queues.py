"""Queues: messages are items of a hidden stream, and a queue trigger runs for each (SEMANTICS D7).

The item is the message, not its entry in the log: what retention takes away is found
again in the items. A message is removed when the store knows that every trigger of its
topic has settled it.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import orjson

from motia_core.adapter import Adapter
from motia_core.errors import Conflict, InvalidName, MotiaError
from motia_core.model import ABSENT, Change, Item, StreamSpec, Write
from motia_core.names import check_id
from motia_core.triggers.clock import Clock, SystemClock
from motia_core.triggers.crew import Crew
from motia_core.triggers.definition import Handle, OrderKey, Trigger
from motia_core.triggers.records import NameRecord, PartitionRecord, part_group
from motia_core.values import check_size, encode

if TYPE_CHECKING:
    from motia_core.triggers.runner import Runner

QUEUE = StreamSpec("$queue", hidden=True)
"""The hidden stream that messages lie in; a group is a topic."""

SWEEP = 30.0
"""Seconds between looks for messages that everybody has settled."""

PAGE = 1_000
"""Messages that one sweep looks at."""


class Queue:
    """Puts messages on topics of one storage."""

    def __init__(self, adapter: Adapter, *, max_value_bytes: int = 1_000_000, clock: Clock | None = None) -> None:
        self._adapter = adapter
        self._limit = min(max_value_bytes, adapter.capabilities(QUEUE).max_value_bytes)
        self._clock = clock or SystemClock()

    async def enqueue(
        self, topic: str, data: Any, *, key: str | None = None, origin: tuple[str, str, int] | None = None
    ) -> str:
        """Put a message on a topic; returns its id.

        Messages with the same ``key`` are handled one after the other, in order; without
        one each goes its own way. ``origin`` says which call of which run this is
        (trigger uid, position, number of the call): when the handler runs again, the
        message is not put there twice. Raises `InvalidName`, `InvalidValue`, or what
        the store raises.
        """
        check_id(topic, "topic")
        if key is not None and not isinstance(key, str):
            raise InvalidName(f"a message's key must be text, not {type(key).__name__}")
        encoded = encode(data, path="$.data", depth=1)
        check_size(encoded, self._limit)
        id = secrets.token_hex(16) if origin is None else _id(topic, *origin)
        value = orjson.dumps({"data": orjson.Fragment(encoded), "key": key, "at": self._clock.time() * 1000})
        try:
            await self._adapter.write(QUEUE, [Write("set", topic, id, value, ABSENT)])
        except Conflict:
            if origin is None:
                raise
        return id


def queue_trigger(topic: str, *, key: tuple[str, ...], handle: Handle, **options: Any) -> Trigger:
    """A trigger for each message of a topic; ``change.data["data"]`` is what was enqueued.

    Options are those of `Trigger`. It begins with what lies in the queue, unless told ``start="now"``.
    """

    def accepts(change: Change) -> bool:
        return change.group_id == topic and change.type == "create"

    options.setdefault("start", "beginning")
    return Trigger(key=key, stream=QUEUE, handle=handle, topic=topic, accepts=accepts, order_key=message_key, **options)


def message_key(change: Change) -> OrderKey:
    """The order key of a message: the one it was given, else its own."""
    data = change.data
    key = data.get("key") if isinstance(data, dict) else None
    return (change.group_id, change.id) if key is None else (change.group_id, f"\0{key}")


async def messages_of(adapter: Adapter, topic: str) -> tuple[list[Change], str]:
    """What lies in a queue, the oldest first, and the position up to which that is true."""
    snapshot = await adapter.snapshot(QUEUE, topic, None, limit=None)
    items = sorted(snapshot.items, key=lambda item: (item.value["at"], item.id))
    return [_change(item, number, snapshot.position) for number, item in enumerate(items)], snapshot.position


def _change(item: Item, number: int, position: str) -> Change:
    """A message's create, whose own position is not known any more: behind all before, before all after."""
    at = item.value["at"]
    return Change("create", QUEUE.name, item.group, item.id, item.json, at, item.version, f"{position}+{number:08d}")


def _id(topic: str, uid: str, position: str, call: int) -> str:
    text = "\0".join((topic, uid, position, str(call)))
    return blake2b(text.encode(), digest_size=16).hexdigest()


class Sweeper:
    """Removes messages that every trigger of their topic has settled."""

    def __init__(self, runner: Runner, crew: Crew, topic: str) -> None:
        self._runner = runner
        self._crew = crew
        self._topic = topic
        self._pending: tuple[Sequence[Item], str] | None = None

    async def run(self) -> None:
        """For ever: once a second what was settled here, now and then what was left over."""
        clock = self._runner.clock
        next_sweep = clock.monotonic() + SWEEP
        while True:
            await clock.sleep(1.0)
            try:
                await self.remove_settled()
                if clock.monotonic() >= next_sweep:
                    next_sweep = clock.monotonic() + SWEEP
                    if 0 in self._crew.parts:
                        await self.sweep()
            except MotiaError:
                continue  # the sweep finds them later

    async def remove_settled(self) -> None:
        """At once, where nobody else listens: what has succeeded, and what is a stored dead letter."""
        crew = self._crew
        if len(self._runner.registry.listeners(self._topic)) != 1:
            crew.covered.clear()
            return
        adapter = self._runner.adapter
        size = adapter.capabilities(QUEUE).max_batch_writes
        for settled in (crew.covered, *[partition.covered for partition in crew.parts.values()]):
            while some := settled[:size]:
                await adapter.write(QUEUE, [Write("delete", self._topic, id) for id in dict.fromkeys(some)])
                removed = set(some)
                settled[:] = [id for id in settled if id not in removed]

    async def sweep(self) -> None:
        """What lay there at a position that every listener has passed is settled, dead or parked."""
        adapter = self._runner.adapter
        if self._pending is None:
            snapshot = await adapter.snapshot(QUEUE, self._topic, None, limit=PAGE)
            if snapshot.items:
                self._pending = snapshot.items, snapshot.position
            return
        items, position = self._pending
        await self._runner.registry.refresh()
        for listener in self._runner.registry.listeners(self._topic):
            if not await self._has_passed(listener, position):
                return
        self._pending = None
        for item in items:
            try:
                await adapter.write(QUEUE, [Write("delete", self._topic, item.id, expect=item.version)])
            except Conflict:
                continue

    async def _has_passed(self, listener: NameRecord, position: str) -> bool:
        records = [PartitionRecord.decode(i) for i in await self._runner.control.list(part_group(listener.uid))]
        return all(record.cursor >= position and not record.fresh for record in records)
