"""Between writes: expired items are removed, old tombstones purged, marks of history moved."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from motia_adapters.mongodb import documents
from motia_adapters.mongodb.documents import state_of
from motia_adapters.mongodb.link import APP_NAME, MAJORITY, READ_MAJORITY, Link
from motia_adapters.mongodb.rooms import Room
from motia_adapters.mongodb.writer import Writer
from motia_core.errors import BackendError, MotiaError
from motia_core.model import Write

INTERVAL = 1.0
"""Seconds between two looks."""
PORTION = 200
"""Expired items that are removed in one go, at most."""
OURS = {"v": {"$type": "string"}, "c": {"$type": "long"}, "_id.i": {"$type": "string"}}
"""What items have; documents that somebody else put there are left alone."""
TOMBSTONES = 3_600
"""Seconds that a tombstone is kept, so that versions grow across delete and re-creation."""
ABANDONED = 5.0
"""Seconds without a command after which a transaction's process must have been killed. The server would keep its locks
for a minute (``transactionLifetimeLimitSeconds``), and everybody who writes the same items would wait as long."""
ENDINGS = 5
"""Looks between two for such transactions."""
PURGES = 60
"""Looks between two purges of tombstones."""

_log = logging.getLogger(__name__)


class Upkeep:
    """A task that calls ``look`` again and again."""

    def __init__(self, look: Callable[[int], Awaitable[None]]) -> None:
        self._look = look
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name="motia-mongodb-upkeep")

    async def close(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        turn = 0
        while True:
            await asyncio.sleep(INTERVAL)
            turn += 1
            try:
                await self._look(turn)
            except MotiaError as error:  # the next look may do better
                _log.debug("upkeep: %s", error)
            except Exception:  # nor must a bug, or what somebody put into our collections, end it
                _log.exception("upkeep failed, and is tried again")


async def sweep(link: Link, room: Room, writer: Writer) -> None:
    """Remove all items of a stream that have expired by the server's clock."""
    while True:
        command = {
            "find": room.collection, "filter": {"$expr": {"$lte": ["$x", "$$NOW"]}, "x": {"$exists": True}, **OURS},
            "projection": documents.FIELDS, "hint": "expiry", "limit": PORTION, "batchSize": PORTION,
            "singleBatch": True, "readConcern": READ_MAJORITY,
        }  # fmt: skip
        found = (await link.run(command))["cursor"]["firstBatch"]
        for document in found:
            key, state = document["_id"], state_of(document)
            gone = documents.State(True, state.count, state.nonce, state.expired)
            if gone.stored is not None:
                await writer.put(
                    room, (Write("delete", key["g"], key["i"]), gone, documents.remove(documents.new_nonce()))
                )
        if len(found) < PORTION:
            return


async def end_abandoned(link: Link) -> None:
    """Abort transactions whose processes are gone; one that was only asleep finds its own aborted, and begins anew.

    Everybody may see and end sessions of the own user; a service that allows neither keeps them for its minute.
    """
    stages = [
        {"$currentOp": {"allUsers": False, "idleSessions": True}},
        {
            "$match": {
                "type": "idleSession",
                "appName": APP_NAME,
                "transaction.timeInactiveMicros": {"$gte": round(ABANDONED * 1e6)},
            }
        },
        {"$project": {"lsid.id": 1}},
    ]
    try:
        found = (await link.run({"aggregate": 1, "pipeline": stages, "cursor": {}}, database="admin"))["cursor"]
        if sessions := [one["lsid"] for one in found["firstBatch"]]:
            _log.warning("mongodb: %d transactions of processes that are gone are ended", len(sessions))
            await link.run({"killSessions": sessions}, database="admin")
    except BackendError as error:
        _log.debug("abandoned transactions cannot be looked for: %s", error)


async def purge(link: Link, room: Room) -> None:
    """Remove tombstones that are old."""
    old = {
        "d": {"$type": "date"},
        "o": {"$type": "string"},
        "c": {"$type": "long"},
        "$expr": {"$lte": ["$d", {"$subtract": ["$$NOW", TOMBSTONES * 1000]}]},
    }
    deletes = [{"q": old, "limit": 0, "hint": "purge"}]
    await link.run({"delete": room.collection, "deletes": deletes, "writeConcern": MAJORITY}, write=True)
