"""Groups of a mapped collection: in the order of their text, page by page, and without reading all of it."""

from __future__ import annotations

import random
from typing import Any

import pytest
from bson import ObjectId
from bson.raw_bson import RawBSONDocument
from motia_adapters.mongodb.mapped.groups import first_object_id

CHANCE = random.Random(5)


async def _map(lab: Any, **options: Any) -> tuple[Any, Any]:
    adapter, orders = await lab.map(id_field="number", **{"id_type": "text", **options})
    await orders.create_index([("customer", 1), ("number", 1)], unique=True)
    return adapter, orders


async def _pages(adapter: Any, docs: Any, size: int) -> list[str]:
    found: list[str] = []
    while page := await adapter.list_groups(docs, after=found[-1] if found else None, limit=size):
        assert len(page) <= size
        found += page
    return found


@pytest.mark.parametrize("kind", ["auto", "text", "objectid", "int"])
async def test_pages_are_the_whole_in_order(lab: Any, kind: str) -> None:
    adapter, orders = await _map(lab, group_type=kind)
    texts = ["", "a", "A", "ab", "é", "0", "9", "deadbeef", "g", "\u0001", "f" * 24, "z" * 600, "ff\U0001f600"]
    objects = [ObjectId(f"{number:024x}") for number in (0, 1, 0xDEAD << 80, 2**96 - 1, 0xAB << 88)]
    numbers: list[Any] = [0, -1, 5, 10, 2**40, True, 2.0]
    groups: list[Any] = [*texts, *objects, *numbers, None, ["listed"]]
    await orders.insert_many(
        [{"customer": group, "number": f"{n}-{place}"} for place, group in enumerate(groups) for n in range(3)]
    )
    await orders.insert_many([{"customer": "nothing that is an item", "number": number} for number in (7, "\u0007")])
    await orders.insert_many([{"customer": "few", "number": number} for number in ("\u0001", "\u0002", "fits")])
    right = {
        "text": ["a", "A", "ab", "é", "0", "9", "deadbeef", "g", "f" * 24, "ff\U0001f600", "few"],
        "objectid": [str(id) for id in objects],
        "int": ["0", "-1", "5", "10", str(2**40)],
    }
    right["auto"] = [group for group in right["text"] if group != "f" * 24] + right["objectid"]
    expected = sorted(right[kind])
    assert await adapter.list_groups(lab.docs, after=None, limit=None) == expected
    for size in (1, 3, 100):
        assert await _pages(adapter, lab.docs, size) == expected
    for group in expected:
        behind = [other for other in expected if other > group]
        assert await adapter.list_groups(lab.docs, after=group, limit=2) == behind[:2]
        assert await adapter.list_groups(lab.docs, after=group, limit=None) == behind


@pytest.mark.parametrize("kind", ["auto", "text", "objectid", "int"])
async def test_pages_of_items_are_the_whole_in_order(lab: Any, kind: str) -> None:
    adapter, orders = await _map(lab, id_type=kind)
    texts = ["a", "A", "0", "9", "deadbeef", "g", "\u0001", "f" * 24, "ff\U0001f600", *(f"{n}x" for n in range(30))]
    objects = [ObjectId(f"{number << 80:024x}") for number in range(0, 2**16, 2_500)]
    numbers: list[Any] = [*range(-5, 20), 2.5, None, ["listed"]]
    await orders.insert_many([{"customer": "g", "number": id} for id in [*texts, *objects, *numbers]])
    right = {
        "text": [text for text in texts if text != "\u0001"],
        "objectid": [str(id) for id in objects],
        "int": [str(number) for number in range(-5, 20)],
    }
    right["auto"] = [text for text in right["text"] if text != "f" * 24] + right["objectid"]
    expected = sorted(right[kind])
    assert [item.id for item in await adapter.list(lab.docs, "g", after=None, limit=None)] == expected
    for size in (1, 4, 1_000):
        found: list[str] = []
        while page := await adapter.list(lab.docs, "g", after=found[-1] if found else None, limit=size):
            assert len(page) <= size
            found += [item.id for item in page]
        assert found == expected
    snapshot = await adapter.snapshot(lab.docs, "g", None, limit=7)
    assert [item.id for item in snapshot.items] == expected[:7]
    assert await lab.log(adapter, snapshot.position) == []


async def test_text_that_is_none_ends_no_listing(lab: Any) -> None:
    adapter, orders = await _map(lab)
    await orders.insert_many([{"customer": group, "number": group} for group in ("a", "z", "\ue000", "\uffee")])
    await orders.insert_one(_with_group(b"\xff"))
    await orders.insert_one(_with_group(b"b\xff"))
    expected = sorted(["a", "b\ufffd", "z", "\ue000", "\ufffd", "\uffee"])
    assert await adapter.list_groups(lab.docs, after=None, limit=None) == expected
    assert await _pages(adapter, lab.docs, 2) == expected


def _with_group(text: bytes) -> RawBSONDocument:
    def field(name: bytes, value: bytes) -> bytes:
        return b"\x02" + name + b"\x00" + (len(value) + 1).to_bytes(4, "little") + value + b"\x00"

    body = field(b"customer", text) + field(b"number", b"n" + text.hex().encode())
    return RawBSONDocument((len(body) + 5).to_bytes(4, "little") + body + b"\x00")


async def test_a_page_looks_at_few_documents(lab: Any) -> None:
    adapter, orders = await _map(lab)
    await orders.insert_many(
        [{"customer": f"c{number % 200:03}", "number": f"{number}"} for number in range(20_000)], ordered=False
    )
    await adapter.prepare(lab.docs)
    before = await _looked_at(orders)
    page = await adapter.list_groups(lab.docs, after="c049", limit=20)
    assert page == [f"c{number:03}" for number in range(50, 70)]
    assert await _looked_at(orders) - before < 500


async def _looked_at(orders: Any) -> int:
    status = await orders.database.command("serverStatus")
    scanned = status["metrics"]["queryExecutor"]
    return int(scanned["scanned"]) + int(scanned["scannedObjects"])


def test_the_least_object_id_behind_any_text() -> None:
    ids = sorted({"".join(CHANCE.choice("019af") for _ in range(2)).ljust(24, CHANCE.choice("0f")) for _ in range(99)})
    ids = ["0" * 24, *ids, "f" * 24]
    for _ in range(5_000):
        after = "".join(CHANCE.choice("019af:AgZ ~é") for _ in range(CHANCE.choice([1, 2, 3, 24, 25])))
        if CHANCE.random() < 0.3:
            after = CHANCE.choice(ids) + CHANCE.choice(["", "0", "z"])
        least = first_object_id(after)
        assert [id for id in ids if least is not None and id >= str(least)] == [id for id in ids if id > after]
