"""Clause A6: a million items elsewhere in the stream, and everything stays as it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from motia_core.streams import Stream

from ..e2e.serving import project
from .figures import Figures, bounded, scaled
from .test_fuzz import opened

pytestmark = pytest.mark.chaos

Docs = Stream[dict[str, Any]]

IN_A_GROUP = 1_000
TIMES = 50


def value(number: int) -> dict[str, Any]:
    return {"n": number, "title": f"item {number}", "tags": ["a", "b"]}


async def fill(docs: Docs, items: int) -> None:
    """So many items, a thousand in each group."""
    size = docs.capabilities.max_batch_writes
    for group in range(0, items, IN_A_GROUP):
        for first in range(group, min(group + IN_A_GROUP, items), size):
            async with docs.batch() as batch:
                for number in range(first, min(first + size, group + IN_A_GROUP, items)):
                    batch.set(f"group-{group:08}", f"item-{number:08}", value(number))


async def join(docs: Docs, group: str) -> Any:
    """What a new subscriber gets first."""
    async with aclosing(docs.watch(group)) as changes:
        return (await anext(changes)).data


async def measure(docs: Docs, figures: Figures, when: str) -> None:
    """Everything that a user does, on a small group that was there before all others; each answer is checked."""

    async def get_(turn: int) -> None:
        assert await docs.get("small", f"i{turn % 10}") is not None

    async def set_(turn: int) -> None:
        assert (await docs.set("small", f"i{turn % 10}", value(turn))).type == "update"

    async def list_(turn: int) -> None:
        assert len(await docs.list("small")) == 10

    async def page(turn: int) -> None:
        assert len(await docs.list("group-00000000", limit=100, after=f"item-{turn:08}")) == 100

    async def groups(turn: int) -> None:
        found = await docs.list_groups(limit=100, after="group-")
        assert found[0] == "group-00000000"

    async def joined(turn: int) -> None:
        assert len(await join(docs, "small")) == 10

    async def joined_large(turn: int) -> None:
        assert len(await join(docs, "group-00000000")) == IN_A_GROUP

    work: dict[str, Callable[[int], Coroutine[Any, Any, None]]] = {
        "get": get_,
        "set": set_,
        "list": list_,
        "a page of 100": page,
        "100 groups": groups,
        "join of 10": joined,
        f"join of {IN_A_GROUP:,}": joined_large,
    }
    for what, do in work.items():
        took = []
        for turn in range(TIMES):
            begun = time.monotonic()
            await do(turn)
            took.append(time.monotonic() - begun)
        figures.spread(f"{when}: {what}", took)


def on_disk(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())


@pytest.mark.parametrize("backend", ["memory", "sqlite"])
@bounded
async def test_A6_a_million_items(tmp_path: Path, backend: str, figures: Figures) -> None:
    items = scaled(1_000_000, least=10_000)
    async with opened(backend, tmp_path) as motia:
        docs = motia.streams["documents"]
        for number in range(10):
            await docs.set("small", f"i{number}", value(number))
        await fill(docs, IN_A_GROUP)
        await measure(docs, figures, f"{IN_A_GROUP:,} items")
        begun = time.monotonic()
        await fill(docs, items)
        figures.add(items=items, items_a_second=items / (time.monotonic() - begun))
        await measure(docs, figures, f"{items:,} items")
        assert await docs.get(f"group-{items - IN_A_GROUP:08}", f"item-{items - 1:08}") == value(items - 1)
        seen, after = 0, "group-"
        while found := await docs.list_groups(limit=1_000, after=after):
            seen, after = seen + sum(group.startswith("group-") for group in found), found[-1]
        assert seen == items // IN_A_GROUP
    if backend == "sqlite":
        figures.add(MB_on_disk=on_disk(tmp_path) / 1e6)
        begun = time.monotonic()
        async with project(tmp_path) as motia:
            assert await motia.streams["documents"].get("small", "i0") is not None
        figures.add(seconds_to_open_and_close=time.monotonic() - begun)
