"""A real Cluster of three nodes: every stream in one slot, found wherever it is."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest

from motia_core.errors import BackendUnavailable
from motia_core.model import StreamSpec, Write
from motia_core.testing.servers import free_port

SLOTS = 16_384


async def _cluster(lab: Any) -> list[Any]:
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port")
    nodes = [await lab.serve(*options, f"{free_port()}") for _ in range(3)]
    for number, node in enumerate(nodes):
        first, last = number * SLOTS // 3, (number + 1) * SLOTS // 3 - 1
        await lab.ask(node.port, "CLUSTER", "ADDSLOTSRANGE", first, last)
        await lab.ask(node.port, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
    for node in nodes[1:]:
        await lab.ask(nodes[0].port, "CLUSTER", "MEET", "127.0.0.1", node.port, await _bus(lab, node))

    async def ready() -> bool:
        infos = [(await lab.ask(node.port, "CLUSTER", "INFO")).decode() for node in nodes]
        return all("cluster_state:ok" in info and "cluster_known_nodes:3" in info for info in infos)

    await lab.eventually(ready, "the cluster to be ready")
    return nodes


async def _bus(lab: Any, node: Any) -> int:
    """The port on which a node talks to the others."""
    return int((await lab.ask(node.port, "CONFIG", "GET", "cluster-port"))[1])


async def test_streams_live_on_all_nodes_and_are_written_read_and_watched(lab: Any) -> None:
    nodes = await _cluster(lab)
    mine, other = [await lab.connect(node.port, prepare=False) for node in nodes[:2]]
    specs = [StreamSpec(f"stream{number}") for number in range(12)]
    watches = []
    for spec in specs:
        watch = other.watch(spec, await other.head(spec))
        assert not (await anext(watch)).changes
        watches.append(watch)
    for spec, watch in zip(specs, watches, strict=True):
        results = await mine.write(
            spec, [Write("set", group, "{x}", b'{"n":1}', ttl=60.0) for group in ("a", "{b}", "}")]
        )
        await mine.write(spec, [lab.increment("x")])
        seen: list[str] = []
        async with asyncio.timeout(20):
            while len(seen) < 4:
                seen += [change.position for change in (await anext(watch)).changes]
        assert seen[:3] == [result.position for result in results]
        assert await other.list_groups(spec, after=None, limit=None) == ["a", "g", "{b}", "}"]
        assert (await other.snapshot(spec, "{b}", None, limit=10)).items[0].value == {"n": 1}
        await watch.aclose()
    counts = [await lab.ask(node.port, "DBSIZE") for node in nodes]
    assert all(count > 0 for count in counts), f"keys by node: {counts}"


async def test_a_slot_that_moves_is_followed(lab: Any) -> None:
    nodes = await _cluster(lab)
    adapter = await lab.connect(nodes[0].port, prepare=False)
    written = [await lab.put(adapter, "x", {"n": 0})]
    slot = await lab.ask(nodes[0].port, "CLUSTER", "KEYSLOT", "{test:docs}:m")
    source = nodes[slot * 3 // SLOTS]
    target = nodes[(nodes.index(source) + 1) % 3]
    source_id, target_id = [await lab.ask(node.port, "CLUSTER", "MYID") for node in (source, target)]
    await lab.ask(target.port, "CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
    await lab.ask(source.port, "CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
    keys = await lab.ask(source.port, "CLUSTER", "GETKEYSINSLOT", slot, 100)
    await lab.ask(source.port, "MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
    for attempt in (lab.put(adapter, "x", {"n": 1}), adapter.get(lab.docs, "g", "x")):
        with pytest.raises(BackendUnavailable, match="is moving this stream's slot"):
            await attempt
    for node in nodes:
        await lab.ask(node.port, "CLUSTER", "SETSLOT", slot, "NODE", target_id)
    written.append(await lab.put(adapter, "x", {"n": 2}))
    log = await lab.log(adapter, written[0].position)
    assert [change.position for change in log] == [result.position for result in written[1:]]


async def test_old_data_on_a_cluster_is_imported_node_by_node(lab: Any, tmp_path: Path) -> None:
    nodes = await _cluster(lab)
    for number in range(24):
        key = f"stream:documents:g{number}"
        slot = await lab.ask(nodes[0].port, "CLUSTER", "KEYSLOT", key)
        await lab.ask(nodes[(slot * 3 + 2) // SLOTS].port, "HSET", key, "a", f'{{"n":{number}}}')
    (tmp_path / "motia.toml").write_text('[storage.default]\nadapter = "sqlite"\npath = "new.db"\n')
    (tmp_path / "motia" / "streams").mkdir(parents=True)
    (tmp_path / "motia" / "streams" / "all_stream.py").write_text(
        "from motia_core import StreamConfig\n\ndocuments = StreamConfig('documents')\n"
    )

    async def command(*arguments: str) -> tuple[str, str]:
        made = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "motia_core.cli", *arguments, "--project", str(tmp_path)), stdout=PIPE, stderr=PIPE
        )
        out, err = await made.communicate()
        assert made.returncode == 0, err.decode()
        return out.decode(), err.decode()

    for node in nodes:
        _, said = await command("migrate", "from-motia", node.url, "--apply")
        assert "one node of a Redis Cluster" in said
    groups, _ = await command("groups", "documents")
    assert sorted(groups.split()) == sorted(f'"g{number}"' for number in range(24))
