"""Updates: those of one item that wait together are worked out one from the other, and written at once.

An update needs the item's state. The last one is kept; it is guarded by count and nonce, so a
stale one costs a second attempt and nothing else. Updates that wait while one is under way make
a chain: one transaction in which each is a write, and so a change, of its own.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from motia_adapters.mongodb import documents
from motia_adapters.mongodb.capabilities import UPDATE_ATTEMPTS
from motia_adapters.mongodb.documents import State
from motia_adapters.mongodb.rooms import Room
from motia_core.errors import Conflict, MotiaError
from motia_core.model import Write, WriteResult

if TYPE_CHECKING:
    from motia_adapters.mongodb.writer import Step, Writer

CHAIN = 64
"""Updates in one transaction, at most."""
CHAIN_BYTES = 4_000_000
KNOWN = 256
"""Items whose last state is kept."""
KNOWN_BYTES = 65_536

Key = tuple[str, str]


@dataclass(slots=True)
class Waiting:
    """One update, until its future is done."""

    write: Write
    future: asyncio.Future[WriteResult]
    attempts: int = 0


class HotItems:
    """The updates of one stream."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._queues: dict[Key, deque[Waiting]] = {}
        self._known: OrderedDict[Key, State] = OrderedDict()

    async def update(self, room: Room, write: Write) -> WriteResult:
        """Do one update. The first of an item's that wait does the work for those that come meanwhile."""
        assert write.id is not None
        key = (write.group, write.id)
        waiting = Waiting(write, asyncio.get_running_loop().create_future())
        queue = self._queues.get(key)
        if queue is not None:
            queue.append(waiting)
            return await waiting.future
        queue = self._queues[key] = deque([waiting])
        try:
            while queue:
                await self._chain(room, key, queue)
        finally:
            del self._queues[key]
            for left in queue:  # only after an error that is none of ours
                left.future.cancel()
        return waiting.future.result()

    async def _chain(self, room: Room, key: Key, queue: deque[Waiting]) -> None:
        taken = [queue.popleft() for _ in range(min(len(queue), CHAIN))]
        try:
            await self._perform(room, key, taken, queue)
        except MotiaError as error:
            self._known.pop(key, None)
            for one in taken:
                if not one.future.done():
                    own = error if len(taken) == 1 else type(error)(str(error))
                    own.__cause__ = error.__cause__
                    fail(one, own)
        except BaseException:
            queue.extendleft(one for one in taken if not one.future.done())
            raise

    async def _perform(self, room: Room, key: Key, taken: list[Waiting], queue: deque[Waiting]) -> None:
        state, fresh = self._known.get(key), False
        if state is None or any(one.write.expect is not None for one in taken):
            state, fresh = await self._writer.read(room, taken[0].write), True
        steps: list[Step] = []
        done: list[Waiting] = []
        failed: list[tuple[Waiting, MotiaError]] = []
        size = 0
        start = state
        for at, one in enumerate(taken):
            if size > CHAIN_BYTES:
                queue.extendleft(reversed(taken[at:]))
                del taken[at:]
                break
            try:
                one.write.check(state.version)
                new = one.write.resolve(state.json)
            except MotiaError as error:
                failed.append((one, error))
                continue
            assert new is not None
            size += len(new)
            update, after = documents.store(one.write, state, new, documents.new_nonce())
            steps.append((one.write, state, update))
            done.append(one)
            state = after
        if not steps and not fresh:  # judged by a state that may be stale: once more, by what is there
            self._known.pop(key, None)
            queue.extendleft(reversed(taken))
            return
        results = await self._write(room, steps) if steps else []
        if results is None:
            self._lost(key, taken, queue)
            from motia_adapters.mongodb.writer import pause

            await pause(max((one.attempts for one in taken), default=0))
            return
        for one, result in zip(done, results, strict=True):
            if not one.future.done():
                one.future.set_result(result)
        for one, reason in failed:  # the state it was judged by was the true one
            fail(one, reason)
        self._keep(key, state, start)

    async def _write(self, room: Room, steps: list[Step]) -> list[Any] | None:
        if len(steps) == 1:
            result = await self._writer.put(room, steps[0])
            return None if result is None else [result]
        return await self._writer.transact(room, steps)

    def _lost(self, key: Key, taken: list[Waiting], queue: deque[Waiting]) -> None:
        self._known.pop(key, None)
        for one in reversed(taken):
            one.attempts += 1
            if one.attempts < UPDATE_ATTEMPTS:
                queue.appendleft(one)
            else:
                said = f"item {key[1]!r} of group {key[0]!r} lost {one.attempts} races to other writers"
                fail(one, Conflict(said))

    def _keep(self, key: Key, state: State, start: State) -> None:
        if state.deadline or state.stored is None or len(state.stored) > KNOWN_BYTES:
            self._known.pop(key, None)
            return
        self._known[key] = state
        self._known.move_to_end(key)
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)


def fail(waiting: Waiting, error: MotiaError) -> None:
    """Tell the caller, if it still waits."""
    if not waiting.future.done():
        waiting.future.set_exception(error)
