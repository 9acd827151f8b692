"""Some calls are refused and others are not: what is said, and that all goes on as soon as they are let."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
import pytest

from motia_core.errors import BackendError, BackendUnavailable, PositionExpired
from motia_core.model import Batch
from motia_core.streams import Stream
from motia_core.testing.harness import DEADLINE, Reader, read_log
from motia_core.testing.history import Told, told
from tests.adapters.firestore.conftest import DOCS, Lab, Till, listening

READS = ("BatchGetDocuments", "RunQuery")
DENIED = "Missing or insufficient permissions."
QUOTA = "Quota exceeded."
OUT_OF_QUOTA = r"Quota exceeded\. .*see the project's quotas"


def _refuse(server: Any, code: grpc.StatusCode, said: str, *methods: str) -> None:
    """Have a gateway or the stand-in refuse calls of these methods."""
    server.only = methods.__contains__
    server.refuse, server.said = code, said


def _refuse_from(server: Any, number: int, method: str) -> None:
    """Have it say that the quota is used up, from the so many-th call of a method on."""
    asked = 0

    def is_one(name: str) -> bool:
        nonlocal asked
        asked += name == method
        return name == method and asked >= number

    server.only = is_one
    server.refuse, server.said = grpc.StatusCode.RESOURCE_EXHAUSTED, QUOTA


async def _say_what_is_missing(calls: list[Callable[[], Awaitable[Any]]]) -> None:
    async with asyncio.timeout(DEADLINE):
        for call in calls:
            with pytest.raises(BackendError, match=r"roles/datastore\.user") as caught:
                await call()
            assert DENIED in str(caught.value)
            assert not isinstance(caught.value, BackendUnavailable)


def _reads(docs: Stream[dict[str, Any]]) -> list[Callable[[], Awaitable[Any]]]:
    """Every way to read."""
    adapter = docs.hub.adapter
    return [
        lambda: docs.get("g", "x"),
        lambda: docs.list("g"),
        docs.list_groups,
        lambda: adapter.snapshot(DOCS, "g", None, limit=None),
        lambda: adapter.head(DOCS),
    ]


async def _watch(adapter: Any, position: str, batches: list[Batch]) -> None:
    """Take what is told from a position on, until that is an error."""
    async with asyncio.timeout(DEADLINE), aclosing(adapter.watch(DOCS, position)) as watch:
        async for batch in watch:
            batches.append(batch)


async def test_an_account_that_may_only_listen_and_write(lab: Lab) -> None:
    docs = await lab.stream()
    await docs.set("g", "x", {"n": 0})
    reader = Reader(docs.watch("g"))
    await reader.count(1)
    await listening(docs)
    _refuse(lab.gateway, grpc.StatusCode.PERMISSION_DENIED, DENIED, *READS)
    await docs.set("g", "x", {"n": 1})  # this process wrote it last: nothing need be read
    await reader.count(2)
    await _say_what_is_missing(
        [
            *_reads(docs),
            lambda: docs.set("g", "unknown", {"n": 1}),
            lambda: anext(aiter(docs.watch("other"))),
        ]
    )
    lab.gateway.refuse = None
    await docs.set("g", "unknown", {"n": 2})
    seen = await reader.count(3)
    await reader.stop()
    assert [(entry.type, entry.data) for entry in seen[1:]] == [("update", {"n": 1}), ("create", {"n": 2})]


async def test_an_account_that_may_only_read_and_write(lab: Lab) -> None:
    """Changes are told by looks at the log, until the listener is let again."""
    docs = await lab.stream()
    reader = Reader(docs.watch("g"))
    await reader.count(1)
    await listening(docs)
    _refuse(lab.gateway, grpc.StatusCode.PERMISSION_DENIED, DENIED, "Listen")
    lab.gateway.say(b"\xff\xff\xff")  # it makes a new call, which is refused
    for number in range(3):
        await docs.set("g", f"{number}", {"n": number})
    await reader.count(4)
    listener: Any = docs.hub.adapter._listener  # type: ignore[attr-defined]
    assert "roles/datastore.user" in str(listener.error)
    lab.gateway.refuse = None
    await listening(docs)
    await docs.set("g", "3", {"n": 3})
    seen = await reader.count(5)
    await reader.stop()
    assert [(entry.type, entry.data) for entry in seen[1:]] == [("create", {"n": n}) for n in range(4)]


async def test_a_quota_that_is_used_up_amid_a_catch_up(lab: Lab) -> None:
    direct = lab.server.url.removeprefix("http://")
    docs = await lab.stream(emulator=direct)
    head = await docs.hub.adapter.head(DOCS)
    late = Reader((await lab.stream()).watch("g"))
    await late.count(1)
    lab.gateway.refuse, lab.gateway.said = grpc.StatusCode.RESOURCE_EXHAUSTED, QUOTA
    lab.gateway.say(b"\xff\xff\xff")
    for number in range(130):  # more than a page
        await docs.set("g", f"{number}", {"n": number})
    lab.gateway.refuse = None
    other = await lab.connect()
    _refuse_from(lab.gateway, 2, "RunQuery")
    batches: list[Batch] = []
    with pytest.raises(BackendUnavailable, match=OUT_OF_QUOTA):
        await _watch(other, head, batches)
    seen = [change for batch in batches for change in batch.changes]
    assert 0 < len(seen) < 130
    lab.gateway.refuse = None
    seen += await read_log(other, DOCS, batches[-1].position)
    everything = [Told("create", "g", f"{number}", {"n": number}) for number in range(130)]
    assert told(seen) == everything
    entries = await late.count(131)
    await late.stop()
    assert [(entry.id, entry.data) for entry in entries[1:]] == [(one.id, one.data) for one in everything]


async def _mapped(till: Till) -> tuple[Stream[dict[str, Any]], Reader]:
    """A mapped stream, and a subscriber who has had its sync."""
    docs = await till.stream(timeout=3.0, poll=1.0)
    await docs.set("g", "x", {"n": 0})
    reader = Reader(docs.watch("g"))
    await reader.count(1)
    return docs, reader


async def test_mapped_documents_that_may_only_be_listened_to_and_written(till: Till) -> None:
    docs, reader = await _mapped(till)
    other = await till.stream()
    _refuse(till.standin, grpc.StatusCode.PERMISSION_DENIED, DENIED, *READS)
    await _say_what_is_missing([*_reads(docs), lambda: docs.set("g", "y", {"n": 1})])
    till.standin.refuse = None
    await other.set("g", "y", {"n": 2})
    await docs.delete("g", "x")
    seen = await reader.until(lambda seen: {entry.id for entry in seen[1:]} == {"x", "y"})
    await reader.stop()
    assert [(entry.type, entry.id, entry.data) for entry in seen[1:]] == [
        ("create", "y", {"n": 2}),
        ("delete", "x", {"n": 0}),
    ]


async def test_mapped_documents_that_may_only_be_read_and_written(till: Till) -> None:
    """A subscriber is told why nothing comes, and of all that came when it does."""
    docs, reader = await _mapped(till)
    _refuse(till.standin, grpc.StatusCode.PERMISSION_DENIED, DENIED, "Listen")
    fresh = await till.stream(timeout=2.0)
    await _say_what_is_missing([lambda: fresh.hub.adapter.head(DOCS), lambda: anext(aiter(fresh.watch("g")))])
    for number in range(1, 4):
        await docs.set("g", f"{number}", {"n": number})
    position = await docs.hub.adapter.head(DOCS)
    with pytest.raises(BackendError, match=r"cannot listen.*roles/datastore\.user"):
        await _watch(docs.hub.adapter, position, [])
    till.standin.refuse = None
    seen = await reader.count(4)
    await reader.stop()
    assert [(entry.type, entry.data) for entry in seen[1:]] == [("create", {"n": n}) for n in range(1, 4)]


async def test_a_position_of_which_firestore_says_that_it_is_too_old(till: Till) -> None:
    """Whatever its age by our clock."""
    docs = await till.stream()
    position = (await docs.set("g", "x", {"n": 1})).position
    other = await till.stream()
    adapter = other.hub.adapter
    await adapter.head(DOCS)  # from here on it listens
    till.standin.memory = 0.0
    with pytest.raises(PositionExpired, match="too long ago for this database") as caught:
        await read_log(adapter, DOCS, position)
    till.standin.memory = 3_600.0
    assert caught.value.floor is not None
    assert told(await read_log(adapter, DOCS, caught.value.floor)) == [Told("create", "g", "x", {"n": 1})]


@pytest.mark.parametrize("method", READS)
async def test_a_quota_that_is_used_up_while_documents_of_then_and_now_are_compared(till: Till, method: str) -> None:
    docs = await till.stream()
    position = await docs.hub.adapter.head(DOCS)
    for number in range(5):
        await docs.set("g", f"{number}", {"n": number})
    other = await till.stream()
    adapter = other.hub.adapter
    await adapter.head(DOCS)
    _refuse_from(till.standin, 2, method)
    with pytest.raises(BackendUnavailable, match=OUT_OF_QUOTA):
        await _watch(adapter, position, [])
    till.standin.refuse = None
    assert told(await read_log(adapter, DOCS, position)) == [
        Told("create", "g", f"{number}", {"n": number}) for number in range(5)
    ]
