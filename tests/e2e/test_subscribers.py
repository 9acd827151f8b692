"""Clause C over sockets: what each subscription of a client gets."""

from __future__ import annotations

from pathlib import Path

from .serving import project, serve
from .sockets import kind


async def test_C1_two_items_of_one_socket_get_every_change_of_a_run(tmp_path: Path) -> None:
    """Changes that the store hands over together, of two items in turn."""
    async with serve(project(tmp_path)) as server:
        client = await server.connect()
        await client.joined("g", "x")
        await client.joined("g", "y")
        async with server.docs.batch() as batch:
            batch.send({"groupId": "g", "id": "x"}, {"type": "n", "data": 1})
            batch.send({"groupId": "g", "id": "y"}, {"type": "n", "data": 2})
            batch.send({"groupId": "g", "id": "x"}, {"type": "n", "data": 3})
            batch.send({"groupId": "g", "id": "y"}, {"type": "n", "data": 4})
        last = await server.docs.set("g", "y", {"n": 5})
        await client.at(last.position)
        assert [frame["event"]["event"]["data"] for frame in client.changes() if kind(frame) == "event"] == [1, 2, 3, 4]
