"""``motia-core migrate from-motia``: what older stores hold comes across whole, and stays where it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from motia_adapters.redis.legacy import OldStore

from motia_core import Motia
from motia_core.errors import PositionExpired
from motia_core.states import STATE
from motia_core.testing.servers import Redis

from ...clients.conftest import install

HERE = Path(__file__).parent / "legacy"
STREAMS = """
from motia_core import StreamConfig

documents = StreamConfig(name="documents")
strict = StreamConfig(name="strict", schema={"type": "object", "properties": {"n": {"type": "integer"}}})
"""


def project(folder: Path, storage: str) -> Path:
    (folder / "motia" / "streams").mkdir(parents=True)
    (folder / "motia" / "streams" / "all_stream.py").write_text(STREAMS)
    (folder / "motia.toml").write_text(f"[storage.default]\n{storage}\n")
    return folder


def migrate(folder: Path, url: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "motia_core.cli", "migrate", "from-motia", url, *options]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MOTIA_")}
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=60, check=False)


async def content(lab: Any, port: int) -> dict[bytes, Any]:
    """All keys of a server, as DUMP has them."""
    return {key: await lab.ask(port, "DUMP", key) for key in await lab.ask(port, "KEYS", "*")}


def written_by_npm(server: Redis, commands: list[list[Any]]) -> None:
    modules = install(HERE / "package.json")
    command = ["node", str(HERE / "write.mjs"), str(modules), str(server.port), json.dumps(commands)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("target", ["redis", "sqlite"])
async def test_what_the_published_adapters_wrote_comes_across_whole(lab: Any, tmp_path: Path, target: str) -> None:
    server = await lab.serve()
    odd = {"text": "äß\U0001f600", "empty": [], "none": {}, "deep": {"a.b": [1, 2.5, None, True]}, "big": 2**53}
    commands: list[list[Any]] = [["set", "documents", "w1", f"doc-{n}", {"n": n}] for n in range(1_200)]
    commands += [["set", "documents", "w:2/ü", "odd id :*", odd], ["set", "documents", "w1", "doc-7", {"n": -7}]]
    commands += [["delete", "documents", "w1", "doc-8", None], ["set", "strict", "g", "good", {"n": 1}]]
    commands += [["set", "strict", "g", "bad", {"n": "one"}], ["set", "gone", "g", "x", {}]]
    commands += [["set", "__motia.logs", "default", "x", {"message": "started"}]]
    commands += [["state", "lasting", "workspaces", "w:1", {"members": ["a"]}]]
    commands += [["state", "mortal", "sessions", "s", "text"], ["state", "lasting", "sessions", "zero", 0]]
    written_by_npm(server, commands)
    before = await content(lab, server.port)
    storage = f'url = "{server.url}"' if target == "redis" else 'adapter = "sqlite"'
    folder = project(tmp_path, storage)

    done = migrate(folder, server.url)
    assert "stream documents: 2 groups, 1200 items: 1200 to import, 0 there already" in done.stdout
    assert "    refused: group 'g', item 'bad': $.n: " in done.stdout
    assert "the project has no stream 'gone'" in done.stdout
    assert "state: 2 groups, 3 items: 3 to import" in done.stdout
    assert "__motia" not in done.stdout + done.stderr
    assert "Nothing was written" in done.stderr
    assert done.returncode == 1

    done = migrate(folder, server.url, "--apply", "--json", "--stream", "gone=")
    tallies = {tally["source"]: tally for tally in map(json.loads, done.stdout.splitlines())}
    assert {name: (tally["new"], tally["complete"]) for name, tally in tallies.items()} == {
        "": (3, True), "documents": (1_200, True), "strict": (1, False),
    }  # fmt: skip
    assert done.returncode == 1
    assert "Not everything is there" in done.stderr

    async with Motia.from_project(folder) as motia:
        documents, state = motia.streams["documents"], motia.state
        items = {item["id"]: item for item in await documents.list("w1")}
        assert items["doc-7"].keys() == {"id", "n", "_createdAt"}
        assert {id: item["n"] for id, item in items.items()} == {
            **{f"doc-{n}": n for n in range(1_200) if n != 8}, "doc-7": -7,
        }  # fmt: skip
        found = await documents.get("w:2/ü", "odd id :*")
        assert found is not None
        assert found == {**odd, "id": "odd id :*", "_createdAt": found["_createdAt"]}
        assert await state.get("workspaces", "w:1") == {"members": ["a"]}
        assert await state.list("sessions") == ["text", 0]
        session = await motia.storages["default"].get(STATE, "sessions", "s")
        assert session is not None
        assert session.expires
        await documents.set("w1", "doc-1", {"mine": True})
        await documents.delete("w1", "doc-2")

    # Run again: what is there stays as it is, what is missing comes.
    done = migrate(folder, server.url, "--apply", "--stream", "gone=", "--stream", "strict=")
    assert "stream documents: 2 groups, 1200 items: 1 imported, 1198 there already" in done.stdout
    assert "different: group 'w1', item 'doc-1': has another value here" in done.stdout
    after = await content(lab, server.port)
    assert {key: after[key] for key in before} == before
    assert done.returncode == 1


async def test_what_the_engine_wrote_comes_across(lab: Any, tmp_path: Path) -> None:
    """Its keys, written by hand: no program of it can be had from a package registry."""
    server = await lab.serve()
    for key, id, value in [
        ("stream:documents:w1", "a", '{"n":1}'), ("stream:documents:w:1", "a", '{"n":1.0,"big":1e300}'),
        ("stream:b64~b2xkOmRvY3M:g", "x", '{"n":2}'), ("state:workspaces", "w1", '{"members":[]}'),
    ]:  # fmt: skip
        await lab.ask(server.port, "HSET", key, id, value)
    done = migrate(project(tmp_path, 'adapter = "sqlite"'), server.url, "--apply", "--stream", "old:docs=strict")
    assert (done.returncode, "Everything is there" in done.stderr) == (0, True), done
    assert "stream old:docs as strict: 1 groups, 1 items: 1 imported" in done.stdout
    async with Motia.from_project(tmp_path) as motia:
        assert await motia.streams["documents"].list_groups() == ["w1", "w:1"]
        assert await motia.streams["documents"].get("w:1", "a") == {"n": 1.0, "big": 1e300}
        assert await motia.streams["strict"].get("g", "x") == {"n": 2}
        assert await motia.state.get("workspaces", "w1") == {"members": []}


async def test_what_cannot_be_imported_is_named(lab: Any, tmp_path: Path) -> None:
    server = await lab.serve()
    for id, value in [("list", "[1]"), ("broken", "{"), ("", "{}"), (b"\xff", "{}"), ("fine", "{}")]:
        await lab.ask(server.port, "HSET", "stream:documents:g", id, value)
    await lab.ask(server.port, "SET", "stream:documents:other", "x")
    await lab.ask(server.port, "HSET", "motia:state:g:k", "f", "v")
    await lab.ask(server.port, "HSET", b"stream:documents:\xff", "f", "v")
    done = migrate(project(tmp_path, 'adapter = "sqlite"'), server.url, "--apply")
    assert "1 groups, 5 items: 1 imported" in done.stdout
    for named in ("'list': $: ", "'broken': $: is no JSON", "item '': item id must not be empty", "surrogates"):
        assert named in done.stdout
    for key in ("'stream:documents:other' is a string", "'motia:state:g:k' is a hash", "is no UTF-8"):
        assert f"left out: key {key}" in done.stderr or key in done.stderr
    assert done.returncode == 1


async def test_nothing_is_imported_into_what_ends_with_the_command(lab: Any, tmp_path: Path) -> None:
    server = await lab.serve()
    await lab.ask(server.port, "HSET", "stream:documents:g", "x", "{}")
    await lab.ask(server.port, "HSET", "state:g", "x", "1")
    folder = project(tmp_path, 'adapter = "memory"')
    for options in ([], ["--apply"]):
        done = migrate(folder, server.url, *options)
        assert done.returncode == 1
        for what in ("stream 'documents'", "state"):
            assert f"left out: {what} lives in storage 'default', where only the server's process" in done.stdout
        assert "1 items: 0 " in done.stdout


async def test_foreign_keys_of_what_is_left_out_are_no_concern(lab: Any, tmp_path: Path) -> None:
    """Others call their keys ``state:`` and ``stream:``, too."""
    server = await lab.serve()
    await lab.ask(server.port, "HSET", "stream:documents:g", "x", "{}")
    for key in ("state:theirs", "stream:theirs:x", b"stream:theirs:\xff"):
        await lab.ask(server.port, "SET", key, "x")
    folder = project(tmp_path, 'adapter = "sqlite"')
    done = migrate(folder, server.url, "--apply")
    assert (done.returncode, done.stderr.count("left out: key")) == (1, 3)
    done = migrate(folder, server.url, "--apply", "--no-state", "--stream", "theirs=")
    assert (done.returncode, "left out" in done.stderr) == (0, False), done
    # A prefix that is also the engine's hides none of the engine's keys.
    done = migrate(folder, server.url, "--no-state", "--stream", "theirs=", "--stream-prefix", "stream:")
    assert "stream documents: 1 groups, 1 items: 0 to import, 1 there already" in done.stdout


async def test_what_is_there_is_compared_as_json(lab: Any, tmp_path: Path) -> None:
    """``true`` is not 1, and a null that is not there yet is not there."""
    server = await lab.serve()
    await lab.ask(server.port, "HSET", "stream:documents:g", "x", '{"done":[true]}', "y", '{"n":1}')
    await lab.ask(server.port, "SET", "motia:state:g:nothing", "null")
    folder = project(tmp_path, 'adapter = "sqlite"')
    async with Motia.from_project(folder) as motia:
        await motia.streams["documents"].set("g", "x", {"done": [1]})
        await motia.streams["documents"].set("g", "y", {"n": 1})
    for options, said in (
        ([], "1 to import, 0 there"),
        (["--apply"], "1 imported, 0 there"),
        ([], "0 to import, 1 there"),
    ):
        done = migrate(folder, server.url, *options)
        assert f"state: 1 groups, 1 items: {said} already" in done.stdout
        assert "stream documents: 1 groups, 2 items: 0 " in done.stdout
        assert "different: group 'g', item 'x'" in done.stdout
        assert done.returncode == 1


async def test_state_that_expires_while_it_is_read_is_left(lab: Any) -> None:
    """Not imported for ever, and no key of a wrong type."""
    server = await lab.serve()
    await lab.ask(server.port, "MSET", "motia:state:g:a", "1", "motia:state:g:b", "2", "motia:state:g:c", "3")

    class Interrupted(OldStore):
        """Keys go away between two questions."""

        async def _ask(self, *commands: Any) -> list[Any]:
            if commands and commands[0][0] == "TYPE":
                await lab.ask(server.port, "DEL", "motia:state:g:a")
            if commands and commands[0][0] == "PTTL":
                await lab.ask(server.port, "DEL", "motia:state:g:b")
            return await super()._ask(*commands)

    async with Interrupted(server.url, 5.0) as old:
        (group,) = await old.groups()
        pages = [page async for page in old.items(group)]
    assert [(item.id, item.ttl) for page in pages for item in page] == [("c", None)]
    assert old.unreadable == []


async def test_a_store_that_cannot_be_read_says_why(lab: Any, tmp_path: Path) -> None:
    server = await lab.serve("--requirepass", "geheim")
    folder = project(tmp_path, 'adapter = "sqlite"')
    for url, said in [
        (f"redis://:falsch@127.0.0.1:{server.port}", "check username and password"),
        (server.url, "give a password"),
        ("redis://127.0.0.1:1", "is the server running"),
        ("http://127.0.0.1", "begins with redis://"),
        ("redis://:geheim@h:6379/0?tls=perhaps", "tls"),
    ]:
        done = migrate(folder, url)
        assert (done.returncode, done.stdout) == (1, "")
        assert said in done.stderr
        assert "geheim" not in done.stderr
        assert "falsch" not in done.stderr
    empty = migrate(folder, f"redis://:geheim@127.0.0.1:{server.port}", "--apply")
    assert (empty.returncode, "nothing of an older Motia" in empty.stderr) == (0, True)
    wrong = migrate(folder, server.url, "--stream", "x")
    assert (wrong.returncode, "OLD=NEW" in wrong.stderr) == (2, True)


async def test_a_new_history_is_begun_by_command(lab: Any, tmp_path: Path) -> None:
    server = await lab.serve()
    folder = project(tmp_path, f'url = "{server.url}"')
    (folder / "motia.toml").write_text(f'[storage]\ndefault = "{server.url}"\nother = "sqlite:///x.db"\n')
    documents = (folder / "motia/streams/all_stream.py").read_text()
    mine = 'mine = StreamConfig(name="mine", base_config={"storageType": "other"})\n'
    (folder / "motia/streams/all_stream.py").write_text(documents + mine)

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-W", "error", "-m", "motia_core.cli", "migrate", "new-history", *arguments]
        return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=60, check=False)

    async with Motia.from_project(folder) as motia:
        stream = motia.streams["documents"]
        before = await stream.set("g", "x", {"n": 1})
        done = command("documents")
        assert (done.returncode, "has begun a new history" in done.stderr) == (0, True), done
        watch = stream.watch("g", after=before.position)
        first = await anext(watch)
        assert (first.type, first.data) == ("sync", [{"n": 1}])
        await watch.aclose()
        await motia.state.set("g", "k", 1)
        state = motia.hubs["$state"].adapter
        at = await state.head(STATE)
        whole = command("--storage", "default")
        begun = [line.split()[1] for line in whole.stderr.splitlines() if "has begun" in line]
        assert begun == ["documents", "strict", "$state"], whole
        with pytest.raises(PositionExpired):
            async with aclosing(state.watch(STATE, at)) as batches:
                await anext(batches)
    for arguments, said in [
        (["mine"], "cannot be begun by hand"),
        (["none"], "its streams: documents, mine, strict"),
        (["--storage", "none"], "its storages: default, other"),
        ([], "name streams"),
    ]:
        refused = command(*arguments)
        assert refused.returncode == (1 if arguments else 2), refused
        assert said in refused.stderr
