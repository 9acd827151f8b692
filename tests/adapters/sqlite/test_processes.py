"""Several processes, or several adapters of one process, on one file (A4, B2)."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from typing import Any

Start = Callable[..., "subprocess.Popen[str]"]


async def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return (await asyncio.to_thread(process.stdout.readline)).strip()


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


async def test_two_processes_see_one_order(bench: Any, words: Any, child: Start) -> None:
    amount = 400
    adapter = await bench.open()
    process = child("numbers", str(amount))
    word, start = (await line(process)).split()
    assert word == "ready"
    watching = await bench.watch(adapter, start)
    go(process)
    ours = [(await words.write(adapter, words.put("parent", str(n), {}))).position for n in range(amount)]
    assert await line(process) == "done"
    await watching.until(lambda w: len(w.changes) == 2 * amount)
    theirs = [await line(process) for _ in range(2 * amount)]
    assert [change.position for change in watching.changes] == theirs
    assert theirs == sorted(set(theirs))
    assert [change.position for change in watching.changes if change.group_id == "parent"] == ours
    for group in ("parent", "child"):
        ids = [change.id for change in watching.changes if change.group_id == group]
        assert ids == [str(n) for n in range(amount)]


async def test_increments_of_two_processes_are_all_there(bench: Any, words: Any, child: Start) -> None:
    adapter = await bench.open(timeout=30.0)
    processes = [child("increments", "300") for _ in range(2)]
    operation = {"type": "increment", "path": "n", "by": 1}
    await asyncio.gather(*(words.write(adapter, words.change("g", "counter", operation)) for _ in range(300)))
    assert [await line(process) for process in processes] == ["done", "done"]
    item = await adapter.get(words.DOCS, "g", "counter")
    assert item is not None
    assert item.value == {"n": 900}


async def test_writes_of_a_second_adapter_are_noticed_and_interleave(bench: Any, words: Any) -> None:
    one, two = await bench.open(), await bench.open()
    watches = [await bench.watch(one), await bench.watch(two), await bench.watch(two)]
    for n in range(50):
        await words.write(one, words.put("one", str(n), {"n": n}))
        await asyncio.gather(
            words.write(two, words.put("two", str(n), {"n": n})), words.write(one, words.put("three", str(n), {"n": n}))
        )
    for watching in watches:
        await watching.until(lambda w: len(w.changes) >= 150)
        assert watching.changes == watches[0].changes
        assert [change.data["n"] for change in watching.changes if change.group_id == "one"] == list(range(50))


async def test_versions_and_heads_are_the_same_in_every_process(bench: Any, words: Any) -> None:
    one = await bench.open()
    first = await words.write(one, words.put("g", "i", {}))
    two = await bench.open()
    item = await two.get(words.DOCS, "g", "i")
    assert item is not None
    assert item.version == first.version
    second = await words.write(one, words.put("g", "i", {}, expect=item.version))
    item = await two.get(words.DOCS, "g", "i")
    assert item is not None
    assert item.version == second.version
    assert second.version > first.version
    assert await one.head(words.DOCS) == await two.head(words.DOCS) == second.position


async def test_a_quiet_stream_keeps_up_with_a_busy_one(bench: Any, words: Any) -> None:
    one, two = await bench.open(), await bench.open()
    watching = await bench.watch(one)
    busy = words.DOCS.__class__("busy")
    for writer in (one, two):
        await words.write(writer, words.put("g", "i", {}), busy)
        head = await two.head(words.DOCS)
        await watching.until(lambda w, head=head: w.position >= head)
    assert watching.changes == []


async def test_namespaces_do_not_see_each_other(bench: Any, words: Any) -> None:
    one, two = await bench.open(namespace="one"), await bench.open(namespace="two")
    watching = await bench.watch(two)
    await words.write(one, words.put("g", "i", {"in": "one"}))
    assert await two.get(words.DOCS, "g", "i") is None
    assert await two.list_groups(words.DOCS, after=None, limit=None) == []
    await words.write(two, words.put("g", "i", {"in": "two"}))
    await watching.until(lambda w: w.changes)
    assert [change.data for change in watching.changes] == [{"in": "two"}]
    item = await one.get(words.DOCS, "g", "i")
    assert item is not None
    assert item.value == {"in": "one"}
