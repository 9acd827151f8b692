"""A collection of the user's: other programs' writes of all kinds, types that JSON lacks, what cannot be mapped."""

from __future__ import annotations

import asyncio
import sys
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import Binary, Decimal128, Int64, ObjectId
from motia_adapters.mongodb.options import MappedOptions

from motia_core.errors import BackendError, Conflict, InvalidName, InvalidValue, PositionExpired, UnsupportedCapability
from motia_core.model import StreamSpec

FOREIGN = """
import sys
from pymongo import InsertOne, MongoClient, DeleteOne, UpdateOne
client = MongoClient(sys.argv[1])
orders = client["shop"]["orders"]
orders.insert_many([{"_id": f"o{n}", "customer": "ada", "n": n} for n in range(5)])
orders.update_many({"customer": "ada"}, {"$inc": {"n": 10}})
orders.replace_one({"_id": "o0"}, {"customer": "ada", "n": 100})
orders.bulk_write([InsertOne({"_id": "o9", "customer": "bob", "n": 9}),
                   UpdateOne({"_id": "o1"}, {"$set": {"customer": "bob"}}), DeleteOne({"_id": "o2"})])
with client.start_session() as session, session.start_transaction():
    orders.delete_one({"_id": "o3"}, session=session)
    orders.insert_one({"_id": "o8", "customer": "ada", "n": 8}, session=session)
client.close()
"""


async def test_every_kind_of_write_by_another_process_is_a_change(lab: Any) -> None:
    adapter, _ = await lab.map(include_ids=False)
    start = await adapter.head(lab.docs)
    other = await asyncio.create_subprocess_exec(sys.executable, "-c", FOREIGN, lab.servers[0].url)
    assert await other.wait() == 0

    async def arrived() -> bool:
        return len(await lab.log(adapter, start)) >= 16

    await lab.eventually(arrived, "the other program's changes")
    told = [(c.type, c.group_id, c.id, c.data["n"]) for c in await lab.log(adapter, start)]
    assert told == [
        *(("create", "ada", f"o{n}", n) for n in range(5)),
        *(("update", "ada", f"o{n}", n + 10) for n in range(5)),
        ("update", "ada", "o0", 100),
        ("create", "bob", "o9", 9),
        ("delete", "ada", "o1", 11),
        ("create", "bob", "o1", 11),
        ("delete", "ada", "o2", 12),
        ("delete", "ada", "o3", 13),
        ("create", "ada", "o8", 8),
    ]
    log = await lab.log(adapter, start)
    assert [c.timestamp for c in log] == sorted({c.timestamp for c in log})
    assert [item.id for item in await adapter.list(lab.docs, "ada", after=None, limit=None)] == ["o0", "o4", "o8"]


async def test_types_that_json_lacks_are_shown_and_stay_what_they_are(lab: Any) -> None:
    adapter, orders = await lab.map()
    id, other = ObjectId(), ObjectId()
    native = {
        "_id": id, "customer": "ada", "when": datetime(2026, 1, 31, 12, tzinfo=UTC), "price": Decimal128("1.10"),
        "uuid": Binary(uuid.UUID(int=7).bytes, 4), "blob": Binary(b"\x00\x01"), "ref": other, "long": Int64(5),
        "nan": float("inf"), "deep": {"list": [datetime(2026, 1, 1, tzinfo=UTC)]}, "a.b": 1,
    }  # fmt: skip
    await orders.insert_one(native)
    item = await adapter.get(lab.docs, "ada", str(id))
    assert item.value == {
        "_id": str(id), "customer": "ada", "when": "2026-01-31T12:00:00.000Z", "price": "1.10",
        "uuid": "00000000-0000-0000-0000-000000000007", "blob": "AAE=", "ref": str(other), "long": 5,
        "nan": "Infinity", "deep": {"list": ["2026-01-01T00:00:00.000Z"]}, "a.b": 1,
    }  # fmt: skip
    changed = [{"type": "set", "path": "status", "value": "paid"}, {"type": "set", "path": "price", "value": "2.20"}]
    await adapter.write(lab.docs, [lab.update("ada", str(id), *changed)])
    await lab.put(adapter, str(id), {**(await adapter.get(lab.docs, "ada", str(id))).value, "n": 1}, group="ada")
    pipeline = [{"$project": {key: {"$type": {"$getField": key}} for key in native if "." not in key}}]
    types = (await (await orders.aggregate(pipeline)).to_list())[0]
    assert (types["when"], types["price"], types["uuid"], types["blob"]) == ("date", "decimal", "binData", "binData")
    assert (types["ref"], types["long"], types["nan"]) == ("objectId", "long", "double")
    stored = await orders.find_one({"_id": id})
    assert stored["price"] == Decimal128("2.20")
    assert (stored["status"], stored["n"], stored["blob"]) == ("paid", 1, b"\x00\x01")


async def test_members_of_lists_keep_their_types_wherever_they_go(lab: Any) -> None:
    adapter, orders = await lab.map()
    a, b, c = (ObjectId() for _ in range(3))
    days = [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3)]
    lines = [{"product": id, "at": day, "n": n} for n, (id, day) in enumerate(zip((a, b, c), days, strict=True))]
    await orders.insert_one(
        {"_id": "1", "customer": "ada", "refs": [a, b, c], "days": days, "lines": lines, "mixed": [a, "text", 1]}
    )
    value = (await adapter.get(lab.docs, "ada", "1")).value
    new = ObjectId()
    value["refs"] = [str(new), *value["refs"][1:], "no id"]  # one comes in front, one goes, one is no id
    del value["days"][0]
    fresh = {"product": str(new), "at": "2026-02-01T00:00:00.000Z", "n": 9}
    value["lines"] = [fresh, value["lines"][2], {**value["lines"][0], "n": 5}, value["lines"][1]]
    value["mixed"] = [str(new), *value["mixed"]]
    await lab.put(adapter, "1", value, group="ada")
    stored = await orders.find_one({"_id": "1"})
    assert stored["refs"] == [new, b, c, "no id"]
    assert [day.replace(tzinfo=UTC) for day in stored["days"]] == days[1:]
    assert [line["product"] for line in stored["lines"]] == [new, c, a, b]
    assert [line["at"].day for line in stored["lines"]] == [1, 3, 1, 2]
    assert stored["mixed"] == [str(new), a, "text", 1]
    await adapter.write(lab.docs, [lab.update("ada", "1", {"type": "append", "path": "refs", "value": str(a)})])
    assert (await orders.find_one({"_id": "1"}))["refs"] == [
        new,
        b,
        c,
        "no id",
        str(a),
    ]  # they are not all ids any more


async def test_a_changed_long_stays_a_long_also_for_a_validator(lab: Any) -> None:
    adapter, orders = await lab.map()
    rules = {"validator": {"$jsonSchema": {"properties": {"stock": {"bsonType": "long"}}}}}
    await orders.database.command({"collMod": "orders", **rules})
    await orders.insert_one({"_id": "1", "customer": "ada", "stock": Int64(5), "deep": [Int64(1)]})
    await adapter.write(lab.docs, [lab.update("ada", "1", {"type": "set", "path": "stock", "value": 6})])
    await lab.put(adapter, "1", {"_id": "1", "customer": "ada", "stock": 7, "deep": [2]}, group="ada")
    stored = await orders.find_one({"_id": "1"})
    assert (stored["stock"], stored["deep"]) == (7, [2])
    assert (type(stored["stock"]), type(stored["deep"][0])) == (Int64, Int64)


async def test_what_is_no_item_is_counted_and_not_shown(lab: Any, caplog: pytest.LogCaptureFixture) -> None:
    adapter, orders = await lab.map()
    bad: list[Any] = [{}, {"customer": 5}, {"customer": None}, {"customer": ["ada"]}, {"customer": "ada", "_id": 7}]
    await orders.insert_many([*bad, {"customer": "ada", "_id": "good"}])
    with caplog.at_level("WARNING"):
        await adapter.prepare(lab.docs)
    assert "5 documents of collection 'orders' cannot be items" in caplog.text
    assert [item.id for item in await adapter.list(lab.docs, "ada", after=None, limit=None)] == ["good"]
    assert await adapter.list_groups(lab.docs, after=None, limit=None) == ["ada"]
    start = await adapter.head(lab.docs)
    await orders.update_one({"customer": 5}, {"$set": {"customer": "bob"}})
    assert [(c.type, c.group_id) for c in await lab.log(adapter, start)] == [("create", "bob")]
    assert any(finding.message.startswith("4 documents") for finding in await adapter.diagnose())


async def test_collections_that_cannot_be_mapped_are_refused_with_the_remedy(lab: Any) -> None:
    adapter, _ = await lab.map(images=False)
    with pytest.raises(BackendError, match=r"no pre- and post-images.*collMod"):
        await adapter.prepare(lab.docs)
    url = lab.servers[0].url
    options: Any = {"collection": "orders", "group_field": "customer", "enable_images": True}
    other = await lab.connect(url, mapped=MappedOptions(**{**options, "id_field": "code"}))
    with pytest.raises(BackendError, match=r"no unique index.*createIndex"):
        await other.prepare(lab.docs)
    missing = await lab.connect(url, mapped=MappedOptions(**{**options, "collection": "nowhere"}))
    with pytest.raises(BackendError, match="there is no collection 'nowhere'"):
        await missing.prepare(lab.docs)
    shop = lab.client(url)["shop"]
    await shop.create_collection("view", viewOn="orders", pipeline=[])
    await shop.create_collection("series", timeseries={"timeField": "t"})
    await shop.create_collection("capped", capped=True, size=100_000)
    for name, said in [("view", "is a view"), ("series", "is a timeseries"), ("capped", "is capped")]:
        wrong = await lab.connect(url, mapped=MappedOptions(**{**options, "collection": name}))
        with pytest.raises(BackendError, match=said):
            await wrong.prepare(lab.docs)
    good = await lab.connect(url, mapped=MappedOptions(**options))
    await good.prepare(lab.docs)
    with pytest.raises(UnsupportedCapability, match="a storage of its own"):
        await good.prepare(StreamSpec("second"))


async def test_what_a_collection_cannot_hold_is_refused_and_nothing_written(lab: Any) -> None:
    adapter, orders = await lab.map()
    for value in ({"$set": 1}, {"a": {"$x": 1}}, {"customer": "bob"}, {"_id": "other"}):
        with pytest.raises(InvalidValue):
            await lab.put(adapter, "x", value, group="ada")
    await lab.put(adapter, "x", {"a.b": {"c.d": 1}, "": 2, "customer": "ada"}, group="ada")
    assert (await adapter.get(lab.docs, "ada", "x")).value == {"_id": "x", "customer": "ada", "a.b": {"c.d": 1}, "": 2}
    with pytest.raises(Conflict, match="belongs to group 'ada'"):
        await lab.put(adapter, "x", {}, group="bob")
    assert await orders.count_documents({}) == 1
    await orders.create_index("email", unique=True, sparse=True)
    await lab.put(adapter, "y", {"email": "a@b"}, group="ada")
    with pytest.raises(InvalidValue, match="refuses it"):
        await lab.put(adapter, "z", {"email": "a@b"}, group="ada")
    await orders.database.command({"collMod": "orders", "validator": {"n": {"$lt": 5}}})
    with pytest.raises(InvalidValue, match="refuses it"):
        await lab.put(adapter, "z", {"n": 9}, group="ada")


async def test_images_are_turned_on_where_they_are_wanted_and_doctor_says_so_before(lab: Any) -> None:
    adapter, orders = await lab.map(images=False, enable_images=True)
    findings = await adapter.diagnose()
    assert [finding.message for finding in findings if finding.level == "error"] == []
    assert any("turned on at the first start" in finding.message for finding in findings)
    await adapter.prepare(lab.docs)
    assert not any("turned on" in finding.message for finding in await adapter.diagnose())
    start = await adapter.head(lab.docs)
    await orders.insert_one({"_id": "x", "customer": "ada"})
    await orders.delete_one({"_id": "x"})
    assert [change.type for change in await lab.log(adapter, start)] == ["create", "delete"]


async def test_doctor_asks_for_an_index_that_finds_a_group(lab: Any) -> None:
    adapter, orders = await lab.map()
    said = "no index of 'orders' begins with 'customer'"
    findings = [finding for finding in await adapter.diagnose() if finding.message.startswith(said)]
    assert [finding.remedy for finding in findings] == ["db['orders'].createIndex({customer: 1})"]
    await orders.create_index([("customer", 1), ("placed", 1)])
    assert not any(finding.message.startswith(said) for finding in await adapter.diagnose())


async def test_an_id_that_is_unique_by_itself_is_in_one_group_only(lab: Any) -> None:
    server = await lab.serve()
    orders = lab.client(server.url)["shop"]["orders"]
    await orders.database.create_collection("orders", changeStreamPreAndPostImages={"enabled": True})
    await orders.create_index("code", unique=True)
    adapter, _ = await lab.map(server=server, id_field="code", include_ids=False)
    await lab.put(adapter, "x", {"n": 1}, group="ada")
    with pytest.raises(Conflict, match="belongs to group 'ada'"):
        await lab.put(adapter, "x", {"n": 2}, group="bob")
    await orders.create_index("customer", unique=True)  # one item for each customer
    with pytest.raises(InvalidValue, match="refuses it"):
        await lab.put(adapter, "y", {"n": 2}, group="ada")
    await lab.put(adapter, "x", {"n": 3}, group="ada")
    assert [(order["code"], order["n"]) for order in await orders.find().to_list()] == [("x", 3)]


async def test_filter_fields_and_integer_ids(lab: Any) -> None:
    adapter, orders = await lab.map(id_type="int", filter={"kind": "order"}, fields=["n"], include_ids=False)
    await orders.insert_many([{"_id": n, "customer": "ada", "kind": "order", "n": n, "secret": 1} for n in (2, 10, 9)])
    await orders.insert_one({"_id": 3, "customer": "ada", "kind": "note", "n": 3})
    items = await adapter.list(lab.docs, "ada", after=None, limit=None)
    assert [(item.id, item.value) for item in items] == [("10", {"n": 10}), ("2", {"n": 2}), ("9", {"n": 9})]
    assert [item.id for item in await adapter.list(lab.docs, "ada", after="10", limit=1)] == ["2"]
    start = await adapter.head(lab.docs)
    await orders.update_one({"_id": 2}, {"$set": {"secret": 2}})  # is not shown: no change
    await orders.update_one({"_id": 2}, {"$set": {"kind": "note"}})
    await orders.update_one({"_id": 3}, {"$set": {"kind": "order"}})
    await lab.put(adapter, "10", {"n": 11}, group="ada")
    assert [(c.type, c.id) for c in await lab.log(adapter, start)] == [
        ("delete", "2"),
        ("create", "3"),
        ("update", "10"),
    ]
    assert await orders.find_one({"_id": 10}) == {"_id": 10, "customer": "ada", "kind": "order", "n": 11, "secret": 1}
    with pytest.raises(InvalidName, match="decimal number"):
        await adapter.get(lab.docs, "ada", "x")


async def test_a_dropped_collection_expires_its_positions(lab: Any) -> None:
    adapter, orders = await lab.map()
    result = await lab.put(adapter, "x", {"n": 1}, group="ada")
    await orders.drop()
    with pytest.raises((PositionExpired, BackendError)):
        await lab.log(adapter, result.position)
    await orders.database.create_collection("orders", changeStreamPreAndPostImages={"enabled": True})

    async def works() -> bool:
        try:
            await adapter.prepare(lab.docs)
            await lab.put(adapter, "x", {"n": 2}, group="ada")
        except BackendError:
            return False
        return True

    await lab.eventually(works, "the new collection to be used")
    with pytest.raises(PositionExpired):
        await lab.log(adapter, result.position)


async def test_a_collection_too_large_to_search_is_mapped_all_the_same(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "motia_adapters.mongodb.mapped.mapping.COUNTING", 0.001
    )  # seconds: in place of a huge collection
    adapter, orders = await lab.map()
    await orders.insert_many([{"customer": "ada", "n": n} for n in range(100_000)])
    again = await lab.connect(lab.servers[0].url, mapped=MappedOptions(collection="orders", group_field="customer"))
    await again.prepare(lab.docs)
    assert any("too large to count" in finding.message for finding in await again.diagnose())
    start = await adapter.head(lab.docs)
    await orders.insert_one({"_id": "x", "customer": "bob"})
    assert [(change.type, change.id) for change in await lab.log(adapter, start)] == [("create", "x")]
