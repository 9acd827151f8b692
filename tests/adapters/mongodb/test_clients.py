"""Clients that the user hands in: used for everything, and left open."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import pytest
from pymongo import AsyncMongoClient

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
