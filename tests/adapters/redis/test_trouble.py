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


async def test_calls_that_are_sent_together_keep_their_order_when_scripts_are_flushed(lab: Any) -> None:
    server = await lab.serve()
    adapter = await lab.connect(server.port)
    start = await adapter.head(lab.docs)
    for first in range(0, 2_000, 40):
        await asyncio.gather(
            *(lab.put(adapter, "x", {"n": number}) for number in range(first, first + 40)),
            lab.ask(server.port, "SCRIPT", "FLUSH"),
        )
    assert [change.json for change in await lab.log(adapter, start)] == [b'{"n":%d}' % n for n in range(2_000)]


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


async def test_reads_do_not_wait_for_replicas(lab: Any) -> None:
    """A connection that waits for replicas answers nothing else, and each stream's upkeep would wait as well."""
    primary = await lab.serve()
    adapter = await lab.connect(primary.port, timeout=10.0, replicas=1)  # there are none
    for number in range(3):
        await adapter.head(StreamSpec(f"s{number}"))  # begins its first epoch
    writing = asyncio.create_task(lab.put(adapter, "x", {"n": 1}))

    async def stored() -> bool:
        return bool(await lab.ask(primary.port, "HEXISTS", KEYS.items("g"), "x") == 1)

    await lab.eventually(stored, "the write to be stored")
    for _ in range(20):
        assert (await adapter.get(lab.docs, "g", "x")).value == {"n": 1}
    assert not writing.done(), "it waits for its replica"
    with pytest.raises(OutcomeUnknown, match="0 of 1 replicas"):
        await writing


@pytest.mark.parametrize("kind", [Redis, Redis62])
async def test_a_full_server_takes_deletes_that_wait_with_sets(lab: Any, kind: type[Redis]) -> None:
    server = await lab.serve(kind=kind)
    adapter = await lab.connect(server.port)
    first = await lab.put(adapter, "x", {"n": 1})
    await lab.ask(server.port, "CONFIG", "SET", "maxmemory", 1)
    writes = [
        [Write("set", "g", "a", b"{}")],  # leaves alone; the others share a call
        [Write("set", "g", "b", b"{}")],
        [Write("delete", "g", "none"), Write("set", "g", "c", b"{}")],
        [Write("event", "g", None, b"1", event_type="t")],
        [Write("delete", "g", "x")],
    ]
    results: list[Any] = await asyncio.gather(
        *(adapter.write(lab.docs, unit) for unit in writes), return_exceptions=True
    )
    assert [isinstance(result, BackendUnavailable) for result in results] == [True] * 4 + [False], results
    assert all("maxmemory is used up" in str(result) for result in results[:4])
    await lab.ask(server.port, "CONFIG", "SET", "maxmemory", 0)
    after = await lab.put(adapter, "y", {})
    changes = await lab.log(adapter, first.position)
    assert [(change.type, change.id) for change in changes] == [("delete", "x"), ("create", "y")]
    assert [change.position for change in changes] == [results[4][0].position, after.position]


@pytest.mark.parametrize("id", [None, "y"])
async def test_an_event_beside_an_update_of_a_stale_state(lab: Any, id: str | None) -> None:
    """What is checked again is the update's item, not the event before it."""
    server = await lab.serve()
    mine, theirs = await lab.connect(server.port), await lab.connect(server.port)
    await mine.write(lab.docs, [lab.increment("x")])
    await lab.put(mine, "x", {"n": "text"})
    await lab.put(theirs, "x", {"n": 7})
    event = Write("event", "g", id, b"1", event_type="t")
    _, result = await mine.write(lab.docs, [event, lab.increment("x")])
    assert result.new_value == {"n": 8}
    await lab.put(mine, "x", {"n": "text"})
    with pytest.raises(UpdateError):
        await mine.write(lab.docs, [event, lab.increment("x")])


@pytest.mark.parametrize("ttl", [7e10, 9.9e10])
async def test_an_item_that_lives_for_thousands_of_years(lab: Any, ttl: float) -> None:
    server = await lab.serve()
    adapter = await lab.connect(server.port)
    start = await adapter.head(lab.docs)
    await lab.put(adapter, "x", {"n": 1}, ttl=ttl)
    await adapter.write(lab.docs, [lab.increment("x")])
    item = await adapter.get(lab.docs, "g", "x")
    assert (item.json, item.expires) == (b'{"n":2}', True)
    assert [change.json for change in await lab.log(adapter, start)] == [b'{"n":1}', b'{"n":2}']


@pytest.mark.parametrize("key", [KEYS.items("bad"), f"{KEYS.prefix}z:bad"], ids=["items", "order"])
async def test_a_foreign_key_of_one_group_lets_others_expire(lab: Any, key: str) -> None:
    server = await lab.serve()
    adapter = await lab.connect(server.port)
    batch = [Write("set", "bad", str(number), b"{}", ttl=1.0) for number in range(250)]  # more than one look takes
    await asyncio.gather(*(adapter.write(lab.docs, [write]) for write in batch))
    await lab.ask(server.port, "DEL", key)
    await lab.ask(server.port, "SET", key, "foreign")
    head = (await lab.put(adapter, "x", {}, ttl=1.5)).position

    async def removed() -> bool:
        return any((change.type, change.id) == ("delete", "x") for change in await lab.log(adapter, head))

    await lab.eventually(removed, "the item of another group to be removed")
    assert await lab.ask(server.port, "GET", key) == b"foreign"


async def test_closing_while_others_write_ends_each_write_one_way_or_the_other(lab: Any) -> None:
    """What was asked for is finished, what comes later refused: nobody is left to guess."""
    server = await lab.serve()
    adapter = await lab.connect(server.port)
    counts = dict.fromkeys("abcdefgh", 0)
    ends: list[Exception] = []

    async def write(name: str) -> None:
        while True:
            kind = Write("set", "g", name, b'{"n":%d}' % (counts[name] + 1)) if name in "abcd" else lab.increment(name)
            try:
                await adapter.write(lab.docs, [kind])
            except Exception as error:
                ends.append(error)
                return
            counts[name] += 1

    async def busy() -> bool:
        return min(counts.values()) >= 20

    tasks = [asyncio.create_task(write(name)) for name in counts]
    await lab.eventually(busy, "everybody to write")
    await adapter.close()
    async with asyncio.timeout(20):
        await asyncio.gather(*tasks)
    assert {type(end) for end in ends} == {BackendUnavailable}, ends
    again = await lab.connect(server.port)
    items = await again.list(lab.docs, "g", after=None, limit=None)
    assert {item.id: item.value["n"] for item in items} == counts


async def test_a_primary_that_is_demoted_while_replicas_are_waited_for_leaves_the_outcome_open(lab: Any) -> None:
    """The script has run: that nobody confirmed it does not mean that nothing was written."""
    primary, other = await lab.serve(), await lab.serve()
    adapter = await lab.connect(primary.port, timeout=20.0, replicas=1)
    writing = asyncio.create_task(lab.put(adapter, "x", {"n": 1}))

    async def stored() -> bool:
        return bool(await lab.ask(primary.port, "HEXISTS", KEYS.items("g"), "x") == 1)

    async def waits() -> bool:
        return "blocked_clients:1" in (await lab.ask(primary.port, "INFO", "clients")).decode()

    await lab.eventually(stored, "the write to be stored")
    await lab.eventually(waits, "the wait for replicas")
    await lab.ask(primary.port, "REPLICAOF", "127.0.0.1", other.port)
    with pytest.raises(OutcomeUnknown, match="UNBLOCKED"):
        await writing


async def test_a_user_who_may_not_wait_for_replicas_is_told_before_anything_is_written(lab: Any) -> None:
    server = await lab.serve()
    await lab.ask(server.port, "ACL", "SETUSER", "app", "on", ">geheim", "~*", "&*", "+@all", "-wait")
    with pytest.raises(BackendError, match="NOPERM") as refused:
        await lab.connect(server.port, username="app", password="geheim", replicas=1)
    assert "geheim" not in str(refused.value)
    assert await lab.ask(server.port, "KEYS", "*") == []
