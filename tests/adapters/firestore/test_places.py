"""Mapped storage: places amid the changes of a time, which readers take from one process to another."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from motia_core.errors import PositionExpired
from motia_core.model import Change
from motia_core.streams import Stream
from motia_core.testing.harness import Reader, eventually, read_log
from tests.adapters.firestore.conftest import DOCS, Lab
from tests.adapters.firestore.test_mapped import client, docs, document, held_look, looks_are_behind, mapped

__all__ = ["client", "docs"]


def in_order(adapter: Any, *ids: str) -> list[str]:
    """Ids of the group ``g`` in the order in which the documents of one time are told."""
    layout = adapter._streams["docs"]._layout
    return sorted(ids, key=lambda id: str(layout.rank(layout.name(("g", id)))))


async def told(adapter: Any, after: str, last: str, *, elsewhere: bool = False) -> list[Change]:
    """The changes behind a place, up to another one."""
    reader = Reader((adapter.resume if elsewhere else adapter.watch)(DOCS, after))
    await reader.until(lambda batches: bool(batches) and batches[-1].position >= last)
    await reader.stop()
    return [change for batch in reader.seen for change in batch.changes]


async def in_one_look(lab: Lab, docs: Stream[dict[str, Any]], client: Any, deeds: Callable[[], Awaitable[None]]) -> str:
    """Have one look see all that is done, and a last write be told; its position."""
    adapter: Any = docs.hub.adapter
    going = await held_look(lab, client)
    await deeds()
    await looks_are_behind(adapter)
    going.set()
    return (await docs.set("g", "last", {"n": -1})).position


async def test_what_was_shown_ends_also_where_another_of_its_name_was_shown_before_the_look(
    lab: Lab, docs: Stream[dict[str, Any]], client: Any
) -> None:
    here: Any = docs.hub.adapter
    other = await lab.connect(mapped=mapped(lab))
    await here.head(DOCS)
    snapshots = []

    async def deeds() -> None:
        for number in range(2):
            await document(client, lab, "z").set({"n": number})
            snapshots.append(await here.snapshot(DOCS, "g", None, limit=None))
            await document(client, lab, "z").delete()
            if not number:
                await document(client, lab, "y").set({"n": 1})

    last = await in_one_look(lab, docs, client, deeds)
    shown = {item.id for item in snapshots[0].items}
    assert "z" in shown
    log = await told(here, snapshots[0].position, last)
    stop = next(number for number, change in enumerate(log) if change.id == "y") + 1
    for change in log[:stop] + await told(other, log[stop - 1].position, last, elsewhere=True):
        (shown.discard if change.type == "delete" else shown.add)(change.id or "")
    assert shown == {"other", "y", "last"}


async def test_what_was_told_as_deleted_and_comes_again_is_created(
    lab: Lab, docs: Stream[dict[str, Any]], client: Any
) -> None:
    here: Any = docs.hub.adapter
    other = await lab.connect(mapped=mapped(lab))
    await here.head(DOCS)
    first, second = in_order(here, "a", "b")
    for id in (first, second):
        await docs.set("g", id, {"n": 1})
    start = await here.head(DOCS)

    async def deeds() -> None:
        for id in (first, second):
            await document(client, lab, id).delete()

    log = await told(here, start, await in_one_look(lab, docs, client, deeds))
    position = next(change.position for change in log if change.id == first)
    again = await docs.set("g", first, {"n": 7})
    await read_log(other, DOCS, await other.head(DOCS))
    rest = await told(other, position, again.position, elsewhere=True)
    assert [change.type for change in rest if change.id == first] == ["create"]


async def test_no_place_is_that_of_one_change_here_and_of_another_one_there(
    lab: Lab, docs: Stream[dict[str, Any]], client: Any
) -> None:
    """Of a commit with two changes one process tells both; another one hears of it when only the first is left."""
    here: Any = docs.hub.adapter
    other = await lab.connect(mapped=mapped(lab))
    start = await here.head(DOCS)
    first, second = in_order(here, "a", "b")
    batch = client.batch()
    for id in (first, second):
        batch.set(document(client, lab, id), {"n": 1})
    await batch.commit()
    log = await read_log(here, DOCS, start)
    assert [change.id for change in log] == [first, second]
    await document(client, lab, second).set({"n": 2})
    last = (await docs.set("g", "last", {"n": -1})).position
    rest = await told(other, start, last, elsewhere=True)
    assert {change.id for change in rest} == {first, second, "last"}
    places = {change.position: change.id for change in log}
    assert all(places.get(change.position, change.id) == change.id for change in rest)


async def test_who_stands_amid_a_batch_is_told_of_the_rest_as_created(docs: Stream[dict[str, Any]]) -> None:
    adapter: Any = docs.hub.adapter
    start = await adapter.head(DOCS)
    first, second = in_order(adapter, "a", "b")
    async with docs.batch() as batch:
        made = [batch.set("g", id, {"n": 1}) for id in (first, second)]
    log = await read_log(adapter, DOCS, start)
    assert [change.position for change in log] == [one.result.position for one in made if one.result]
    rest = await told(adapter, log[0].position, log[1].position)
    assert [(change.type, change.id) for change in rest] == [("create", second)]


async def test_another_history_ends_a_busy_watch_of_the_one_before(
    lab: Lab, docs: Stream[dict[str, Any]], client: Any
) -> None:
    adapter: Any = docs.hub.adapter
    other = await lab.connect(mapped=mapped(lab))
    for id in ("x", "y"):
        await docs.set("g", id, {"n": 1})
    reader = Reader(adapter.watch(DOCS, await adapter.head(DOCS)))
    await reader.count(1)
    stream = adapter._streams["docs"]
    await client.document(stream._layout.history.split("/documents/", 1)[1]).delete()
    position = await other.head(DOCS)  # begins a new history
    await document(client, lab, "x").delete()
    await document(client, lab, "z").set({"n": 1})

    async def heard() -> bool:
        return stream._layout.name(("g", "z")) in stream._states.known

    await eventually(heard, "what was done")
    await adapter.head(DOCS)
    last = (await docs.set("g", "last", {"n": -1})).position
    assert {change.id for change in await told(adapter, position, last, elsewhere=True)} == {"x", "z", "last"}
    with pytest.raises(PositionExpired, match="history"):
        await reader.until(lambda seen: False)
    await reader.stop()


async def test_what_a_look_sees_late_comes_behind_the_end_of_what_was_there(
    lab: Lab, docs: Stream[dict[str, Any]], client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The emulator may show a commit after its time."""
    adapter: Any = docs.hub.adapter
    await adapter.head(DOCS)
    first, second = in_order(adapter, "a", "b")
    await docs.set("g", first, {"n": 1})
    start = await adapter.head(DOCS)
    await read_log(adapter, DOCS, start)
    states, name = adapter._streams["docs"]._states, adapter._streams["docs"]._layout.name(("g", second))
    look = states._look
    late: list[Any] = []

    async def late_look() -> Any:
        moment = await look()
        if late:
            return moment
        if name in moment.documents:
            late.append(moment)
        return moment._replace(documents={})

    async def missed() -> bool:
        return bool(late)

    monkeypatch.setattr(states, "_look", late_look)
    await document(client, lab, first).delete()
    batch = client.batch()
    for id in (first, second):
        batch.set(document(client, lab, id), {"n": 2})
    await batch.commit()
    await eventually(missed, "a look that misses it")
    log = await told(adapter, start, (await docs.set("g", "last", {"n": -1})).position)
    assert [change.type for change in log if change.id == first] == ["delete", "create"]
    assert [change.position for change in log] == sorted({change.position for change in log})
