"""The listener is supervised: whatever it is told, or not told, a watch goes on and misses nothing."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from motia_adapters.firestore.listener import REMOVED, RESET
from motia_adapters.firestore.wire import ListenResponse

from motia_core.streams import Stream
from motia_core.testing import Reader
from motia_core.testing.harness import eventually
from motia_core.testing.proxy import Proxy
from tests.adapters.firestore.conftest import Lab, upkeep_done


@asynccontextmanager
async def _watched(docs: Stream[dict[str, Any]]) -> AsyncGenerator[Reader, None]:
    """A subscriber of a group, to whose watch the listener has brought a change already."""
    reader = Reader(docs.watch("g"))
    await reader.count(1)
    await docs.set("g", "first", {"n": 0})
    await reader.count(2)
    yield reader
    await reader.stop()


async def _goes_on(docs: Stream[dict[str, Any]], reader: Reader) -> None:
    """Three more writes are told once each, and nothing else is; no new sync was needed."""
    had = len(reader.seen)
    for number in range(3):
        await docs.set("g", f"{number}", {"n": number})
    seen = await reader.count(had + 3)
    assert [(entry.id, entry.data) for entry in seen[had:]] == [(f"{n}", {"n": n}) for n in range(3)]
    assert [entry.type for entry in seen].count("sync") == 1


def _removed(code: int) -> Any:
    message = ListenResponse()
    message.target_change.target_change_type = REMOVED
    message.target_change.cause.code = code
    message.target_change.cause.message = "said by the test"
    return message


def _reset() -> Any:
    message = ListenResponse()
    message.target_change.target_change_type = RESET
    return message


def _garbage_document(target: int) -> Any:
    """A newest entry that cannot be read: handling it fails."""
    message = ListenResponse()
    message.document_change.target_ids.append(target)
    message.document_change.document.name = "projects/p/databases/(default)/documents/a/b"
    return message


def _filter(count: int) -> Callable[[int], Any]:
    def made(target: int) -> Any:
        message = ListenResponse()
        message.filter.target_id = target
        message.filter.count = count
        return message

    return made


@pytest.mark.parametrize("code", [0, 8, 9, 14])
async def test_a_target_that_is_removed_is_added_again(lab: Lab, code: int) -> None:
    docs = await lab.stream()
    async with _watched(docs) as reader:
        before = len(lab.gateway.targets)
        lab.gateway.say(_removed(code))
        await eventually(_longer(lambda: lab.gateway.targets, before), "the target to be added again")
        await _goes_on(docs, reader)


async def test_a_reset_is_followed_by_what_there_is(lab: Lab) -> None:
    docs = await lab.stream()
    async with _watched(docs) as reader:
        lab.gateway.say(_reset())
        await _goes_on(docs, reader)


@pytest.mark.parametrize("count", [0, 7])
async def test_a_count_that_is_not_ours_makes_the_listener_ask_again(lab: Lab, count: int) -> None:
    docs = await lab.stream()
    async with _watched(docs) as reader:
        before = len(lab.gateway.targets)
        lab.gateway.say(_filter(count)(lab.gateway.targets[-1]))
        await eventually(_longer(lambda: lab.gateway.targets, before), "the listener to ask again")
        assert not lab.gateway.requests[-1].add_target.resume_token, "what was missed lies before the token"
        await _goes_on(docs, reader)


async def test_a_count_that_fits_changes_nothing(lab: Lab) -> None:
    docs = await lab.stream()
    async with _watched(docs) as reader:
        before = list(lab.gateway.targets)
        lab.gateway.say(_filter(1)(lab.gateway.targets[-1]))
        await _goes_on(docs, reader)
        assert lab.gateway.targets == before


async def test_what_cannot_be_handled_does_not_end_the_listener(lab: Lab) -> None:
    docs = await lab.stream()
    async with _watched(docs) as reader:
        before, calls = len(lab.gateway.targets), lab.gateway.billed["Listen"]
        lab.gateway.say(_garbage_document(lab.gateway.targets[-1]))
        await eventually(_longer(lambda: lab.gateway.targets, before), "the listener to ask again")
        await _goes_on(docs, reader)
        assert lab.gateway.billed["Listen"] == calls, "other streams are listened to as before"


async def test_bytes_that_are_no_message_make_a_new_call(lab: Lab) -> None:
    docs = await lab.stream()
    async with _watched(docs) as reader:
        before = lab.gateway.billed["Listen"]
        lab.gateway.say(b"\xff\xff\xff")
        await eventually(_more(lambda: lab.gateway.billed["Listen"], before), "a new call")
        await _goes_on(docs, reader)


async def test_deltas_that_were_swallowed_are_read_from_the_log(lab: Lab) -> None:
    """As when several commits come between two messages: only the last one's entry is told."""
    docs = await lab.stream()
    async with _watched(docs) as reader:
        swallowed: list[int] = []

        def swallow(message: Any) -> bool:
            if not message.HasField("document_change"):
                # The emulator begins anew for each change: production does not.
                begins_anew = message.target_change.target_change_type == RESET
                return begins_anew or message.WhichOneof("response_type") in ("document_delete", "document_remove")
            swallowed.append(message.document_change.document.fields["seq"].integer_value)
            return True

        lab.gateway.swallow = swallow
        for number in range(5):
            await docs.set("g", f"swallowed{number}", {"n": number})
        await eventually(_more(lambda: max(swallowed, default=0), 5), "the last of them to be swallowed")
        lab.gateway.swallow = lambda message: False
        await docs.set("g", "last", {"n": 5})
        seen = await reader.count(8)
        assert [entry.id for entry in seen[2:]] == [*(f"swallowed{n}" for n in range(5)), "last"]


async def test_a_change_that_is_told_again_is_told_once(lab: Lab) -> None:
    docs = await lab.stream()
    told: list[Any] = []

    def _noted(message: Any) -> bool:
        if message.HasField("document_change"):
            told.append(message)
        return False

    lab.gateway.swallow = _noted
    async with _watched(docs) as reader:
        for message in list(told):
            lab.gateway.say(message)
        await _goes_on(docs, reader)


async def test_a_connection_that_is_cut_and_then_refused_for_a_while(lab: Lab) -> None:
    async with Proxy(lab.gateway.port) as proxy:
        docs = await lab.stream(emulator=f"127.0.0.1:{proxy.port}", timeout=2.0)
        async with _watched(docs) as reader:
            proxy.cut()
            await _goes_on(docs, reader)
            proxy.mode = "refuse"
            proxy.cut()
            other = await lab.stream()
            await other.set("g", "meanwhile", {"n": 1})
            proxy.mode = "pass"
            await reader.until(lambda seen: seen[-1].id == "meanwhile")
            assert [entry.type for entry in reader.seen].count("sync") == 1


async def test_a_thousand_subscribers_cost_one_listener_and_no_thread(lab: Lab) -> None:
    docs = await lab.stream()
    async with _watched(docs):
        await upkeep_done(docs)
        threads = threading.active_count()
        reads = lab.gateway.billed["reads"]
        readers = [Reader(docs.watch("g", "first")) for _ in range(1_000)]
        for reader in readers:
            await reader.count(1)
        joins = lab.gateway.billed["reads"] - reads
        await docs.set("g", "first", {"n": 1})
        for reader in readers:
            await reader.count(2)
        told = lab.gateway.billed["reads"] - reads - joins
        for reader in readers:
            await reader.stop()
        assert lab.gateway.billed["Listen"] == 1
        assert len(lab.gateway.targets) == 1
        assert threading.active_count() <= threads
        assert told <= 2, "a change is read once by the process, whoever subscribes"


def _longer(what: Callable[[], list[Any]], before: int) -> Any:
    return _more(lambda: len(what()), before)


def _more(what: Callable[[], int], before: int) -> Any:
    async def grown() -> bool:
        return what() > before

    return grown
