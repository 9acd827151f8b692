"""Clause C5: a slow subscriber delays nobody, takes bounded memory, and is brought up to date or let go."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from motia_core.server.codes import CODES
from motia_core.testing.harness import eventually

from .serving import Served, Spy, project, serve
from .sockets import Frame, RawSocket, Socket, kind, message, place

PAD = "x" * 20_000


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets limits of the connection that have no setting."""

    def set_limits(**values: float) -> None:
        for name, value in values.items():
            monkeypatch.setattr(f"motia_core.server.connection.{name}", value)

    return set_limits


async def stalled(server: Served, *joins: Frame) -> tuple[RawSocket, Socket]:
    """A client that has joined and stopped reading, and one beside it in the same groups."""
    raw = await RawSocket.open(server.port, receive_buffer=4096)
    witness = await server.connect()
    for join in joins:
        await raw.send({"type": "join", "data": join})
        await raw.frame()
        await witness.send({"type": "join", "data": join})
    await witness.count(len(joins))
    return raw, witness


async def flood(server: Served, witness: Socket, number: int = 400, group: str = "g") -> str:
    """More than the buffers between us hold; the last position."""
    for n in range(number):
        last = await server.docs.set(group, f"i{n % 10}", {"n": n, "pad": PAD})
    await witness.at(last.position)
    return last.position


def consistent(frames: list[Frame], final: dict[str, Any]) -> None:
    """From the last sync on nothing is missing: the changes end in what is stored."""
    start = max(number for number, frame in enumerate(frames) if kind(frame) == "sync")
    state = {item["id"]: item["n"] for item in frames[start]["event"]["data"]}
    position = frames[start]["position"]
    for frame in frames[start + 1 :]:
        if kind(frame) in ("create", "update"):
            assert frame["position"] > position
            position = frame["position"]
            state[frame["id"]] = frame["event"]["data"]["n"]
    assert state == final


async def test_C5_who_reads_again_is_told_and_gets_a_sync_of_each_subscription(tmp_path: Path, limits: Any) -> None:
    limits(STALL_LIMIT=60.0)
    async with serve(project(tmp_path, server={"send_queue_changes": 50})) as server:
        await server.docs.set("other", "o", {"n": 1})
        raw, witness = await stalled(server, place("g"), place("g", "i3"), place("other"))
        await flood(server, witness)
        frames = await raw.until(lambda frame: kind(frame) == "SLOW_CONSUMER")
        assert message(frames[-1]) == "changes were dropped; a sync follows"
        wanted = {("g", None), ("g", "i3"), ("other", None)}
        while wanted:
            frames.append(await raw.frame())
            if kind(frames[-1]) == "sync":
                wanted.discard((frames[-1]["groupId"], frames[-1].get("id")))
        last = await server.docs.set("g", "i3", {"n": "last"})
        frames += await raw.until(lambda frame: frame.get("position") == last.position)
        told = [(f["groupId"], f.get("id")) for f in frames if kind(f) == "SLOW_CONSUMER"]
        assert sorted(told, key=str) == sorted([("g", None), ("g", "i3"), ("other", None)], key=str)
        final = {item["id"]: item["n"] for item in await _items(server, "g")}
        consistent([f for f in frames if f["groupId"] == "g" and (f.get("id") is None or kind(f) != "sync")], final)
        # One frame per change is still the rule.
        positions = [f["position"] for f in frames if kind(f) in ("create", "update")]
        assert len(positions) == len(set(positions))
        assert {frame["reason"] for frame in frames if kind(frame) == "sync" and "reason" in frame} == {"overflow"}
        raw.close()


async def _items(server: Served, group: str) -> list[dict[str, Any]]:
    """The items with their ids, which here only the wire adds."""
    client = await server.connect()
    sync = await client.joined(group)
    data: list[dict[str, Any]] = sync["event"]["data"]
    return data


async def test_C5_who_takes_nothing_is_let_go_with_all_that_waits_for_it(tmp_path: Path, limits: Any) -> None:
    limits(STALL_LIMIT=0.5, CLOSE_LIMIT=0.2)
    async with serve(project(tmp_path)) as server:
        raw, witness = await stalled(server, place("g"))
        await flood(server, witness)

        async def dropped() -> bool:
            return len(server.motia.connections) == 1 and server.motia.hubs["documents"].members == 1

        await eventually(dropped, "the stalled client to be dropped")
        frames = await raw.rest()
        assert raw.code == 1006
        assert len(frames) < 400
        raw.close()
        last = await server.docs.set("g", "x", {})
        await witness.at(last.position)


async def test_C5_who_reads_just_too_late_is_told_why(tmp_path: Path, limits: Any) -> None:
    limits(STALL_LIMIT=0.3, CLOSE_LIMIT=60.0)
    async with serve(project(tmp_path)) as server:
        raw, witness = await stalled(server, place("g"))
        last = await flood(server, witness)

        async def given_up() -> bool:
            return server.motia.hubs["documents"].members == 1

        await eventually(given_up, "the stalled client to be given up")
        await asyncio.sleep(0.5)  # more than it had before: what it has now is the time to close
        frames = await raw.rest()
        assert raw.code == CODES["CLIENT_STALLED"].close == 4408
        assert kind(frames[-1]) == "CLIENT_STALLED"
        assert message(frames[-1]) == "nothing was taken for 0.3 seconds"
        raw.close()
        # What it got has no gap, so that it can go on from there.
        cursor = frames[-2]["position"]
        positions = [frame["position"] for frame in frames[:-1]]
        assert positions == [frame["position"] for frame in witness.changes()][: len(positions)]
        again = await server.connect()
        await again.join("g", after=cursor)
        await again.at(last)
        assert [f["position"] for f in (*frames[:-1], *again.changes()) if kind(f) != "sync"] == [
            frame["position"] for frame in witness.changes()
        ]


async def test_C5_a_slow_link_is_not_a_dead_client(tmp_path: Path, limits: Any) -> None:
    """A large sync takes its time: neither the pings nor the limit for stalled clients end it."""
    limits(STALL_LIMIT=0.4)
    async with serve(project(tmp_path, server={"ping_interval": 0.4})) as server:
        for number in range(10):
            await server.docs.set("g", f"i{number}", {"n": number, "pad": "x" * 900_000})
        raw = await RawSocket.open(server.port, receive_buffer=65_536)
        raw.pause = 0.01
        await raw.send({"type": "join", "data": place("g")})
        writing = asyncio.create_task(_write_slowly(server))
        try:
            sync = await raw.frame()
            assert len(sync["event"]["data"]) >= 10
            last = await server.docs.set("g", "last", {})
            await raw.until(lambda frame: frame.get("position") == last.position)
        finally:
            writing.cancel()
        raw.close()


async def _write_slowly(server: Served) -> None:
    while True:
        await server.docs.set("g", "small", {})
        await asyncio.sleep(0.05)


async def test_C5_a_sync_larger_than_the_queue_is_not_dropped_for_a_change(tmp_path: Path, limits: Any) -> None:
    """Else it would be sent again, and dropped again, for as long as somebody writes."""
    limits(STALL_LIMIT=60.0)
    async with serve(project(tmp_path, server={"send_queue_bytes": 200_000})) as server:
        for number in range(10):
            await server.docs.set("large", f"i{number}", {"n": number, "pad": "x" * 900_000})
            await server.docs.set("one", f"i{number}", {"n": number, "pad": PAD * 2})
            await server.docs.set("two", f"i{number}", {"n": number, "pad": PAD * 2})
        witness = await server.connect()
        await witness.joined("two")
        raw = await RawSocket.open(server.port, receive_buffer=4096)
        # The first fills what is between us, the last waits in the queue.
        for number, group in enumerate(("large", "one", "two")):
            await raw.send({"type": "join", "data": place(group)})
            await eventually(lambda members=number + 2: _members(server, members), "the join")  # type: ignore[misc]
        last = await server.docs.set("two", "last", {})
        await witness.at(last.position)
        frames = await raw.until(lambda frame: frame.get("position") == last.position)
        assert [kind(frame) for frame in frames] == ["sync", "sync", "sync", "create"]
        raw.close()


async def _members(server: Served, number: int) -> bool:
    """Whether so many are live; being joined comes first."""
    hub = server.motia.hubs["documents"]
    return hub.members == number and all(member.live for member in hub._everybody())


async def test_C5_waiting_joins_do_not_pile_up_syncs(tmp_path: Path, limits: Any) -> None:
    """Many large groups joined by one who does not read: few snapshots are held for it at a time."""
    limits(STALL_LIMIT=60.0)
    spy = Spy()
    async with serve(project(tmp_path, server={"send_queue_bytes": 500_000}, spy=spy)) as server:
        groups = [f"g{number}" for number in range(100)]
        for group in groups:
            async with server.docs.batch() as batch:
                for number in range(20):
                    batch.set(group, f"i{number}", {"n": number, "pad": PAD})
        witness = await server.connect()
        raw = await RawSocket.open(server.port, receive_buffer=4096)
        await raw.send(*({"type": "join", "data": place(group)} for group in groups))
        # Until nothing is read any more.
        counts = [-1, -2, -3]
        while len(set(counts)) > 1:
            await witness.joined("empty", stream="documents")
            await asyncio.sleep(0.1)
            counts = [*counts[1:], len([group for group in spy.adapter.snapshots if group != "empty"])]
        assert counts[-1] < 60
        synced: set[str] = set()
        while synced != set(groups):
            frame = await raw.frame()
            assert kind(frame) == "sync"
            synced.add(frame["groupId"])
        raw.close()


async def test_C5_an_acknowledgement_never_runs_ahead_of_what_was_dropped(tmp_path: Path, limits: Any) -> None:
    """A resume that misses more than the queue takes: a cut after ``joined`` must not leave a gap behind it."""
    async with serve(project(tmp_path, server={"send_queue_changes": 20})) as server:
        first = await server.docs.set("g", "x", {"n": 0})
        for number in range(1, 50):
            last = await server.docs.set("g", "x", {"n": number})
        client = await server.connect()
        await client.join("g", after=first.position)
        await client.told("joined")
        assert client.kinds() == ["SLOW_CONSUMER", "sync", "joined"]
        sync, joined = client.frames[1:]
        assert sync["event"]["data"] == [{"id": "x", "n": 49}]
        assert joined["position"] == sync["position"] == last.position


async def test_C5_a_burst_that_is_too_much_at_once_is_a_sync(tmp_path: Path) -> None:
    async with serve(project(tmp_path, server={"send_queue_changes": 20})) as server:
        client = await server.connect()
        await client.joined("g")
        async with server.docs.batch() as batch:
            for number in range(50):
                batch.set("g", f"i{number:02}", {"n": number})
        await client.until(lambda frame: kind(frame) == "sync", since=1)
        last = await server.docs.set("g", "last", {"n": 50})
        await client.at(last.position)
        consistent(client.frames, {**{f"i{n:02}": n for n in range(50)}, "last": 50})
        assert client.kinds() == ["sync", "SLOW_CONSUMER", "sync", "create"]
