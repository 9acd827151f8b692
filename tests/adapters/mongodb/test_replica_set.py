"""Three members: the primary is killed under load, or steps down; nothing is lost or told in another order (B1-B3)."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from typing import Any

from motia_adapters.mongodb.options import MappedOptions
from pymongo import WriteConcern
from pymongo.errors import PyMongoError

from motia_core.errors import BackendError, MotiaError
from motia_core.testing.history import check_history
from motia_core.testing.servers import MongoReplicaSet, start_or_skip


async def _load(lab: Any, adapter: Any, acknowledged: dict[str, int], stop: asyncio.Event, number: int) -> None:
    """Write rising numbers to one item; remember the last that was acknowledged."""
    n = 0
    while not stop.is_set():
        n += 1
        try:
            await lab.put(adapter, f"{number}", {"n": n})
            acknowledged[f"{number}"] = n
        except MotiaError:
            await asyncio.sleep(0.02)


FOREIGN = """
import random, sys
from pymongo import MongoClient, WriteConcern
from pymongo.errors import PyMongoError
client = MongoClient(sys.argv[1], serverSelectionTimeoutMS=20_000)
orders = client["shop"].get_collection("orders", write_concern=WriteConcern("majority"))
n = 0
while True:
    n += 1
    id, order = f"o{random.randrange(6)}", {"customer": random.choice(["ada", "bob"]), "n": n}
    def both(session):
        orders.replace_one({"_id": id}, order, upsert=True, session=session)
        orders.update_one({"_id": "o9"}, {"$set": order}, upsert=True, session=session)
    try:
        match random.randrange(4):
            case 0:
                orders.update_one({"_id": id}, {"$set": order}, upsert=True)
            case 1:
                orders.replace_one({"_id": id}, order, upsert=True)
            case 2:
                orders.delete_one({"_id": id})
            case 3:
                with client.start_session() as session:
                    session.with_transaction(both)
    except PyMongoError:
        continue
    print(n, flush=True)
"""


async def _three(lab: Any) -> MongoReplicaSet:
    members = MongoReplicaSet()
    await start_or_skip(members.members[0])
    await members.members[0].kill()
    await members.start()
    lab.servers.append(members)
    return members


async def test_another_program_writes_while_the_primary_is_killed_and_steps_down(lab: Any) -> None:
    members = await _three(lab)
    client = lab.client(members.url)
    orders = client["shop"]["orders"]
    await orders.database.create_collection("orders", changeStreamPreAndPostImages={"enabled": True})
    mapped = MappedOptions(collection="orders", group_field="customer")
    adapter = await lab.connect(members.url, mapped=mapped, timeout=10)
    start = await adapter.head(lab.docs)
    told: list[Any] = []

    async def follow() -> None:
        position = start
        while True:
            try:
                async for batch in adapter.watch(lab.docs, position):
                    told.extend(batch.changes)
                    position = batch.position
            except BackendError:  # a gap is none: it ends the test
                await asyncio.sleep(0.05)

    follower = asyncio.create_task(follow())
    other = await asyncio.create_subprocess_exec(sys.executable, "-c", FOREIGN, members.url, stdout=PIPE)
    assert other.stdout is not None

    async def writes(number: int) -> None:
        assert other.stdout is not None
        async with asyncio.timeout(60):
            for _ in range(number):
                assert await other.stdout.readline()

    try:
        await writes(50)
        primary = members.primary()
        assert primary is not None
        await primary.kill()
        await writes(50)
        await primary.start()
        await step_down(lab, members)
        await writes(50)
    finally:
        other.kill()
        await other.wait()
    await (
        client["shop"]
        .get_collection("orders", write_concern=WriteConcern("majority"))
        .insert_one({"_id": "last", "customer": "eve"})
    )
    await lab.eventually(lambda: _told(told, "last"), "the last change")
    assert not follower.done()
    follower.cancel()
    await asyncio.gather(follower, return_exceptions=True)
    there: dict[tuple[str, str], Any] = {}
    for change in told:  # each must follow from the one before
        key = (change.group_id, change.id)
        assert (change.type == "create") == (key not in there), change
        if change.type == "delete":
            assert there.pop(key) == change.data
        else:
            there[key] = change.data
    positions = [change.position for change in told]
    assert positions == sorted(set(positions))
    assert there == {(order["customer"], order["_id"]): order async for order in orders.find()}
    assert [change.position for change in await lab.log(adapter, start)] == positions


async def step_down(lab: Any, members: MongoReplicaSet) -> None:
    """Have the primary step down."""

    async def stepped_down() -> bool:
        primary = members.primary()
        if primary is None:
            return False
        try:
            await lab.client(primary.url).admin.command("replSetStepDown", 5, secondaryCatchUpPeriodSecs=3)
        except PyMongoError as error:
            return "ExceededTimeLimit" not in str(error)
        return True

    await lab.eventually(stepped_down, "the primary to step down")


async def test_the_primary_is_killed_and_steps_down_under_load(lab: Any) -> None:
    members = await _three(lab)
    adapter = await lab.connect(members.url)
    other = await lab.connect(members.url)
    start = await adapter.head(lab.docs)
    seen: list[Any] = []

    async def follow() -> None:
        position = start
        while True:
            try:
                async for batch in other.watch(lab.docs, position):
                    seen.extend(batch.changes)
                    position = batch.position
            except MotiaError:
                await asyncio.sleep(0.05)

    follower = asyncio.create_task(follow())
    stop, acknowledged = asyncio.Event(), dict[str, int]()
    writers = [asyncio.create_task(_load(lab, adapter, acknowledged, stop, n)) for n in range(4)]

    async def goes_on() -> None:
        before = dict(acknowledged)

        async def further() -> bool:
            return len(acknowledged) == 4 and all(n > before.get(id, 0) + 5 for id, n in acknowledged.items())

        await lab.eventually(further, "writes to be acknowledged again")

    await goes_on()
    primary = members.primary()
    assert primary is not None
    await primary.kill()
    await goes_on()
    await primary.start()
    await step_down(lab, members)
    await goes_on()
    stop.set()
    await asyncio.gather(*writers)

    async def written() -> bool:
        try:
            await lab.put(adapter, "last", {"n": 0})
        except MotiaError:
            return False
        return True

    await lab.eventually(written, "a last write")
    await lab.eventually(lambda: _told(seen, "last"), "the last change")
    follower.cancel()
    await asyncio.gather(follower, return_exceptions=True)
    items = await adapter.list(lab.docs, "g", after=None, limit=None)
    final = {("g", item.id): item.value for item in items}
    for id, n in acknowledged.items():
        assert final["g", id]["n"] >= n
        assert {change.data["n"] for change in seen if change.id == id} >= {n}
    assert check_history(seen, final), check_history(seen, final)
    replayed = await lab.log(adapter, start)
    positions = [change.position for change in replayed]
    assert [change.position for change in seen] == positions[: len(seen)]


async def _told(seen: list[Any], id: str) -> bool:
    return any(change.id == id for change in seen)
