"""Writes to managed storage: one command where one is enough, else a transaction."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any

from bson import Timestamp

from motia_adapters.mongodb import documents
from motia_adapters.mongodb.capabilities import UPDATE_ATTEMPTS
from motia_adapters.mongodb.documents import NOTHING, State, Told, key_of, state_of, version_of
from motia_adapters.mongodb.failures import DUPLICATE, code_of, failure, is_conflict
from motia_adapters.mongodb.history import History
from motia_adapters.mongodb.hot import HotItems
from motia_adapters.mongodb.link import MAJORITY, READ_MAJORITY, Link
from motia_adapters.mongodb.places import change
from motia_adapters.mongodb.rooms import Room, Rooms
from motia_core.errors import Conflict, MotiaError
from motia_core.model import StreamSpec, Write, WriteResult

Key = tuple[str, str]
SEEN = 4_096
"""Items that were set of late: they are set again by a plainer command, which costs the server less."""
Step = tuple[Write, State, list[dict[str, Any]] | None]
"""A write, the state it was decided on, and the change of its document (``None``: none)."""


class Writer:
    """The writes of one stream."""

    def __init__(self, link: Link, rooms: Rooms, history: History, stream: StreamSpec) -> None:
        self._link = link
        self._rooms = rooms
        self._history = history
        self._stream = stream
        self._tasks: set[asyncio.Task[Any]] = set()
        self._abandoned: set[asyncio.Task[Any]] = set()
        self._batching = asyncio.Lock()
        self._hot = HotItems(self)
        self._seen: dict[Key, None] = {}

    async def write(self, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        """Do all or nothing. What is under way goes on when its caller is cancelled."""
        if self._abandoned:  # a write that nobody waits for any more is settled before later ones
            await asyncio.wait(list(self._abandoned))
        self._link.check_open()
        task = asyncio.create_task(self._do(writes))
        self._tasks.add(task)
        task.add_done_callback(self._done)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.done():
                self._abandoned.add(task)
            raise

    async def close(self) -> None:
        """Finish what is under way."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self._abandoned.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits gets it

    async def _do(self, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        room = await self._rooms.of(self._stream)
        if len(writes) == 1:
            (write,) = writes
            if write.kind == "event":
                return [await self._send(room, write)]
            if write.kind == "update":
                return [await self._hot.update(room, write)]
            return [await self._one(room, write)]
        async with self._batching:
            return await self._all(room, writes)

    # -- one write ---------------------------------------------------------------------

    async def _send(self, room: Room, write: Write) -> WriteResult:
        document = documents.event_document(self._stream.name, write)
        reply = await self._link.run(
            {"insert": self._rooms.events, "documents": [document], "writeConcern": MAJORITY}, write=True
        )
        return self._event_result(room, write, self._link.time_of(reply, write=True), 1)

    async def _one(self, room: Room, write: Write) -> WriteResult | None:
        """A set or delete of one item."""
        if write.kind == "set" and write.expect is None and write.ttl is None:
            result = await self._blind(room, write)
            if result is not None:
                return result
        for attempt in range(UPDATE_ATTEMPTS):
            state = await self.read(room, write)
            write.check(state.version)
            if write.kind == "delete" and state.stored is None:
                return None
            found = await self.replace(room, write, state)
            if found is not None:
                return found
            await pause(attempt)
        raise lost(write)

    async def _blind(self, room: Room, write: Write) -> WriteResult | None:
        """A set whatever is there, unless that has a deadline: its end may be a change of its own (``None``)."""
        assert write.id is not None
        nonce, seed = documents.new_nonce(), documents.first_count()
        query: dict[str, Any] = {"_id": key_of(write.group, write.id), "x": None}
        command = {"findAndModify": room.collection, "fields": {"v": 1, "c": 1}, "writeConcern": MAJORITY}
        reply: Any = None
        try:
            if (write.group, write.id) in self._seen:
                plain = {"query": {**query, "v": {"$exists": True}}, "update": documents.plain_set(write, nonce)}
                reply = await self._link.send({**command, **plain}, uncancelled=True)
            if reply is None or reply["value"] is None:
                self._saw(write.group, write.id)
                blind = {"query": query, "update": documents.blind_set(write, nonce, seed), "upsert": True}
                reply = await self._link.send({**command, **blind}, uncancelled=True)
        except Exception as error:
            if code_of(error) == DUPLICATE:
                return None
            raise failure(error, self._link.address, write=True) from error
        before: Mapping[str, Any] = reply["value"] or {}
        count = before["c"] + 1 if "c" in before else seed
        old = before.get("v")
        told = Told("create" if old is None else "update", write.group, write.id, write.json, version_of(count, nonce))
        return self._result(
            room, told, None if old is None else documents.json_of(old), self._link.time_of(reply, write=True), 1
        )

    def _saw(self, group: str, id: str) -> None:
        """An item that is likely to be there when it is set again: one of the last `SEEN`."""
        if len(self._seen) >= SEEN:
            self._seen.pop(next(iter(self._seen)))
        self._seen[group, id] = None

    async def replace(self, room: Room, write: Write, state: State) -> WriteResult | None:
        """Write over a known state; ``None``: the item is in another one by now. Raises what `resolve` raises."""
        return await self.put(room, decide(write, state))

    async def put(self, room: Room, step: Step) -> WriteResult | None:
        """Do one step that was decided; ``None``: the item is in another state by now."""
        try:
            reply = await self._link.send(
                {"update": room.collection, "updates": [statement(step)], "writeConcern": MAJORITY}
            )
        except Exception as error:
            raise failure(error, self._link.address, write=True) from error
        if reply.get("writeErrors"):
            if reply["writeErrors"][0]["code"] in (DUPLICATE, 112):
                return None
            raise refused(reply["writeErrors"][0], self._link.address)
        return self.told(room, step, self._link.time_of(reply, write=True), 1) if reply["n"] else None

    async def read(self, room: Room, write: Write) -> State:
        """The item as a majority has it."""
        assert write.id is not None
        return (await self._states(room, [(write.group, write.id)]))[write.group, write.id]

    # -- several at once -----------------------------------------------------------------

    async def _all(self, room: Room, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        keys = [(write.group, write.id) for write in writes if write.kind != "event" and write.id is not None]
        for attempt in range(UPDATE_ATTEMPTS):
            states = await self._states(room, keys)
            steps: list[Step] = []
            for write in writes:
                if write.kind == "event" or write.id is None:
                    steps.append((write, NOTHING, []))
                    continue
                state = states[write.group, write.id]
                write.check(state.version)
                if write.kind == "delete" and state.stored is None:
                    steps.append((write, state, None))
                else:
                    steps.append(decide(write, state))
            results = await self.transact(room, steps)
            if results is not None:
                return results
            await pause(attempt)
        raise lost(writes[0])

    async def transact(self, room: Room, steps: Sequence[Step]) -> list[WriteResult | None] | None:
        """All steps in one transaction; ``None``: another writer was faster, and nothing was written."""
        doing = [step for step in steps if step[2] is not None]
        if not doing:
            return [None for _ in steps]
        try:
            async with self._link.transaction() as session:
                for command, count in self._commands(room, doing):
                    reply = await self._link.send(command, session=session)
                    errors = reply.get("writeErrors")
                    if errors and errors[0]["code"] not in (DUPLICATE, 112):
                        raise refused(errors[0], self._link.address)
                    if errors or reply["n"] != count:
                        return None
                time: Timestamp = await self._link.commit(session)
        except Exception as error:
            cause = error.__cause__ if isinstance(error, MotiaError) else error
            if cause is not None and is_conflict(cause):
                return None
            raise failure(error, self._link.address, write=False) from error
        results: list[WriteResult | None] = []
        number = 0
        for step in steps:
            if step[2] is None:
                results.append(None)
                continue
            number += 1
            if step[0].kind == "event":
                results.append(self._event_result(room, step[0], time, number))
            else:
                results.append(self.told(room, step, time, number))
        return results

    def _commands(self, room: Room, steps: Sequence[Step]) -> list[tuple[dict[str, Any], int]]:
        """Runs of item writes and of events, in the order of the steps."""
        commands: list[tuple[dict[str, Any], int]] = []
        run: list[Any] = []
        kind = ""
        for step in steps:
            mine = "documents" if step[0].kind == "event" else "updates"
            if mine != kind or len(run) >= 1_000:
                kind, run = mine, []
                if kind == "documents":
                    commands.append(({"insert": self._rooms.events, "documents": run}, 0))
                else:
                    commands.append(({"update": room.collection, "updates": run}, 0))
            if kind == "documents":
                run.append(documents.event_document(self._stream.name, step[0]))
            else:
                run.append(statement(step))
            commands[-1] = (commands[-1][0], len(run))
        return commands

    async def _states(self, room: Room, keys: Sequence[Key]) -> dict[Key, State]:
        states: dict[Key, State] = dict.fromkeys(keys, NOTHING)
        if not keys:
            return states
        ids = [key_of(group, id) for group, id in keys]
        match: Any = ids[0] if len(ids) == 1 else {"$in": ids}
        command: dict[str, Any] = {"find": room.collection, "filter": {"_id": match}, "projection": documents.FIELDS,
                                   "readConcern": READ_MAJORITY}  # fmt: skip
        if len(ids) == 1:
            command |= {"limit": 1, "singleBatch": True}
            found = (await self._link.run(command))["cursor"]["firstBatch"]
        else:
            found, _ = await self._link.read_all({**command, "batchSize": 1_000})
        for document in found:
            key = document["_id"]
            states[key["g"], key["i"]] = state_of(document)
        return states

    # -- results ---------------------------------------------------------------------------

    def told(self, room: Room, step: Step, time: Timestamp, number: int) -> WriteResult:
        """The result of a step that was done."""
        write, state, update = step
        assert update is not None
        fields = update[0]["$set"]
        half = 1 if state.expired is not None and write.kind != "delete" else 0
        count = state.count + 1 if write.kind == "delete" else int(fields["c"])
        version = version_of(count, fields["r"])
        if write.kind == "delete":
            return self._result(room, Told("delete", write.group, write.id, None, version), state.json, time, number)
        json = documents.json_of(fields["v"])
        told = Told("create" if fields["t"] == "c" else "update", write.group, write.id, json, version, half)
        return self._result(room, told, state.json, time, number)

    def _result(self, room: Room, told: Told, old: bytes | None, time: Timestamp, number: int) -> WriteResult:
        place = change(time, number, told.half)
        position = place.position(room.identity)
        self._history.note(room, position)
        assert told.version is not None
        return WriteResult(told.type, told.group, told.id, old, told.json, told.version, position, place.timestamp)

    def _event_result(self, room: Room, write: Write, time: Timestamp, number: int) -> WriteResult:
        place = change(time, number)
        position = place.position(room.identity)
        self._history.note(room, position)
        return WriteResult("event", write.group, write.id, None, None, "", position, place.timestamp)


def decide(write: Write, state: State) -> Step:
    """What a write does to an item in this state. Raises what `Write.resolve` raises."""
    new = write.resolve(state.json)
    nonce = documents.new_nonce()
    if new is None:
        return write, state, documents.remove(nonce)
    return write, state, documents.store(write, state, new, nonce)[0]


def statement(step: Step) -> dict[str, Any]:
    """A step as the command ``update`` takes it."""
    write, state, update = step
    return {"q": documents.guard(write, state), "u": update, "upsert": not state.exists}


def refused(error: Mapping[str, Any], address: str) -> MotiaError:
    """An error in the reply of a write command."""
    from pymongo.errors import OperationFailure

    cause = OperationFailure(str(error.get("errmsg", "")), error.get("code"), dict(error))
    return failure(cause, address, write=True)


def lost(write: Write) -> Conflict:
    """Too many races were lost."""
    return Conflict(f"item {write.id!r} of group {write.group!r} lost {UPDATE_ATTEMPTS} races to other writers")


async def pause(attempt: int) -> None:
    """Let the others finish."""
    await asyncio.sleep(random.uniform(0, min(0.1, 0.001 * 2 ** min(attempt, 7))))
