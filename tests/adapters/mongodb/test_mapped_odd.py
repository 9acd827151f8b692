"""What other programs leave in a collection: huge documents, odd types and names, holes in its history."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from bson import CodecOptions, ObjectId
from bson.raw_bson import RawBSONDocument

from motia_core.errors import InvalidValue, PositionExpired
from motia_core.model import StreamSpec, Write
from motia_core.testing.harness import Reader


async def _types(orders: Any, id: str) -> dict[str, str]:
    """The BSON type of each field, as the server names it."""
    member = {"k": "$$this.k", "v": {"$type": "$$this.v"}}
    named = {"$arrayToObject": {"$map": {"input": {"$objectToArray": "$$ROOT"}, "in": member}}}
    found = await orders.aggregate([{"$match": {"_id": id}}, {"$replaceWith": named}])
    return dict((await found.to_list())[0])


def _raw(*fields: bytes) -> RawBSONDocument:
    body = b"".join(fields)
    return RawBSONDocument(struct.pack("<i", len(body) + 5) + body + b"\x00")


def _text(key: str, value: bytes, kind: int = 2) -> bytes:
    return bytes([kind]) + key.encode() + b"\x00" + struct.pack("<i", len(value) + 1) + value + b"\x00"


async def test_documents_too_large_for_one_event_with_both_images_end_no_stream(lab: Any) -> None:
    adapter, orders = await lab.map()
    start = await adapter.head(lab.docs)
    reader = Reader(adapter.watch(lab.docs, start))
    await reader.count(1)
    await orders.insert_one({"_id": "big", "customer": "ada", "n": 0, "x": "y" * 9_000_000})
    await orders.update_one({"_id": "big"}, {"$set": {"n": 1}})
    await adapter.write(lab.docs, [lab.update("ada", "big", {"type": "set", "path": "n", "value": 2})])
    moving = await adapter.head(lab.docs)
    await orders.update_one({"_id": "big"}, {"$set": {"customer": "bob"}})
    moved = await adapter.head(lab.docs)
    await orders.delete_one({"_id": "big"})
    await orders.insert_one({"_id": "most", "customer": "ada", "x": "y" * 16_777_100})
    await orders.update_one({"_id": "most"}, {"$set": {"n": 1}})
    await orders.insert_one({"_id": "last", "customer": "ada"})
    with pytest.raises(PositionExpired):
        await reader.until(lambda _: False)
    told = [(c.type, c.group_id, c.id, c.data["n"]) for batch in reader.seen for c in batch.changes]
    assert told == [("create", "ada", "big", 0), ("update", "ada", "big", 1), ("update", "ada", "big", 2)]
    with pytest.raises(PositionExpired, match="too large to be told before and after") as caught:
        await lab.log(adapter, moving)
    assert moving < caught.value.floor <= moved
    assert [(c.type, c.group_id, c.id) for c in await lab.log(adapter, caught.value.floor)] == [
        ("delete", "bob", "big"),
        ("create", "ada", "most"),
        ("update", "ada", "most"),
        ("create", "ada", "last"),
    ]
    await reader.stop()


async def test_a_change_without_images_is_one_gap_behind_which_the_stream_goes_on(lab: Any) -> None:
    adapter, orders = await lab.map()
    beside = StreamSpec("beside", hidden=True)
    await adapter.prepare(beside)
    start = await adapter.head(lab.docs)
    reader = Reader(adapter.watch(beside, await adapter.head(beside)))
    await reader.count(1)
    await orders.insert_one({"_id": "x", "customer": "ada"})
    before = await adapter.head(lab.docs)
    await orders.database.command({"collMod": "orders", "changeStreamPreAndPostImages": {"enabled": False}})
    await orders.update_one({"_id": "x"}, {"$set": {"n": 1}})
    with pytest.raises(PositionExpired, match="no pre- or post-image") as caught:
        await lab.log(adapter, before)
    assert caught.value.floor > before
    # Who starts anew, at the head or behind the gap, is not told of it again: the gap may be the last of all changes.
    assert await lab.log(adapter, await adapter.head(lab.docs)) == []
    assert await lab.log(adapter, caught.value.floor) == []
    await orders.database.command({"collMod": "orders", "changeStreamPreAndPostImages": {"enabled": True}})
    await orders.update_one({"_id": "x"}, {"$set": {"n": 2}})
    assert [(c.type, c.data["n"]) for c in await lab.log(adapter, caught.value.floor)] == [("update", 2)]
    with pytest.raises(PositionExpired):
        await lab.log(adapter, start)
    await adapter.write(beside, [Write("set", "g", "x", b"{}")])
    await reader.until(lambda batches: any(batch.changes for batch in batches))  # another stream's watch saw nothing
    await reader.stop()


async def test_documents_that_are_no_items_make_no_page_shorter(lab: Any) -> None:
    adapter, orders = await lab.map(id_type="text")
    await orders.insert_many([{"_id": f"a{n}\x01", "customer": "ada"} for n in range(5)])
    await orders.insert_many([{"_id": f"b{n}", "customer": ["ada"]} for n in range(5)])
    await orders.insert_many([{"_id": f"c{n}", "customer": "ada"} for n in range(5)])
    ids = [item.id for item in await adapter.list(lab.docs, "ada", after=None, limit=2)]
    assert ids == ["c0", "c1"]
    assert [item.id for item in await adapter.list(lab.docs, "ada", after="c1", limit=2)] == ["c2", "c3"]
    assert [item.id for item in (await adapter.snapshot(lab.docs, "ada", None, limit=3)).items] == ["c0", "c1", "c2"]


async def test_a_filter_takes_in_a_change_what_it_takes_in_a_list(lab: Any) -> None:
    adapter, orders = await lab.map(filter={"active": True})
    start = await adapter.head(lab.docs)
    actives: list[Any] = [True, 1, 1.0, [True], "true"]
    await orders.insert_many([{"_id": f"{n}", "customer": "ada", "active": a} for n, a in enumerate(actives)])
    assert [item.id for item in await adapter.list(lab.docs, "ada", after=None, limit=None)] == ["0"]
    assert [change.id for change in await lab.log(adapter, start)] == ["0"]


async def test_texts_that_can_name_no_item_are_counted_too(lab: Any) -> None:
    adapter, orders = await lab.map()
    bad = ["", "x" * 513, "é" * 257, "c\x07", "\x9f", str(ObjectId())]
    await orders.insert_many([{"_id": id, "customer": "ada"} for id in bad])
    await orders.insert_many([{"customer": group} for group in bad])
    good = ["x" * 512, "é" * 256, "\xa0", ObjectId()]
    await orders.insert_many([{"_id": id, "customer": "ada"} for id in good])
    assert len(await adapter.list(lab.docs, "ada", after=None, limit=None)) == len(good)
    assert any(finding.message.startswith("12 documents of 'orders'") for finding in await adapter.diagnose())


async def test_a_write_leaves_all_that_it_does_not_change_to_the_last_bit(lab: Any) -> None:
    adapter, orders = await lab.map()
    # Types that MongoDB no longer makes and still has, and a reference in an order that PyMongo does not keep.
    pointer = b"\x0cpointer\x00" + struct.pack("<i", 4) + b"abc\x00" + ObjectId().binary
    reference = b"\x03ref\x00" + _raw(_text("$id", b"1"), _text("$ref", b"c")).raw
    odd = [_text("symbol", b"old", 0x0E), b"\x06undefined\x00", pointer, reference]
    await orders.insert_one(_raw(_text("_id", b"odd"), _text("customer", b"ada"), *odd, _text("gone", b"")))
    before = await _types(orders, "odd")
    operations = [{"type": "remove", "path": "gone"}, {"type": "set", "path": "a.$b", "value": {"c.d": 1}}]
    await adapter.write(lab.docs, [lab.update("ada", "odd", *operations)])
    after = await _types(orders, "odd")
    assert (before.pop("gone"), after.pop("a.$b")) == ("string", "object")
    assert after == before
    raw = await orders.with_options(CodecOptions(document_class=RawBSONDocument)).find_one({"_id": "odd"})
    assert all(part in raw.raw for part in odd)
    await adapter.write(lab.docs, [Write("delete", "ada", "odd")])
    assert await adapter.get(lab.docs, "ada", "odd") is None


async def test_text_that_is_no_utf8_is_shown_and_not_written_over(lab: Any) -> None:
    adapter, orders = await lab.map()
    start = await adapter.head(lab.docs)
    await orders.insert_one(_raw(_text("_id", b"bad"), _text("customer", b"ada"), _text("name", b"\xff")))
    await orders.insert_one({"_id": "good", "customer": "ada"})
    items = {item.id: item.value for item in await adapter.list(lab.docs, "ada", after=None, limit=None)}
    assert items["bad"] == {"_id": "bad", "customer": "ada", "name": "\ufffd"}
    assert [change.id for change in await lab.log(adapter, start)] == ["bad", "good"]
    with pytest.raises(InvalidValue, match="cannot be written by us"):
        await adapter.write(lab.docs, [lab.update("ada", "bad", {"type": "set", "path": "n", "value": 1})])
    await adapter.write(lab.docs, [lab.update("ada", "good", {"type": "set", "path": "n", "value": 1})])
    await adapter.write(lab.docs, [Write("delete", "ada", "bad")])
    assert [item.id for item in await adapter.list(lab.docs, "ada", after=None, limit=None)] == ["good"]


async def test_a_collection_that_is_renamed_onto_ours_is_a_new_history(lab: Any) -> None:
    adapter, orders = await lab.map()
    start = await adapter.head(lab.docs)
    reader = Reader(adapter.watch(lab.docs, start))
    await reader.count(1)
    await orders.database.create_collection("fresh", changeStreamPreAndPostImages={"enabled": True})
    await orders.database["fresh"].insert_one({"_id": "1", "customer": "ada"})
    await orders.database["fresh"].rename("orders", dropTarget=True)
    await orders.insert_one({"_id": "2", "customer": "ada"})
    with pytest.raises(PositionExpired, match="dropped or replaced"):
        await reader.until(lambda _: False)
    assert not any(batch.changes for batch in reader.seen), "what is of the new collection is not told as the old one's"
    items = await adapter.list(lab.docs, "ada", after=None, limit=None)
    assert [item.id for item in items] == ["1", "2"]
    head = await adapter.head(lab.docs)
    await orders.insert_one({"_id": "3", "customer": "ada"})
    assert [change.id for change in await lab.log(adapter, head)] == ["3"]


async def test_text_is_compared_byte_by_byte_whatever_the_collation(lab: Any) -> None:
    server = await lab.serve()
    orders = lab.client(server.url)["shop"]["orders"]
    german = {"locale": "de", "strength": 1}
    await orders.database.create_collection("orders", changeStreamPreAndPostImages={"enabled": True}, collation=german)
    adapter, _ = await lab.map(server=server)
    await orders.insert_one({"_id": "x", "customer": "ada", "name": "Müller"})
    found = await adapter._writer(lab.docs)._documents([Write("delete", "ada", "x")])
    await orders.update_one({"_id": "x"}, {"$set": {"name": "MULLER"}})  # between our read and our write
    statement = {"q": found[0].exactly, "limit": 1, "collation": {"locale": "simple"}}
    reply = await orders.database.command({"delete": "orders", "deletes": [statement]})
    assert reply["n"] == 0
    await adapter.write(lab.docs, [lab.update("ada", "x", {"type": "set", "path": "n", "value": 1})])
    assert (await orders.find_one({"_id": "x"}))["name"] == "MULLER"


async def test_timestamps_rise_behind_a_transaction_of_several_oplog_entries(lab: Any) -> None:
    adapter, orders = await lab.map()
    start = await adapter.head(lab.docs)
    client = orders.database.client
    async with client.start_session() as session, await session.start_transaction():
        for n in range(5):
            await orders.insert_one({"_id": f"{n}", "customer": "ada", "x": "y" * 7_000_000}, session=session)
    snapshot = await adapter.snapshot(lab.docs, "ada", None, limit=None)
    await orders.insert_one({"_id": "5", "customer": "ada", "count": 1_000})
    later = await adapter.snapshot(lab.docs, "bob", None, limit=None)
    await orders.insert_one({"_id": "6", "customer": "ada"})
    log = await lab.log(adapter, start)
    times = [change.timestamp for change in log]
    assert len(times) == 7
    assert times == sorted(set(times))
    assert times[4] <= snapshot.timestamp < times[5] <= later.timestamp < times[6]
