"""What goes wrong while it is used: memory, types, scripts, roles, frozen servers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from motia_adapters.redis.keys import keys_of

from motia_core.errors import BackendError, BackendUnavailable, OutcomeUnknown, UpdateError
from motia_core.model import StreamSpec, Write
from motia_core.testing.servers import Redis, Redis62

KEYS = keys_of("test", "docs")


@pytest.mark.parametrize("kind", [Redis, Redis62])
async def test_a_full_server_refuses_sets_whole_and_takes_deletes(lab: Any, kind: type[Redis]) -> None:
    server = await lab.serve(kind=kind)
    adapter = await lab.connect(server.port)
    first = await lab.put(adapter, "x", {"n": 1})
    await lab.ask(server.port, "CONFIG", "SET", "maxmemory", 1)
    for writes in (
        [Write("set", "g", "x", b'{"n":2}')],
        [Write("set", "g", "new", b"{}"), Write("delete", "g", "x")],
        [lab.increment("x")],
        [Write("event", "g", None, b"1", event_type="t")],
    ):
        with pytest.raises(BackendUnavailable, match=r"OOM.*maxmemory is used up"):
            await adapter.write(lab.docs, writes)
    item = await adapter.get(lab.docs, "g", "x")
    assert (item.version, item.value) == (first.version, {"n": 1})
    assert await adapter.head(lab.docs) == first.position
    (gone,) = await adapter.write(lab.docs, [Write("delete", "g", "x")])
    assert gone.type == "delete"
    await lab.ask(server.port, "CONFIG", "SET", "maxmemory", 0)
    await lab.put(adapter, "x", {"n": 3})
    assert [change.type for change in await lab.log(adapter, first.position)] == ["delete", "create"]


@pytest.mark.parametrize(
    "key",
    [KEYS.log, KEYS.groups, KEYS.deadlines, KEYS.items("g"), f"{KEYS.prefix}z:g", KEYS.meta],
    ids=lambda k: k[-3:],
)
@pytest.mark.parametrize("kind", [Redis, Redis62])
async def test_a_foreign_key_in_our_place_fails_the_write_whole(lab: Any, key: str, kind: type[Redis]) -> None:
    server = await lab.serve(kind=kind)
    adapter = await lab.connect(server.port)
    await lab.ask(server.port, "DEL", key)
    await lab.ask(server.port, "SET", key, "foreign")
    before = sorted(await lab.ask(server.port, "KEYS", "*"))
    with pytest.raises(BackendError, match=r"WRONGTYPE.*another program uses this key"):
        await adapter.write(lab.docs, [Write("set", "g", "x", b"{}", ttl=60.0), Write("delete", "g", "y")])
    with pytest.raises(BackendError):
        await adapter.write(lab.docs, [lab.increment("x")])
    assert sorted(await lab.ask(server.port, "KEYS", "*")) == before
    assert await lab.ask(server.port, "GET", key) == b"foreign"
    await lab.ask(server.port, "DEL", key)
    assert (await lab.put(adapter, "x", {})).type == "create"


@pytest.mark.parametrize("key", [KEYS.log, KEYS.groups, f"{KEYS.prefix}z:g"], ids=["log", "groups", "order"])
async def test_a_foreign_key_in_our_place_fails_a_delete_whole(lab: Any, key: str) -> None:
    server = await lab.serve()
    adapter = await lab.connect(server.port)
    written = await lab.put(adapter, "x", {"n": 1}, ttl=0.3)
    await lab.ask(server.port, "DEL", key)
    await lab.ask(server.port, "SET", key, "foreign")
    with pytest.raises(BackendError, match="WRONGTYPE"):
        await adapter.write(lab.docs, [Write("delete", "g", "x")])

    async def expired() -> bool:
        return await adapter.get(lab.docs, "g", "x") is None

    await lab.eventually(expired, "the item to expire")
    with pytest.raises(BackendError, match="WRONGTYPE"):  # after its delete, which cannot be logged
        await lab.put(adapter, "x", {"n": 2})
    stored = await lab.ask(server.port, "HGET", KEYS.items("g"), "x")
    assert stored.startswith(written.version.encode()), "half a write"
    assert await adapter.head(lab.docs) == written.position


async def test_a_foreign_key_of_one_group_fails_no_other_group(lab: Any) -> None:
    server = await lab.serve()
    adapter = await lab.connect(server.port)
    await lab.ask(server.port, "SET", KEYS.items("bad"), "foreign")
    writes = [adapter.write(lab.docs, [Write("set", group, "x", b"{}")]) for group in ("a", "bad", "b")]
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert [isinstance(result, BackendError) for result in results] == [False, True, False]
    assert await adapter.list_groups(lab.docs, after=None, limit=None) == ["a", "b"]


async def test_scripts_that_were_flushed_are_loaded_again(lab: Any) -> None:
    server = await lab.serve()
    adapter = await lab.connect(server.port)
    for number in range(3):
        await lab.ask(server.port, "SCRIPT", "FLUSH")
        await lab.put(adapter, "x", {"n": number})
        await lab.ask(server.port, "SCRIPT", "FLUSH")
        assert [item.value for item in await adapter.list(lab.docs, "g", after=None, limit=None)] == [{"n": number}]


async def test_a_frozen_server_fails_calls_in_time_and_is_used_again(lab: Any) -> None:
    server = await lab.serve()
    adapter = await lab.connect(server.port, timeout=0.5)
    await lab.put(adapter, "x", {"n": 0})
    server.pause()
    try:
        async with asyncio.timeout(10):
            with pytest.raises(OutcomeUnknown):
                await lab.put(adapter, "x", {"n": 1})
            with pytest.raises(BackendUnavailable, match="cannot"):
                await adapter.get(lab.docs, "g", "x")
            with pytest.raises(BackendUnavailable):  # nothing was sent: there is no connection
                await lab.put(adapter, "x", {"n": 2})
    finally:
        server.resume()
    await lab.eventually(lambda: adapter.get(lab.docs, "g", "x"), "the server to answer")
    item = await adapter.get(lab.docs, "g", "x")
    assert item.value in ({"n": 0}, {"n": 1})


async def test_a_primary_that_became_a_replica_is_left(lab: Any) -> None:
    primary, other = await lab.serve(), await lab.serve()
    adapter = await lab.connect(primary.port)
    await lab.ask(primary.port, "REPLICAOF", "127.0.0.1", other.port)
    with pytest.raises(BackendUnavailable, match="connect to the primary"):
        await lab.put(adapter, "x", {})
    with pytest.raises(BackendUnavailable, match="connect to the primary"):
        await adapter.get(lab.docs, "g", "x")
    await lab.ask(primary.port, "REPLICAOF", "NO", "ONE")
    await lab.put(adapter, "x", {})


async def test_what_a_stale_state_refuses_is_tried_on_the_true_one(lab: Any) -> None:
    """An update that fails on the state that was last known may well apply to what another process left."""
    server = await lab.serve()
    mine, theirs = await lab.connect(server.port), await lab.connect(server.port)
    await mine.write(lab.docs, [lab.increment("x")])
    await lab.put(theirs, "x", {"n": "text"})
    with pytest.raises(UpdateError):
        await mine.write(lab.docs, [lab.increment("x")])
    await lab.put(theirs, "x", {"n": 7})
    (result,) = await mine.write(lab.docs, [lab.increment("x")])
    assert result.new_value == {"n": 8}


async def test_waiting_updates_of_one_item_share_a_call(lab: Any) -> None:
    server = await lab.serve()
    adapter = await lab.connect(server.port)
    await adapter.write(lab.docs, [lab.increment("x")])
    calls = await _calls(lab, server)
    results = await asyncio.gather(*(adapter.write(lab.docs, [lab.increment("x")]) for _ in range(64)))
    assert sorted(result.new_value["n"] for (result,) in results) == list(range(2, 66))
    assert await _calls(lab, server) - calls <= 4
    operations = [lab.increment("x"), Write("set", "g", "x", b'{"n":100}'), lab.increment("x")]
    operations += [Write("delete", "g", "x"), lab.increment("x")]
    results = await asyncio.gather(*(adapter.write(lab.docs, [write]) for write in operations))
    assert [result.new_value and result.new_value["n"] for (result,) in results] == [66, 100, 101, None, 1]


async def test_a_chain_breaks_where_a_link_fails_and_goes_on(lab: Any) -> None:
    server = await lab.serve()
    mine, theirs = await lab.connect(server.port), await lab.connect(server.port)
    await mine.write(lab.docs, [lab.increment("x")])
    await lab.put(theirs, "x", {"n": 10})
    writes = [[lab.increment("x")], [Write("set", "g", "x", b'{"n":"text"}', expect="absent")], [lab.increment("x")]]
    results: list[Any] = await asyncio.gather(*(mine.write(lab.docs, unit) for unit in writes), return_exceptions=True)
    assert [result[0].new_value["n"] for result in (results[0], results[2])] == [11, 12]
    assert isinstance(results[1], Exception)


async def test_begin_history_expires_all_positions(lab: Any) -> None:
    server = await lab.serve()
    adapter = await lab.connect(server.port)
    before = await lab.put(adapter, "x", {"n": 1})
    await adapter.begin_history(lab.docs)
    with pytest.raises(Exception, match=r"is not a place|are gone"):
        await lab.log(adapter, before.position)
    head = await adapter.head(lab.docs)
    after = await lab.put(adapter, "x", {"n": 2})
    assert [change.position for change in await lab.log(adapter, head)] == [after.position]


async def test_streams_are_told_apart_by_name_only(lab: Any) -> None:
    server = await lab.serve()
    adapter = await lab.connect(server.port)
    for name in ("docs", "docs2", "$docs"):
        await lab.put(adapter, "x", {"of": name}, spec=StreamSpec(name))
    for name in ("docs", "docs2", "$docs"):
        assert (await adapter.get(StreamSpec(name), "g", "x")).value == {"of": name}


async def _calls(lab: Any, server: Any) -> int:
    stats = (await lab.ask(server.port, "INFO", "commandstats")).decode()
    line = next(line for line in stats.splitlines() if line.startswith("cmdstat_evalsha:"))
    return int(line.partition("calls=")[2].partition(",")[0])


async def test_a_write_waits_for_as_many_replicas_as_are_asked_for(lab: Any) -> None:
    primary, replica = await lab.serve(), await lab.serve()
    await lab.ask(replica.port, "REPLICAOF", "127.0.0.1", primary.port)

    async def follows() -> bool:
        return "master_link_status:up" in (await lab.ask(replica.port, "INFO", "replication")).decode()

    await lab.eventually(follows, "the replica to follow")
    adapter = await lab.connect(primary.port, timeout=1.0, replicas=1)
    for number in range(3):
        result = await lab.put(adapter, "x", {"n": number})
        stored = await lab.ask(replica.port, "HGET", KEYS.items("g"), "x")
        assert stored.startswith(result.version.encode())
    replica.pause()
    try:
        with pytest.raises(OutcomeUnknown, match="0 of 1 replicas"):
            await lab.put(adapter, "x", {"n": 3})
        assert (await adapter.get(lab.docs, "g", "x")).value == {"n": 3}
    finally:
        replica.resume()
    await lab.put(adapter, "x", {"n": 4})
