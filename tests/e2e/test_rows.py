"""Rows of docs/reference/reliability in their short form: many clients, odd clients, and the end of the server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from motia_core import StreamConfig
from motia_core.hub import SNAPSHOT_REUSE
from motia_core.names import check_id
from motia_core.server.codes import CODES
from motia_core.testing.harness import eventually

from .judging import Follower, Truth, repeated
from .processes import Process, process
from .serving import Spy, project, serve
from .sockets import RawSocket, Socket, kind, place, text_frame


async def test_row_3_killed_and_resumed_without_gap_or_repetition(tmp_path: Path) -> None:
    """kill -9 while others write; clients come back with their cursors."""
    followers = [Follower(("g", item), f"{number}", "") for number, item in enumerate([None, "x", "y", None])]
    for follower in followers:
        follower.cursor = None
    running = True
    async with project(tmp_path) as writer:
        docs = writer.streams["documents"]

        async def keep_writing() -> str:
            number, last = 0, ""
            while running or number < 400:
                last = (await docs.set("g", "xyz"[number % 3], {"n": number})).position
                number += 1
                await asyncio.sleep(0.002)
            for item in "xyz":
                last = (await docs.set("g", item, {"n": "last"})).position
            return last

        writing = asyncio.create_task(keep_writing())
        for life in range(4):
            async with process(tmp_path) as server:
                sockets = [await server.connect() for _ in followers]
                for follower, socket in zip(followers, sockets, strict=True):
                    after = {"after": follower.cursor}
                    await socket.join(*follower.where, subscriptionId=follower.name, **after)  # type: ignore[arg-type]
                await asyncio.gather(*(socket.told("joined") for socket in sockets))
                if life < 3:
                    await asyncio.sleep(0.1)
                    server.signal(signal.SIGKILL)
                    await asyncio.gather(*(socket.gone() for socket in sockets))
                    await server.ended()
                else:
                    running = False
                    last = await writing
                    truth = await Truth.of(docs, last)
                    for follower, socket in zip(followers, sockets, strict=True):
                        await socket.until(lambda f, p=truth.after(follower.where, "")[-1]: f.get("position", "") >= p)  # type: ignore[misc]
                for follower, socket in zip(followers, sockets, strict=True):
                    assert repeated(socket.frames) == []
                    assert (kind(socket.frames[0]) == "sync") == (life == 0)
                    for frame in socket.frames:
                        follower.feed(frame)
                    follower.cut()
        for follower in followers:
            assert follower.wrong(truth, complete=False) == []
            assert follower.cursor is not None
            assert truth.after(follower.where, follower.cursor) == []


async def test_row_7_300_joins_during_writes(tmp_path: Path) -> None:
    """Each on its own socket: the first frame is its sync, and from there nothing is lost, repeated or stale."""
    running, groups = True, ["a", "b", "c"]
    async with serve(project(tmp_path)) as server:
        docs, count = server.docs, 0

        async def keep_writing(chance: random.Random) -> None:
            nonlocal count
            while running:
                count += 1
                await docs.set(chance.choice(groups), f"i{count % 20}", {"n": count})
                await asyncio.sleep(0.001)

        writers = [asyncio.create_task(keep_writing(random.Random(seed))) for seed in range(2)]
        clients = []
        for number in range(300):
            where = (groups[number % 3], None if number % 2 else f"i{number % 20}")
            client = await server.connect()
            await client.join(*where, subscriptionId="s")
            clients.append((where, client))
        running = False
        await asyncio.gather(*writers)
        for group in groups:
            for item in range(20):
                last = (await docs.set(group, f"i{item}", {"n": "last"})).position
        truth = await Truth.of(docs, last)
        for where, client in clients:
            await client.at(truth.after(where, "")[-1])
            follower = Follower(where, "s")
            for frame in client.frames:
                follower.feed(frame)
            assert kind(client.frames[0]) == "sync"
            assert follower.wrong(truth, complete=True) == []
            assert repeated(client.frames) == []
        assert count > 100


@pytest.mark.parametrize("comes_back", [True, False])
async def test_row_8_one_stalled_client_among_200(tmp_path: Path, comes_back: bool) -> None:
    """The others get everything; the server's memory stays bounded; it is brought up to date, or let go."""
    async with process(tmp_path, send_queue_bytes=1_000_000, ping_interval=60 if comes_back else 2) as server:
        http = await server.http()
        clients = [await server.connect() for _ in range(200)]
        for client in clients:
            await client.join("g", subscriptionId="s")
        raw = await RawSocket.open(server.port, receive_buffer=4096)
        await raw.send({"type": "join", "data": place("g", subscriptionId="s", after=None)})
        await asyncio.gather(*(client.told("sync") for client in clients))
        before = (await http.get("/stats")).json()
        last = ""
        for _ in range(10):  # 40 MB for each of them
            last = (await http.post("/write", json={"group": "g", "count": 100, "pad": 40_000})).json()["position"]
        await asyncio.gather(*(client.at(last) for client in clients))
        for client in clients:
            assert len(client.changes()) == 1_000
        after = (await http.get("/stats")).json()
        # The ring (16 MB), the sockets' buffers, the queue: far from what was written for the stalled one.
        assert after["memory"] - before["memory"] < 60_000_000
        if comes_back:
            frames = await raw.until(lambda frame: kind(frame) == "sync" and frame.get("reason") == "overflow")
            assert "SLOW_CONSUMER" in map(kind, frames)
            done = (await http.put("/docs/g/done", json={})).json()["position"]
            await raw.until(lambda frame: frame.get("position") == done)
        else:

            async def let_go() -> bool:
                return bool((await http.get("/stats")).json()["members"] == 200)

            await eventually(let_go, "the stalled client to be let go")
        raw.close()


async def test_row_12_denied_joins_under_load_leak_nothing(tmp_path: Path) -> None:
    """Every failure of a hook denies, whatever happens in the group meanwhile."""
    secret = "the secret of the group"
    chance = random.Random(12)

    async def on_join(subscription: Any, ctx: Any, auth_context: Any) -> Any:
        if subscription.group_id == "open":
            return {"authorized": True}
        await asyncio.sleep(chance.choice([0, 0, 0.001, 0.05]))
        match chance.randrange(8):
            case 0:
                raise RuntimeError(secret)
            case 1:
                await asyncio.Event().wait()
            case 2:
                return chance.choice([None, True, "yes", 1, [], {}, {"authorized": 1}, {"allowed": True}])
            case 3:
                return {"authorized": True, "unauthorized": True}
            case 4:
                raise asyncio.CancelledError
            case 5:
                return {"unauthorized": True, "context": {"text": secret}}
            case 6:
                await ctx.streams.documents.get("secret", "x")
                return {"authorized": False}
            case _:
                return await ctx.state.get("nothing", "here")

    stream = StreamConfig(name="documents", on_join=on_join)
    running = True
    async with serve(project(tmp_path, stream, server={"join_timeout": 0.5})) as server:

        async def keep_writing() -> None:
            number = 0
            while running:
                number += 1
                await server.docs.set("secret", f"i{number % 5}", {"text": secret, "n": number})
                await server.docs.set("open", "x", {"n": number})
                await asyncio.sleep(0)

        writing = asyncio.create_task(keep_writing())
        clients = [await server.connect() for _ in range(20)]
        for client in clients:
            await client.joined("open", subscriptionId="open")
            for number in range(15):
                item = f"i{number % 5}" if number % 2 else None
                after = {"after": None} if number % 3 else {}
                await client.join("secret", item, subscriptionId=f"s{number}", **after)
        for client in clients:

            async def all_denied(client: Socket = client) -> bool:
                return client.kinds().count("STREAM_ACCESS_DENIED") == 15

            await eventually(all_denied, "300 denials")
        running = False
        await writing
        last = await server.docs.set("open", "x", {"n": "last"})
        for client in clients:
            await client.at(last.position)
            assert set(client.kinds()) <= {"sync", "create", "update", "STREAM_ACCESS_DENIED"}
            assert all(frame["groupId"] == "open" for frame in client.frames if kind(frame) != "STREAM_ACCESS_DENIED")
            assert secret not in str(client.texts)
        assert server.motia.hubs["documents"].members == 20


ODD_IDS = [
    ":", "a:b", "{}", "*", "../", "../../etc/passwd", "$", "$where", ".", "..", "__proto__", "__x__", "/", "//", "\\",
    "a/b", "%2F", "%00", "'", '"', "''; DROP TABLE motia_items; --", "`", "<script>", "&amp;", "null", "undefined",
    "true", "0", "-1", "1e3", " ", "  ", " a", "a ", "😀", "👩‍👩‍👧‍👦", "é", "é", "ß", "SS", "ı", "İ", "\u202e", "\ufeff", "\u2028",
    "\U0010ffff", "x" * 512, "é" * 256, "😀" * 128, "motia", "groupId", "id", "[object Object]", "constructor",
]  # fmt: skip


def fuzzed(number: int) -> list[str]:
    chance = random.Random(15)
    alphabet = [
        *map(chr, range(0x20, 0x7F)),
        *"éß😀\u200d\u0301\u202e中\ufffd\U000e0001",
        "::",
        "//",
        "..",
        "%2e",
        "\\u0000",
    ]
    return [("".join(chance.choices(alphabet, k=chance.randrange(1, 40))))[:120] for _ in range(number)]


async def test_row_15_odd_ids_through_the_wire(tmp_path: Path) -> None:
    ids = list(dict.fromkeys([*ODD_IDS, *fuzzed(300)]))
    async with serve(project(tmp_path, server={"max_subscriptions": 5_000})) as server:
        client, witness = await server.connect(), await server.connect()
        for id in ids:
            check_id(id, "id")
            await server.docs.set("items", id, {"mine": id})
            await server.docs.set(id, "x", {"mine": id})
        for id in ids:
            await client.join("items", id)
            await client.join(id)
            await witness.join(id, "nothing here")
        await client.count(2 * len(ids))
        items = {frame["id"]: frame["event"]["data"] for frame in client.frames if "id" in frame}
        assert items == {id: {"id": id, "mine": id} for id in ids}
        groups = {frame["groupId"]: frame["event"]["data"] for frame in client.frames if "id" not in frame}
        assert groups == {id: [{"id": "x", "mine": id}] for id in ids}
        before = len(client.frames)
        for id in ids:
            await server.docs.set("items", id, {"again": id})
            last = await server.docs.delete(id, "x")
        assert last is not None
        await client.at(last.position)
        got = [(frame["groupId"], frame["id"], kind(frame)) for frame in client.frames[before:]]
        assert got == [wanted for id in ids for wanted in (("items", id, "update"), (id, "x", "delete"))]
        await witness.settled()
        assert witness.changes() == []


async def test_row_15_ids_that_are_none_are_refused_by_a_typed_error(tmp_path: Path) -> None:
    wrong = ["", "\x00", "a\x00b", "\n", "\x7f", "\x85", "x" * 513, "é" * 257, "😀" * 129]
    async with serve(project(tmp_path, server={"max_bad_frames": 1_000})) as server:
        client = await server.connect()
        for value in wrong:
            for data in (place(value), place("g", value)):
                before = len(client.frames)
                await client.send({"type": "join", "data": data})
                await client.count(before + 1)
                assert kind(client.frames[-1]) == "INVALID_FRAME"
        for stream in ("", "1", "a b", "documents ", "x" * 65, "é", "$state", "Documents", "../documents", "\x00"):
            denied = await client.joined("g", stream=stream)
            assert kind(denied) == "STREAM_ACCESS_DENIED"
        assert server.motia.hubs["documents"].members == 0


async def test_row_17_garbage_on_the_wire_harms_its_own_socket_only(tmp_path: Path) -> None:
    """Bytes that are no frames, no masks, no opcodes, no UTF-8, no JSON, or too much: 3,000 times."""
    chance = random.Random(17)
    join = text_frame(json.dumps({"type": "join", "data": place("g")}))

    def garbage() -> bytes:
        match chance.randrange(7):
            case 0:
                return chance.randbytes(chance.randrange(1, 200))
            case 1:
                return text_frame("x" * chance.randrange(70_000))
            case 2:
                return text_frame(json.dumps(chance.choice([1, None, [], {}, {"type": "x"}, {"type": "join"}])))
            case 3:
                broken = bytearray(join)
                broken[chance.randrange(len(broken))] ^= 1 << chance.randrange(8)
                return bytes(broken)
            case 4:
                return text_frame("", opcode=chance.choice([0, 2, 3, 8, 9, 10, 11, 15]))
            case 5:
                return bytes([0x81, 0x05]) + b"hello"  # not masked
            case _:
                return join[: chance.randrange(len(join))]

    async with serve(project(tmp_path)) as server:
        neighbour = await server.connect()
        await neighbour.joined("g")
        codes: set[str] = set()
        closes: set[int] = set()
        for round in range(150):
            raw = await RawSocket.open(server.port)
            with contextlib.suppress(OSError):
                await raw.send_bytes(b"".join(garbage() for _ in range(20)))
                # Half of them go without a word, in the middle of a frame.
                if round % 2:
                    raw.socket.shutdown(1)
                    frames = await raw.rest()
                    codes |= {kind(frame) for frame in frames}
                    closes.add(raw.code)
            raw.reset()
            last = await server.docs.set("g", "x", {"n": round})
            await neighbour.at(last.position)

        async def alone() -> bool:
            return len(server.motia.connections) == 1

        await eventually(alone, "all others to be gone")
        assert len(neighbour.changes()) == 150
        assert neighbour.kinds() == ["sync", "create", *["update"] * 149]
        assert codes <= {*CODES, "sync", "create", "update"}
        assert closes <= {1000, 1001, 1002, 1005, 1006, 1007, 1009, 4400, 0}


async def test_row_18_300_clients_come_back_at_once(tmp_path: Path) -> None:
    """With and without a cursor: all are live, and the storage is read for each group once, not for each client."""
    spy = Spy()
    groups = [f"g{number}" for number in range(5)]
    async with serve(project(tmp_path, spy=spy)) as server:
        first = {group: await server.docs.set(group, "x", {"n": 0}) for group in groups}
        for number in range(50):
            for group in groups:
                last = await server.docs.set(group, "x", {"n": number})
        clients = list(await asyncio.gather(*(server.connect() for _ in range(300))))
        spy.adapter.snapshots.clear()
        watches = spy.adapter.watches
        loop = asyncio.get_running_loop()
        started = loop.time()
        for number, client in enumerate(clients):
            group = groups[number % 5]
            after = {"after": first[group].position} if number % 2 else {}
            await client.join(group, subscriptionId="s", **after)  # type: ignore[arg-type]
        await asyncio.gather(*(client.count(1) for client in clients))
        spent = loop.time() - started
        reads = {group: spy.adapter.snapshots.count(group) for group in groups}
        assert max(reads.values()) <= 2 + spent // SNAPSHOT_REUSE
        assert spy.adapter.watches - watches <= 2 + len(groups)
        last = await server.docs.set("g4", "x", {"n": "last"})
        for number, client in enumerate(clients):
            if number % 5 == 4:
                await client.at(last.position)
            if number % 2:
                await client.told("joined")
                assert client.kinds()[:50] == ["update"] * 50
        assert server.motia.hubs["documents"].members == 300


@pytest.mark.parametrize("stalled", [False, True])
async def test_row_19_a_graceful_shutdown_under_load_loses_nothing(tmp_path: Path, stalled: bool) -> None:
    """What was acknowledged is there, the clients are told, and it takes no longer than it may."""
    acknowledged: dict[str, int] = {}
    async with process(tmp_path) as server:
        clients = [await server.connect() for _ in range(20)]
        for client in clients:
            await client.joined("g")
        if stalled:
            raw = await RawSocket.open(server.port, receive_buffer=4096)
            await raw.send({"type": "join", "data": place("big")})
            await (await server.http()).post("/write", json={"group": "big", "count": 200, "pad": 50_000})

        async def keep_writing(number: int) -> None:
            http = await server.http()
            n = 0
            while True:
                n += 1
                try:
                    answer = await http.put(f"/docs/g/w{number}", json={"n": n})
                except httpx.TransportError:
                    return
                assert answer.status_code == 200
                acknowledged[f"w{number}"] = n

        writers = [asyncio.create_task(keep_writing(number)) for number in range(8)]

        async def busy() -> bool:
            return len(acknowledged) == 8 and min(acknowledged.values()) > 10

        await eventually(busy, "all to write")
        server.signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            status = await server.ended()
        await asyncio.gather(*writers)
        assert status in (0, -signal.SIGTERM)  # uvicorn raises the signal again when it is done
        assert [await client.gone() for client in clients] == [1012] * 20
        assert b"Application shutdown complete" in server.log
        assert b"Traceback" not in server.log
        if stalled:
            raw.close()
    async with project(tmp_path) as after:
        stored = {f"w{number}": await after.streams["documents"].get("g", f"w{number}") for number in range(8)}
    for name, n in acknowledged.items():
        found = stored[name]
        assert found is not None
        assert found["n"] in (n, n + 1)  # one more may have been written, and its answer lost


async def test_row_20_connects_and_closes_leave_nothing_behind(tmp_path: Path) -> None:
    async with process(tmp_path) as server:
        http = await server.http()
        for number in range(20):
            await http.put(f"/docs/g{number}/x", json={"n": number})

        async def come_and_go(rounds: int) -> None:
            for round in range(rounds):
                clients = [await Socket.open(server.url) for _ in range(10)]
                for number, client in enumerate(clients):
                    await client.join(f"g{number}", after=None)
                    await client.join(f"g{number}", "x")
                    if number % 3:
                        await client.told("joined")
                    if number % 4 == 0:
                        await client.send("nonsense")
                await http.put(f"/docs/g{round % 10}/x", json={"n": round})
                for number, client in enumerate(clients):
                    if number % 2:
                        client.abort()
                    await client.aclose()

        async def quiet() -> dict[str, int]:
            async def gone() -> bool:
                found = (await http.get("/stats")).json()
                return bool(found["connections"] == found["members"] == 0)

            await eventually(gone, "all to be gone")
            stats: dict[str, int] = (await http.get("/stats")).json()
            return stats

        await come_and_go(25)
        before = await quiet()
        await come_and_go(50)
        after = await quiet()
        for what in ("tasks", "files", "threads"):
            assert after[what] <= before[what], what
        assert after["memory"] < before["memory"] * 1.05 + 2_000_000


def test_row_17_and_20_know_where_they_run() -> None:
    """The figures of a process come from /proc."""
    assert os.path.exists("/proc/self/statm")


async def _stats(server: Process) -> Any:
    return (await (await server.http()).get("/stats")).json()
