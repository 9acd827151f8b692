"""Servers and collections that cannot be used, history that is gone, connections that break."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import pytest
from motia_adapters.mongodb.options import MappedOptions, MongoOptions, options_from_url
from pydantic import ValidationError

from motia_core.adapter import StorageSettings
from motia_core.errors import (
    BackendError,
    BackendUnavailable,
    ConfigError,
    InvalidValue,
    MotiaError,
    OutcomeUnknown,
    PositionExpired,
)
from motia_core.model import Write
from motia_core.testing.harness import Reader
from motia_core.testing.proxy import Proxy
from motia_core.testing.servers import MongoDB, free_port


class Standalone(MongoDB):
    set_name = ""


class Small(MongoDB):
    """With an oplog that rolls over in a moment."""

    def __init__(self) -> None:
        super().__init__("--syncdelay", "1")

    def _command(self) -> Any:
        command = list(super()._command())
        command[command.index("--oplogSize") + 1] = "5"
        return command


def test_urls_become_options() -> None:
    assert options_from_url("mongodb://h:1,i:2/shop?replicaSet=rs0&mapped.collection=orders&driver=motor") == {
        "url": "mongodb://h:1,i:2/?replicaSet=rs0",
        "database": "shop",
        "driver": "motor",
        "mapped": {"collection": "orders"},
    }
    with_user = options_from_url("mongodb://me:pw@h/shop")
    assert with_user["url"] == "mongodb://me:pw@h/?authSource=shop"
    for url, said in [("http://h", "begins with"), ("mongodb://", "names a host"), ("mongodb://h/a#b", "no fragment")]:
        with pytest.raises(ValueError, match=said):
            options_from_url(url)


def test_options_that_do_not_fit_are_refused_and_passwords_never_shown() -> None:
    for options in (
        {"database": "a.b"},
        {"database": "local"},
        {"driver": "other"},
        {"url": "http://h"},
        {"nonsense": 1},
    ):
        with pytest.raises(ValidationError):
            MongoOptions(**options)
    with pytest.raises(ValidationError, match="two fields"):
        MappedOptions(collection="c", group_field="a", id_field="a")
    secret = MongoOptions(**options_from_url("mongodb://me:sesame@h/shop"))
    assert "sesame" not in repr(secret) + secret.address


async def test_a_standalone_server_is_refused_with_the_remedy(lab: Any) -> None:
    server = await lab.serve(Standalone())
    with pytest.raises(BackendError, match=r"standalone.*--replSet rs0.*rs\.initiate"):
        await lab.connect(server.url)


async def test_no_server_fails_in_time(lab: Any) -> None:
    port = free_port()
    async with asyncio.timeout(10):
        with pytest.raises(BackendUnavailable, match=rf"127\.0\.0\.1:{port}.*is the server running"):
            await lab.connect(f"mongodb://me:sesame@127.0.0.1:{port}/", timeout=0.5)


async def test_a_namespace_that_no_collection_can_have_is_refused(lab: Any) -> None:
    from motia_adapters.mongodb.adapter import MongoAdapter

    for namespace, said in [("a$b", "must have no"), ("system", "MongoDB's own")]:
        adapter = MongoAdapter(StorageSettings("default", namespace=namespace), MongoOptions())
        with pytest.raises(ConfigError, match=said):
            await adapter.open()


async def test_history_that_rolled_over_is_expired_and_never_skipped(lab: Any) -> None:
    server = await lab.serve(Small())
    adapter = await lab.connect(server.url)
    first = await lab.put(adapter, "x", {"n": 0})
    filler = lab.client(server.url)["noise"]["noise"]

    async def rolled_over() -> bool:
        await filler.insert_many([{"x": "y" * 100_000} for _ in range(50)])
        return bool(await adapter.floor(lab.docs) > first.position)

    await lab.eventually(rolled_over, "the oplog to roll over")
    with pytest.raises(PositionExpired) as caught:
        await lab.log(adapter, first.position)
    assert caught.value.floor is not None
    head = await adapter.head(lab.docs)
    last = await lab.put(adapter, "x", {"n": 1})
    assert [change.position for change in await lab.log(adapter, head)] == [last.position]


async def test_a_new_history_is_begun_by_hand(lab: Any) -> None:
    server = await lab.serve()
    adapter = await lab.connect(server.url)
    first = await lab.put(adapter, "x", {"n": 0})
    head = await adapter.head(lab.docs)
    running = Reader(adapter.watch(lab.docs, head))
    await running.count(1)
    await adapter.begin_history(lab.docs)
    for position in (first.position, head):
        with pytest.raises(PositionExpired) as caught:
            await lab.log(adapter, position)
        assert caught.value.floor is not None
        assert caught.value.floor > head
    begun = await adapter.head(lab.docs)
    second = await lab.put(adapter, "x", {"n": 1})
    assert [change.position for change in await lab.log(adapter, begun)] == [second.position]
    seen = await running.until(lambda batches: any(batch.changes for batch in batches))  # who watches goes on
    assert [change.position for batch in seen for change in batch.changes] == [second.position]
    await running.stop()


async def test_connections_that_are_cut_lose_nothing(lab: Any) -> None:
    server = await lab.serve()
    async with Proxy(server.port) as proxy:
        adapter = await lab.connect(f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true")
        start = await adapter.head(lab.docs)
        written: list[str] = []
        for number in range(60):
            if number % 10 == 5:
                proxy.cut()
            try:
                written.append((await lab.put(adapter, f"{number}", {"n": number})).position)
            except MotiaError:
                continue
        log = [change.position for change in await lab.log(adapter, start)]
        assert set(written) <= set(log)
        assert log == sorted(set(log))
        await adapter.close()


async def test_a_watch_that_is_cut_says_so_and_goes_on_from_its_position(lab: Any) -> None:
    server = await lab.serve()
    direct = await lab.connect(server.url)
    async with Proxy(server.port) as proxy:
        adapter = await lab.connect(f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true")
        position = await adapter.head(lab.docs)
        reader = Reader(adapter.watch(lab.docs, position))
        await reader.count(1)
        proxy.cut()
        with pytest.raises(BackendUnavailable):
            await reader.until(lambda _: False)
        result = await lab.put(direct, "x", {"n": 1})
        assert [change.position for change in await lab.log(adapter, position)] == [result.position]
        await adapter.close()


async def test_a_silent_server_fails_calls_in_time(lab: Any) -> None:
    server = await lab.serve()
    adapter = await lab.connect(server.url, timeout=0.6)
    await lab.put(adapter, "x", {"n": 0})
    server.pause()
    try:
        async with asyncio.timeout(10):
            with pytest.raises((OutcomeUnknown, BackendUnavailable)):
                await lab.put(adapter, "x", {"n": 1})
            with pytest.raises(BackendUnavailable):
                await adapter.get(lab.docs, "g", "x")
    finally:
        server.resume()
    await lab.eventually(lambda: _answers(lab, adapter), "the server to answer again")


async def _answers(lab: Any, adapter: Any) -> bool:
    try:
        return await adapter.get(lab.docs, "g", "x") is not None
    except MotiaError:
        return False


async def test_many_watches_are_one_change_stream(lab: Any) -> None:
    server = await lab.serve()
    adapter = await lab.connect(server.url)
    head = await adapter.head(lab.docs)
    readers = [Reader(adapter.watch(lab.docs, head)) for _ in range(50)]
    for reader in readers:
        await reader.count(1)
    admin = lab.client(server.url).admin

    async def one() -> bool:
        pipeline = [{"$currentOp": {"allUsers": True, "idleCursors": True, "localOps": True}}]
        cursor = await admin.aggregate(pipeline)
        mine = [
            op
            for op in await cursor.to_list()
            if "$changeStream" in str(op.get("cursor", {}).get("originatingCommand"))
        ]
        return len(mine) == 1

    await lab.eventually(one, "one change stream on the server")
    for reader in readers:
        await reader.stop()


async def test_doctor_says_what_hurts(lab: Any) -> None:
    server = await lab.serve()
    adapter = await lab.connect(server.url)
    said = " ".join(f"{finding.message} {finding.remedy}" for finding in await adapter.diagnose())
    assert "replica set 'rs0'" in said
    assert "one member only" in said
    assert "the oplog reaches" in said


async def test_values_and_documents_over_the_limit_are_refused(lab: Any) -> None:
    server = await lab.serve()
    adapter = await lab.connect(server.url)
    with pytest.raises(InvalidValue, match="too large"):
        await lab.put(adapter, "x", {"x": "y" * 17_000_000})
    assert await adapter.get(lab.docs, "g", "x") is None
    async with aclosing(adapter.watch(lab.docs, await adapter.head(lab.docs))) as batches:
        assert not (await anext(batches)).changes


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_what_an_url_says_of_reading_writing_and_time_breaks_nothing(lab: Any, driver: str) -> None:
    server = await lab.serve()
    for option in ("readPreference=secondaryPreferred", "timeoutMS=20000", "w=0", "retryWrites=true"):
        adapter = await lab.connect(f"{server.url}&{option}", driver=driver)
        start = await adapter.head(lab.docs)
        reader = Reader(adapter.watch(lab.docs, start))
        await adapter.write(lab.docs, [Write("set", option, f"{n}", b"{}") for n in range(200)])
        assert len(await adapter.list(lab.docs, option, after=None, limit=None)) == 200
        await reader.until(lambda batches: sum(len(batch.changes) for batch in batches) == 200)
        await reader.stop()


async def test_what_somebody_puts_into_our_collections_stops_nothing(lab: Any) -> None:
    server = await lab.serve()
    adapter = await lab.connect(server.url)
    start = await adapter.head(lab.docs)
    ours = lab.client(server.url)["shop"]["test.stream.documents"]
    past = datetime(2020, 1, 1, tzinfo=UTC)
    await ours.insert_many([{"_id": 5, "x": past}, {"_id": "a", "c": 1, "r": 2, "v": 3, "x": past, "g": 7}])
    await ours.update_one({"_id": 5}, {"$set": {"c": 1, "r": 1}})
    await ours.delete_one({"_id": "a"})
    await lab.put(adapter, "x", {"n": 1}, ttl=0.05)

    async def gone() -> bool:
        return [change.type for change in await lab.log(adapter, start)] == ["create", "delete"]

    await lab.eventually(gone, "the expired item to be removed")
    await lab.put(adapter, "y", {"n": 1})
    assert await adapter.list_groups(lab.docs, after=None, limit=None) == ["g"]
    assert [item.id for item in await adapter.list(lab.docs, "g", after=None, limit=None)] == ["y"]


async def test_a_commit_that_no_majority_confirmed_may_have_happened(lab: Any) -> None:
    """Killed by an operator while it waited for the others, say: it is done here."""
    server = await lab.serve(MongoDB("--setParameter", "enableTestCommands=1"))
    adapter = await lab.connect(server.url)
    await adapter.prepare(lab.docs)
    error = {"code": 11601, "errmsg": "operation was interrupted"}
    await lab.client(server.url).admin.command(
        {
            "configureFailPoint": "failCommand",
            "mode": {"times": 1},
            "data": {"failCommands": ["commitTransaction"], "writeConcernError": error},
        }
    )
    with pytest.raises(OutcomeUnknown, match="operation was interrupted"):
        await adapter.write(lab.docs, [Write("set", "g", id, b"{}") for id in "ab"])

    async def stored() -> bool:
        return await adapter.get(lab.docs, "g", "a") is not None

    await lab.eventually(stored, "a majority to have it")
