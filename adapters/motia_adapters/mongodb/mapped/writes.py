"""Our own writes to the user's collection: compare-and-set on the whole document (A2-A7)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bson import Timestamp

from motia_adapters.mongodb import documents
from motia_adapters.mongodb.capabilities import UPDATE_ATTEMPTS
from motia_adapters.mongodb.failures import DUPLICATE, failure, is_conflict
from motia_adapters.mongodb.link import MAJORITY, READ_MAJORITY
from motia_adapters.mongodb.mapped.mapping import GONE, Collection, Found
from motia_adapters.mongodb.mapped.stored import Stored
from motia_adapters.mongodb.mapped.values import SIMPLE, to_bson
from motia_adapters.mongodb.places import Place, change, end
from motia_adapters.mongodb.rooms import Room
from motia_adapters.mongodb.writer import Writer, lost, pause, refused
from motia_core.errors import Conflict, InvalidValue, MotiaError
from motia_core.model import Write, WriteResult

_INVALID = {121}
REMEMBERED = 1_024
"""Items of which the place of our last change is kept."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one write does: a command's kind and statement (``None``: nothing), and the item before and after."""

    write: Write
    kind: str | None
    statement: Any
    old: Found | None
    new: Found | None


class _Turn:
    """Who writes to one item: one after the other."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.wanted = 0


class MappedWriter(Writer):
    """The writes of the mapped stream."""

    mapping: Collection

    def of(self, mapping: Collection) -> MappedWriter:
        """The writer, for this collection."""
        self.mapping = mapping
        self._turns: dict[tuple[str, str | None], _Turn] = {}
        self._last: dict[tuple[str, str | None], tuple[str, Place]] = {}
        return self

    async def _do(self, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        for write in writes:
            self.mapping.names(write.group, write.id)
        room = await self._rooms.of(self._stream)
        if len(writes) > 1:
            async with self._batching:
                return await self._repeat(room, writes)
        (write,) = writes
        if write.kind == "event":
            return [await self._send(room, write)]
        key = (write.group, write.id)
        turn = self._turns.setdefault(key, _Turn())  # else our own writers would race each other
        turn.wanted += 1
        try:
            async with turn.lock:
                return await self._repeat(room, writes)
        finally:
            turn.wanted -= 1
            if not turn.wanted:
                del self._turns[key]

    async def _repeat(self, room: Room, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        for attempt in range(UPDATE_ATTEMPTS):
            found = await self._documents(writes)
            plans = [self._plan(write, document) for write, document in zip(writes, found, strict=True)]
            done = await (self._single(room, plans[0]) if len(plans) == 1 else self._several(room, plans))
            if done is not None:
                return await self._results(room, plans, done)
            await pause(attempt)
        raise lost(writes[0])

    async def _documents(self, writes: Sequence[Write]) -> list[Stored | None]:
        """The document of each write, or ``None``."""
        mapping = self.mapping
        pairs = [(None, None) if write.kind == "event" else mapping.names(write.group, write.id) for write in writes]
        wanted = [{mapping.group: group, mapping.id: id} for group, id in pairs if id is not None]
        if not wanted:
            return [None] * len(writes)
        if mapping.alone:  # an id is in one group only: see whose it is
            match: Any = {mapping.id: {"$in": [entry[mapping.id] for entry in wanted]}}
        else:
            match = wanted[0] if len(wanted) == 1 else {"$or": wanted}
        command = {"find": mapping.collection, "filter": match, "readConcern": READ_MAJORITY,
                   "collation": SIMPLE, "batchSize": 1_000}  # fmt: skip
        found, _ = await self._link.read_all(command, raw=True)
        by_id: dict[Any, Any] = {}
        for raw in found:
            stored = Stored.of(raw)
            by_id[_key(mapping, stored.document)] = stored
        return [None if id is None else by_id.get(id if mapping.alone else (group, id)) for group, id in pairs]

    def _plan(self, write: Write, stored: Stored | None) -> Plan:
        mapping = self.mapping
        document = None if stored is None else stored.document
        if write.kind == "event" or write.id is None:
            return Plan(write, "documents", documents.event_document(self._stream.name, write), None, None)
        old = mapping.found(document)
        if old is not None and old.group != write.group:
            mine, old = old, None
            if write.kind == "delete" or write.expect not in (None, "absent"):
                write.check(None)
                return Plan(write, None, None, None, None)
            raise Conflict(f"item {write.id!r} belongs to group {mine.group!r} of this mapped collection")
        if document is not None and old is None and write.kind != "delete":
            raise InvalidValue(
                f"the document with {mapping.id} {write.id!r} is there and is no item of this mapping:"
                " its filter, or the type of the group or id, leaves it out"
            )
        write.check(None if old is None else old.version)
        new = write.resolve(None if old is None else old.json)
        if new is None:
            if old is None or stored is None:
                return Plan(write, None, None, None, None)
            return Plan(write, "deletes", {"q": stored.exactly, "limit": 1, "collation": SIMPLE}, old, None)
        made = self._document(write, new, document)
        found = mapping.found(made)
        if found is None:
            raise InvalidValue("the document would be no item of this mapping")
        if old is None or stored is None:
            return Plan(write, "inserts", made, None, found)
        if old.json == found.json:
            return Plan(write, None, None, old, found)
        statement = {"q": stored.exactly, "u": stored.becomes(made), "collation": SIMPLE}
        return Plan(write, "updates", statement, old, found)

    def _document(self, write: Write, json: bytes, document: Any) -> dict[str, Any]:
        """The document that holds a value: fields that are not shown, and types that do not change, stay."""
        mapping = self.mapping
        assert write.id is not None
        group, id = mapping.names(write.group, write.id)
        fields = mapping.fields_of(json, write.group, write.id)
        before: dict[str, Any] = document or {}
        made: dict[str, Any] = {}
        for key, value in before.items():
            if not mapping.shows(key) or key in (mapping.group, mapping.id):
                made[key] = value
            elif key in fields:
                made[key] = to_bson(fields[key], value, f"$.{key}")
        if document is None:
            made |= {mapping.id: id, mapping.group: group}
            made |= {key: value for key, value in mapping.options.filter.items() if key not in fields}
        for key, value in to_bson({k: v for k, v in fields.items() if k not in made}, None).items():
            made[key] = value
        return made

    async def _single(self, room: Room, plan: Plan) -> tuple[Timestamp, bool] | None:
        if plan.kind is None:
            return Timestamp(0, 0), False
        command, _ = self._group(room, [plan])[0]
        try:
            reply = await self._link.send({**command, "writeConcern": MAJORITY})
        except Exception as error:
            raise failure(error, self._link.address, write=True) from error
        if self._raced(reply) or not reply["n"]:
            return None
        return self._link.time_of(reply, write=True), True

    async def _several(self, room: Room, plans: Sequence[Plan]) -> tuple[Timestamp, bool] | None:
        doing = [plan for plan in plans if plan.kind is not None]
        if not doing:
            return Timestamp(0, 0), False
        try:
            async with self._link.transaction() as session:
                for command, count in self._group(room, doing):
                    reply = await self._link.send(command, session=session)
                    if self._raced(reply) or reply["n"] != count:
                        return None
                return await self._link.commit(session), True
        except Exception as error:
            cause = error.__cause__ if isinstance(error, MotiaError) else error
            if cause is not None and is_conflict(cause):
                return None
            raise failure(error, self._link.address, write=False) from error

    def _group(self, room: Room, plans: Sequence[Plan]) -> list[tuple[dict[str, Any], int]]:
        """Commands for runs of plans of one kind, in their order."""
        commands: list[tuple[dict[str, Any], list[Any]]] = []
        last = None
        for plan in plans:
            if plan.kind != last:
                last = plan.kind
                run: list[Any] = []
                if last == "documents":
                    commands.append(({"insert": self._rooms.events, "documents": run}, run))
                elif last == "inserts":
                    commands.append(({"insert": room.collection, "documents": run}, run))
                elif last == "updates":
                    commands.append(({"update": room.collection, "updates": run}, run))
                else:
                    commands.append(({"delete": room.collection, "deletes": run}, run))
            commands[-1][1].append(plan.statement)
        return [(command, len(run)) for command, run in commands]

    def _raced(self, reply: Any) -> bool:
        """Whether another writer was faster. Raises if the collection refuses the document by its own rules."""
        errors = reply.get("writeErrors")
        if not errors:
            return False
        error = errors[0]
        if error["code"] == DUPLICATE:
            keys = set(error.get("keyPattern", {}))
            if self.mapping.id in keys and keys <= {self.mapping.group, self.mapping.id}:
                return True
        if error["code"] == DUPLICATE or error["code"] in _INVALID:
            raise InvalidValue(f"collection {self.mapping.collection!r} refuses it: {error.get('errmsg', '')}")
        if error["code"] == 112:
            return True
        raise refused(error, self._link.address)

    async def _results(
        self, room: Room, plans: Sequence[Plan], done: tuple[Timestamp, bool]
    ) -> list[WriteResult | None]:
        time, _ = done
        results: list[WriteResult | None] = []
        number = 0
        for plan in plans:
            write, old, new = plan.write, plan.old, plan.new
            place: Place
            if plan.kind is None:
                if new is None or old is None:
                    results.append(None)
                    continue
                # Nothing was logged: it lies where the item's last change does, or else behind all there is.
                last = self._last.get((write.group, write.id))
                place = last[1] if last is not None and last[0] == old.version else end(await self._history.now())
                results.append(_result("update", write, old, new, old.version, place, room))
                continue
            number += 1
            place = change(time, number)
            if write.kind == "event":
                results.append(self._event_result(room, write, time, number))
                continue
            self._history.note(room, place.position(room.identity))
            self._last[write.group, write.id] = (new.version if new else GONE, place)
            if len(self._last) > REMEMBERED:
                self._last.pop(next(iter(self._last)))
            if new is None:
                results.append(_result("delete", write, old, None, GONE, place, room))
            else:
                results.append(_result("update" if old else "create", write, old, new, new.version, place, room))
        return results


def _result(
    kind: Any, write: Write, old: Found | None, new: Found | None, version: str, place: Place, room: Room
) -> Any:
    before, after = (None if found is None else found.json for found in (old, new))
    return WriteResult(
        kind, write.group, write.id, before, after, version, place.position(room.identity), place.timestamp
    )


def _key(mapping: Collection, document: Any) -> Any:
    return document[mapping.id] if mapping.alone else (document[mapping.group], document[mapping.id])
