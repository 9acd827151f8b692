"""RELIABILITY rows 15, 16, 17, 19 and 20, in their short form."""

from __future__ import annotations

import asyncio
import gc
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed

from motia_core import StreamConfig, http, step
from motia_core.server.codes import CODES
from motia_core.testing.data import ODD_IDS
from motia_core.testing.harness import DEADLINE, eventually
from motia_core.values import encode

from .serving import project, serve
from .sockets import RawSocket, place


async def put(input: Any, ctx: Any) -> dict[str, Any]:
    params = input.request.path_params
    result = await ctx.streams.documents.set(params["group"], params["id"], input.request.body)
    return {"status": 200, "body": {"position": result.position}}


STEPS = [step({"name": "put", "triggers": [http("PUT", "/docs/{group}/{id}")]}, put)]


async def test_row_15_odd_ids_cross_the_wire_and_stay_apart(tmp_path: Path) -> None:
    async with serve(project(tmp_path)) as server:
        client = await server.connect()
        for id in ODD_IDS:
            await server.docs.set("g", id, {"mine": id})
            await server.docs.set(id, "x", {"group": id})
        synced = await client.joined("g")
        assert {item["id"]: item["mine"] for item in synced["event"]["data"]} == {id: id for id in ODD_IDS}
        for id in ODD_IDS:
            assert (await client.joined(id))["event"]["data"] == [{"id": "x", "group": id}]
            assert (await client.joined("g", id))["event"]["data"] == {"id": id, "mine": id}
        last = await server.docs.set("g", ODD_IDS[0], {"mine": "last"})
        await client.at(last.position)
        assert [change["groupId"] for change in client.changes()] == ["g"]


async def test_row_16_values_at_the_limit_and_over(tmp_path: Path) -> None:
    fits = {"x": "y" * (1_000_000 - len(encode({"x": ""})))}
    async with serve(project(tmp_path, steps=STEPS)) as server:
        client = await server.connect()
        await client.joined("g")
        web = await server.http()
        assert (await web.put("/docs/g/fits", json=fits)).status_code == 200
        assert (await client.told("create"))["event"]["data"]["x"] == fits["x"]
        answer = await web.put("/docs/g/over", json={"x": fits["x"] + "y"})
        assert (answer.status_code, answer.json()["error"]) == (
            400,
            "$: 1000001 bytes as compact JSON, 1000000 at most",
        )
        deep = b'{"d":' * 200 + b"1" + b"}" * 200
        for body in (deep, b'{"n":1e400}', b'{"n":99999999999999999999}', b'{"n":"\\ud800"}', b'{"n":NaN}'):
            answer = await web.put("/docs/g/bad", content=body, headers={"content-type": "application/json"})
            assert answer.status_code in (200, 400), body
            stored = await server.docs.get("g", "bad")
            assert (stored is None) == (answer.status_code == 400), body
            await server.docs.delete("g", "bad")


FRAMES = st.lists(
    st.text(max_size=200)
    | st.binary(max_size=50)
    | st.sampled_from(["", "null", "[]", "{}", '{"type":"join"}', '{"type":"leave","data":{}}', "x" * 70_000])
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["type", "data", "streamName", "groupId", "id", "subscriptionId", "after"]), inner
            )
        ),
    ).map(json.dumps)
    | st.fixed_dictionaries(
        {
            "type": st.sampled_from(["join", "leave"]),
            "data": st.fixed_dictionaries(
                {
                    "streamName": st.sampled_from(["documents", "nothing", ""]),
                    "groupId": st.text(max_size=5) | st.integers(),
                    "id": st.none() | st.text(max_size=5) | st.lists(st.integers(), max_size=2),
                    "subscriptionId": st.none() | st.text(max_size=5) | st.integers(),
                    "after": st.none() | st.text(max_size=40),
                }
            ),
        }
    ).map(json.dumps),
    min_size=1,
    max_size=30,
)


async def test_row_17_no_frame_hurts_a_neighbour(tmp_path: Path) -> None:
    cases: list[list[str | bytes]] = []

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(FRAMES)
    def collect(frames: list[str | bytes]) -> None:
        cases.append(frames)

    await asyncio.get_running_loop().run_in_executor(None, collect)
    async with serve(project(tmp_path)) as server:
        neighbour = await server.connect()
        await neighbour.joined("g")
        for frames in cases:
            client = await server.connect()
            # It answers what it knows, or has closed with a documented code; it is never stuck.
            with suppress(ConnectionClosed):
                await client.send(*frames, {"type": "join", "data": place("alive")})
            codes = {code.close for code in CODES.values() if code.close} | {1009}

            async def answered(client: Any = client, codes: Any = codes) -> bool:
                if any(frame.get("groupId") == "alive" for frame in client.frames):
                    return True
                return client.connection.close_code in codes

            await eventually(answered, f"an answer after {frames!r}")
            for got in client.frames:
                event = got.get("event", got)
                if event.get("type") == "error":
                    assert event["data"]["code"] in CODES
            await client.aclose()
        last = await server.docs.set("g", "x", {"n": 1})
        await neighbour.at(last.position)
        assert neighbour.kinds() == ["sync", "create"]


async def test_row_19_a_graceful_shutdown_loses_nothing_acknowledged(tmp_path: Path) -> None:
    acknowledged: list[str] = []
    async with asyncio.timeout(DEADLINE):
        async with serve(project(tmp_path, steps=STEPS, server={"shutdown_timeout": 5})) as server:
            clients = [await server.connect() for _ in range(5)]
            for client in clients:
                await client.joined("g")
            web = await server.http()

            async def write(number: int) -> None:
                for turn in range(10_000):
                    try:
                        answer = await web.put(f"/docs/g/{number}-{turn}", json={})
                    except Exception:
                        return
                    if answer.status_code == 200:
                        acknowledged.append(f"{number}-{turn}")

            writers = [asyncio.create_task(write(number)) for number in range(8)]

            async def busy() -> bool:
                return len(acknowledged) > 100

            await eventually(busy, "writes under way")
            server.server.should_exit = True
            for client in clients:
                assert await client.gone() == 1012
            await asyncio.gather(*writers)
        async with project(tmp_path) as motia:
            for id in acknowledged:
                assert await motia.streams["documents"].get("g", id) is not None


async def test_row_20_connects_and_closes_leave_nothing(tmp_path: Path) -> None:
    left: list[str] = []

    async def on_join(subscription: Any, ctx: Any, auth: Any) -> dict[str, bool]:
        return {"authorized": True}

    async def on_leave(subscription: Any, ctx: Any, auth: Any) -> None:
        left.append(subscription.group_id)

    stream = StreamConfig("documents", on_join=on_join, on_leave=on_leave)
    async with serve(project(tmp_path, stream)) as server:

        async def come_and_go(number: int) -> None:
            client = await server.connect()
            await client.joined(f"group-{number % 7}")
            if number % 3 == 0:
                client.abort()
            else:
                await client.aclose()

        for start in range(0, 60, 20):
            await asyncio.gather(*(come_and_go(start + number) for number in range(20)))
        await eventually(_is(lambda: len(left) == 60), "all to have left")
        tasks, files = len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))
        for start in range(0, 300, 20):
            await asyncio.gather(*(come_and_go(start + number) for number in range(20)))
        await eventually(_is(lambda: len(left) == 360), "all to have left")

        async def clean() -> bool:
            gc.collect()
            return len(asyncio.all_tasks()) <= tasks and len(os.listdir("/proc/self/fd")) <= files

        await eventually(clean, f"no more than {tasks} tasks and {files} files")
        assert server.motia.hubs["documents"].members == 0
        assert not server.motia.connections


def _is(check: Any) -> Any:
    async def ask() -> bool:
        return bool(check())

    return ask


async def test_row_8_one_stalled_client_delays_nobody(tmp_path: Path) -> None:
    async with serve(project(tmp_path, server={"send_queue_changes": 100, "send_queue_bytes": 200_000})) as server:
        clients = [await server.connect() for _ in range(100)]
        for client in clients:
            await client.joined("g")
        stalled = await RawSocket.open(server.port, receive_buffer=4096)
        await stalled.send({"type": "join", "data": place("g")})
        await stalled.until(lambda frame: frame.get("event", {}).get("type") == "sync")
        big = "x" * 10_000
        results = [await server.docs.set("g", f"{number % 20}", {"n": number, "big": big}) for number in range(600)]
        for client in clients:
            await client.at(results[-1].position)
        for client in clients:
            seen = [change["position"] for change in client.changes()]
            syncs = [frame for frame in client.frames if frame.get("event", {}).get("type") == "sync"]
            # Nobody who reads is told that it is slow, and nobody misses one.
            assert len(syncs) == 1
            assert seen == [result.position for result in results]
        stalled.close()


async def test_row_12_a_thousand_denied_joins_under_load_leak_nothing(tmp_path: Path) -> None:
    async def on_join(subscription: Any, ctx: Any, auth: Any) -> Any:
        turn = int(subscription.subscription_id)
        if turn % 4 == 0:
            raise RuntimeError("broken")
        if turn % 4 == 1:
            await asyncio.sleep(0.001)
        return [None, {"authorized": False}, {"authorized": "yes"}, {"unauthorized": True}][turn % 4]

    async with serve(project(tmp_path, StreamConfig("documents", on_join=on_join))) as server:
        stop = False

        async def write() -> None:
            number = 0
            while not stop:
                await server.docs.set("g", f"{number % 50}", {"text": "TOP-SECRET"})
                number += 1

        writer = asyncio.create_task(write())
        clients = [await server.connect() for _ in range(10)]

        async def join(client: Any) -> None:
            for turn in range(100):
                await client.send({"type": "join", "data": {**place("g"), "subscriptionId": str(turn)}})

        await asyncio.gather(*(join(client) for client in clients))
        for client in clients:
            await client.count(100)
        stop = True
        await writer
        for client in clients:
            await client.settled()
            assert set(client.kinds()) == {"STREAM_ACCESS_DENIED"}
            assert not any("SECRET" in str(text) for text in client.texts)
        assert server.motia.hubs["documents"].members == 0
