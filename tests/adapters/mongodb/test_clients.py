"""Clients that the user hands in: used for everything, and left open."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import pytest
from pymongo import AsyncMongoClient

from motia_core import Motia, StreamConfig
from motia_core.errors import BackendUnavailable, ConfigError
from motia_core.model import Write
from motia_core.values import encode_object


def _client(driver: str, url: str) -> Any:
    if driver == "pymongo":
        return AsyncMongoClient(url)
    return import_module("motor.motor_asyncio").AsyncIOMotorClient(url)


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_a_client_handed_in_does_all_the_work_and_stays_open(lab: Any, driver: str) -> None:
    server = await lab.serve()
    client = _client(driver, server.url)
    nowhere = "mongodb://127.0.0.1:1/"
    adapter = await lab.connect(nowhere, client=client)
    assert adapter.address == f"mongodb://127.0.0.1:{server.port}/shop"
    start = await adapter.head(lab.docs)
    await lab.put(adapter, "1", {"n": 1})
    await adapter.write(lab.docs, [Write("set", "g", id, encode_object({"n": 2})) for id in ("1", "2")])
    assert [(change.type, change.id) for change in await lab.log(adapter, start)] == [
        ("create", "1"),
        ("update", "1"),
        ("create", "2"),
    ]
    assert [item.id for item in (await adapter.snapshot(lab.docs, "g", None, limit=None)).items] == ["1", "2"]
    await adapter.close()
    assert (await client.admin.command("ping"))["ok"] == 1
    again = await lab.connect(nowhere, client=client)
    assert (await again.get(lab.docs, "g", "2")).value == {"n": 2}
    await again.close()
    closing = client.close()
    if inspect.isawaitable(closing):
        await closing


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_a_client_handed_to_the_application_serves_streams_of_both_kinds(lab: Any, driver: str) -> None:
    server = await lab.serve()
    client = _client(driver, server.url)
    orders = client["shop"]["orders"]
    await client["shop"].create_collection("orders", changeStreamPreAndPostImages={"enabled": True})
    mapped = {"collection": "orders", "group_field": "customer"}
    storage = {
        "default": {"adapter": "mongodb", "client": client, "database": "shop"},
        "orders": {"adapter": "mongodb", "client": client, "database": "shop", "mapped": mapped},
    }
    streams = [StreamConfig("documents"), StreamConfig("orders", base_config={"storageType": "orders"})]
    async with Motia(streams=streams, storage=storage) as motia:
        async with motia.streams["documents"].watch("g") as watch:
            assert (await anext(watch)).type == "sync"
            await motia.streams["documents"].set("g", "x", {"n": 1})
            assert (await anext(watch)).data == {"n": 1}
        async with motia.streams["orders"].watch("ada") as watch:
            assert (await anext(watch)).data == []
            await orders.insert_one({"_id": "o1", "customer": "ada", "n": 1})
            change = await anext(watch)
            assert (change.type, change.id, change.data["n"]) == ("create", "o1", 1)
            await motia.streams["orders"].update("ada", "o1", [{"type": "increment", "path": "n", "by": 1}])
            assert (await anext(watch)).data["n"] == 2
            await motia.state.set("g", "k", 1)
    assert (await orders.find_one({"_id": "o1"}))["n"] == 2  # the client is open still
    closing = client.close()
    if inspect.isawaitable(closing):
        await closing


async def test_an_error_names_the_server_of_the_client_that_was_handed_in() -> None:
    client = AsyncMongoClient[Any]("mongodb://me:sesame@127.0.0.1:1/", serverSelectionTimeoutMS=200)
    motia = Motia(
        streams=[StreamConfig("documents")], storage={"default": {"adapter": "mongodb", "client": client, "timeout": 1}}
    )
    with pytest.raises(BackendUnavailable, match=r"mongodb://127\.0\.0\.1:1/motia") as caught:
        await motia.__aenter__()
    assert "sesame" not in str(caught.value)
    await client.close()


@pytest.mark.parametrize("driver", ["pymongo", "motor"])
async def test_a_client_with_a_time_limit_for_everything_is_refused(lab: Any, driver: str) -> None:
    client = _client(driver, "mongodb://127.0.0.1:1/?timeoutMS=5000")
    with pytest.raises(ConfigError, match="timeoutMS"):
        await lab.connect("mongodb://127.0.0.1:1/", client=client)
    closing = client.close()
    if inspect.isawaitable(closing):
        await closing
