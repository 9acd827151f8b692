"""Three members: the primary is killed under load, or steps down; nothing is lost or told in another order (B1-B3)."""

from __future__ import annotations

import asyncio
from typing import Any

from pymongo.errors import PyMongoError

from motia_core.errors import MotiaError
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


async def test_the_primary_is_killed_and_steps_down_under_load(lab: Any) -> None:
    members = MongoReplicaSet()
    await start_or_skip(members.members[0])
    await members.members[0].kill()
    await members.start()
    lab.servers.append(members)
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
    primary = members.primary()
    assert primary is not None
    client = lab.client(primary.url)

    async def stepped_down() -> bool:
        try:
            await client.admin.command("replSetStepDown", 5, secondaryCatchUpPeriodSecs=3)
        except PyMongoError as error:
            return "ExceededTimeLimit" not in str(error)
        return True

    await lab.eventually(stepped_down, "the primary to step down")
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
