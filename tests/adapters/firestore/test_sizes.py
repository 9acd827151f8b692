"""What one commit can hold: calls that share it, long names, large items that expire, and one that is refused."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from motia_core.errors import BackendError
from motia_core.streams import Stream
from motia_core.testing.harness import eventually, read_log
from tests.adapters.firestore.conftest import DOCS, Lab

LARGE = "x" * 900_000


async def test_large_writes_at_one_time_all_succeed(lab: Lab) -> None:
    """Each by itself: what is too large for one message of the server's goes in several commits."""
    docs = await lab.stream()
    await asyncio.gather(*(docs.set("g", f"{number}", {"s": LARGE}) for number in range(8)))
    assert len(await docs.list("g")) == 8
    gone = await asyncio.gather(*(docs.delete("g", f"{number}") for number in range(8)))
    assert [result.old_value for result in gone if result] == [{"s": LARGE}] * 8


async def test_a_batch_with_the_longest_names_fits_the_log(lab: Lab) -> None:
    docs = await lab.stream()
    adapter = docs.hub.adapter
    head = await adapter.head(DOCS)
    async with docs.batch() as batch:
        for number in range(500):
            batch.set('"' * 512, f"{number:03}" + "\\" * 509, {"s": "x" * 1_500})
    changes = await read_log(adapter, DOCS, head)
    assert len(changes) == 500
    assert [change.id for change in changes] == [f"{number:03}" + "\\" * 509 for number in range(500)]


async def test_large_items_that_expire_are_removed(lab: Lab) -> None:
    docs = await lab.stream()
    adapter: Any = docs.hub.adapter
    head = await adapter.head(DOCS)
    for number in range(7):
        await docs.set("g", f"{number}", {"s": LARGE}, ttl=2.0)

    async def expired() -> bool:
        return await docs.list("g") == []

    await eventually(expired, "all to expire")
    assert await docs.list_groups() == []
    assert [change.type for change in await read_log(adapter, DOCS, head)] == ["create"] * 7 + ["delete"] * 7
    assert await adapter._streams["docs"].next_deadline() == 0


async def test_groups_whose_items_have_all_expired_are_gone_however_many(lab: Lab) -> None:
    docs = await lab.stream()
    async with docs.batch() as batch:
        for number in range(230):
            batch.set(f"{number:03}", "x", {}, ttl=0.001)
        batch.set("stays", "x", {})
    assert list(await docs.list_groups()) == ["stays"]


@pytest.mark.parametrize("mapped", [False, True])
async def test_what_the_server_refuses_fails_alone(lab: Lab, mapped: bool) -> None:
    """Calls that share a commit with one that the server does not take succeed all the same."""
    options: dict[str, Any] = {"mapped": {"path": f"{lab.namespace}/{{group}}/documents/{{id}}"}} if mapped else {}
    docs: Stream[dict[str, Any]] = await lab.stream(**options)
    lab.gateway.refuses = lambda commit: "too many index entries for entity" if "bad" in str(commit) else ""
    ids = ["a", "b", "bad", "c", "d"]
    results = await asyncio.gather(*(docs.set("g", id, {"id": id}) for id in ids), return_exceptions=True)
    failed = [id for id, result in zip(ids, results, strict=True) if isinstance(result, BaseException)]
    assert failed == ["bad"]
    with pytest.raises(BackendError, match=r"too many index entries.*exempt large fields"):
        await docs.set("g", "bad", {})
    assert [item["id"] for item in await docs.list("g")] == ["a", "b", "c", "d"]
