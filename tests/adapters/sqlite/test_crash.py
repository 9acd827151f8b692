"""What survives ``kill -9``, a full disk and a forgotten ``close`` (B1, F1)."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import pytest

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.mark.parametrize("acknowledged", [1, 500, 2_000])
async def test_a_killed_writer_loses_nothing_it_was_told_and_log_and_items_agree(
    bench: Any, words: Any, child: Start, plain: Any, acknowledged: int
) -> None:
    process = child("storm")
    assert process.stdout is not None
    told = [process.stdout.readline() for _ in range(acknowledged)]
    process.kill()
    process.wait()
    told += process.stdout.readlines()
    complete = [line.split() for line in told if line.endswith("\n") and line.count(" ") == 3]
    assert len(complete) >= acknowledged

    adapter = await bench.open()
    values = {}
    for group in await adapter.list_groups(words.DOCS, after=None, limit=None):
        for item in await adapter.list(words.DOCS, group, after=None, limit=None):
            values[item.group, item.id] = item
    for group, id, n, position in complete:
        item = values[group, id]
        assert item.value["n"] >= int(n)
        assert item.version >= position

    # The log, replayed, gives exactly the items; every acknowledged position is in it, once.
    watching = await bench.watch(adapter, await adapter.floor(words.DOCS))
    head = await adapter.head(words.DOCS)
    await watching.until(lambda w: w.position >= head)
    replayed = {(change.group_id, change.id): (change.json, change.version) for change in watching.changes}
    assert replayed == {key: (item.json, item.version) for key, item in values.items()}
    positions = [change.position for change in watching.changes]
    assert positions == sorted(set(positions))
    assert {position for *_, position in complete} <= set(positions)
    assert plain().execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_a_full_disk_refuses_writes_loses_nothing_and_heals(bench: Any, words: Any, child: Start) -> None:
    process = child("full")
    output, _ = process.communicate(timeout=words.DEADLINE)
    assert process.returncode == 0
    lines = [line.split() for line in output.splitlines()]
    written = [line[1] for line in lines if line[0] == "written"]
    refused = [line for line in lines if line[0] == "refused"]
    assert len(refused) == 1
    assert refused[0][2] in ("BackendUnavailable", "OutcomeUnknown")
    assert "free space)" in " ".join(refused[0])
    assert [line[0] for line in lines if line[0] == "read"] == ["read"]
    assert written[-1] == "last"
    adapter = await bench.open()
    found = {item.id for item in await adapter.list(words.DOCS, "g", after=None, limit=None)}
    assert found - {refused[0][1]} == set(written)


@pytest.mark.parametrize("how", ["forget", "abandon"])
def test_a_program_that_forgets_to_close_still_ends(child: Start, words: Any, how: str) -> None:
    process = child(how)
    assert process.wait(words.DEADLINE) == 0
