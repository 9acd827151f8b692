"""The shop of the page on MongoDB: another program writes, and the page's stream sees it live."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from bson import Decimal128, ObjectId
from pymongo import AsyncMongoClient

from motia_core import Motia
from motia_core.client import StreamChange, connect_stream
from motia_core.testing.harness import Reader
from motia_core.testing.servers import MongoDB, start_or_skip
from tests.e2e.serving import serve

from .blocks import write_files


@pytest.fixture
async def url(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[str, None]:
    server = MongoDB()
    await start_or_skip(server)
    monkeypatch.setenv("MONGO_URL", server.url)
    client: Any = AsyncMongoClient(server.url)
    await client["shop"].create_collection("orders")
    await client.close()
    yield server.url
    await server.stop()


async def _shop(folder: Path, *arguments: str) -> str:
    """Run the other program."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(folder / "shop.py"), *arguments, stdout=asyncio.subprocess.PIPE, env=os.environ
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode().strip()


def _orders(url: str, customer: str) -> Reader:
    async def changes() -> AsyncIterator[StreamChange]:
        async with connect_stream("orders", group_id=customer, url=url) as stream:
            async for change in stream:
                yield change

    return Reader(changes())


async def test_the_page_sees_what_another_program_writes(tmp_path: Path, url: str) -> None:
    write_files("how-to/mongodb-shop.md", tmp_path)
    early = await _shop(tmp_path, "place", "ada", "3.50")
    async with serve(Motia.from_project(tmp_path)) as server:
        http: httpx.AsyncClient = await server.http()
        page = await http.get("/orders?customer=ada")
        assert page.headers["content-type"].startswith("text/html")
        assert "connectStream" in page.text
        ada, bob = _orders(server.url, "ada"), _orders(server.url, "bob")
        (sync,) = await ada.count(1)
        assert [(order["_id"], order["total"]) for order in sync.data] == [(early, "3.50")]
        await bob.count(1)
        order = await _shop(tmp_path, "place", "ada", "12.50")
        await ada.count(2)
        await _shop(tmp_path, "ship", order)
        await ada.count(3)
        await server.motia.streams["orders"].update("ada", order, [{"type": "set", "path": "paid", "value": True}])
        await ada.count(4)
        await _shop(tmp_path, "give", order, "bob")
        await _shop(tmp_path, "cancel", order)
        seen = await ada.count(5)
        assert [(change.type, change.id) for change in seen[1:]] == [
            ("create", order),
            ("update", order),
            ("update", order),
            ("delete", order),
        ]
        assert [change.type for change in await bob.count(3)] == ["sync", "create", "delete"]
        assert seen[2].data["status"] == "shipped"
        await server.motia.streams["orders"].update("ada", early, [{"type": "set", "path": "paid", "value": True}])
        for reader in (ada, bob):
            await reader.stop()
    client: Any = AsyncMongoClient(url, tz_aware=True)
    stored = await client["shop"]["orders"].find_one({"_id": ObjectId(early)})
    await client.close()
    assert stored["total"] == Decimal128("3.50"), "a decimal stays a decimal"
    assert set(stored) == {"_id", "customerId", "total", "placed", "status", "paid"}
