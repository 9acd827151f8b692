"""Users of a server with access control: what each right is for, and what is said where one is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from motia_adapters.mongodb.options import MappedOptions

from motia_core.errors import BackendError, BackendUnavailable, OutcomeUnknown, PositionExpired
from motia_core.testing.servers import MongoDB, start_or_skip
from tests.adapters.mongodb.test_abandoned import held_by_a_killed_process

DATA = ["find", "insert", "update", "remove", "createCollection", "createIndex", "listIndexes"]
USERS: dict[str, list[Any]] = {
    "full": [{"role": "readWrite", "db": "shop"}, {"role": "read", "db": "local"}],
    "blind": [{"role": "readWrite", "db": "shop"}],
    "reader": [{"role": "read", "db": "shop"}],
    "deaf": ["data", "names"],
    "nameless": ["data", "changes"],
}
ROLES = {"data": DATA, "names": ["listCollections"], "changes": ["changeStream"]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoDB]:
    server = MongoDB()
    asyncio.run(start_or_skip(server))
    try:
        _populate(server)
        key = tmp_path_factory.mktemp("mongodb") / "key"
        key.write_text("motia" * 8)
        key.chmod(0o600)
        server._arguments = ("--auth", "--keyFile", str(key))
        asyncio.run(server.restart())
        yield server
    finally:
        asyncio.run(server.stop())


def _populate(server: MongoDB) -> None:
    with server._client() as client:
        shop = client["shop"]
        shop.create_collection("orders", changeStreamPreAndPostImages={"enabled": True})
        for role, actions in ROLES.items():
            resource = {"db": "shop", "collection": ""}
            shop.command("createRole", role, privileges=[{"resource": resource, "actions": actions}], roles=[])
        for user, roles in USERS.items():
            shop.command("createUser", user, pwd="sesame", roles=roles)


def _url(server: MongoDB, user: str, password: str = "sesame") -> str:
    return f"mongodb://{user}:{password}@127.0.0.1:{server.port}/?authSource=shop&directConnection=true"


MAPPED = MappedOptions(collection="orders", group_field="customer")


async def test_read_write_and_the_oplog_are_enough(server: MongoDB, lab: Any) -> None:
    for mapped in (None, MAPPED):
        adapter = await lab.connect(_url(server, "full"), mapped=mapped)
        start = await adapter.head(lab.docs)
        group = "g" if mapped is None else "ada"
        await lab.put(adapter, "full", {"n": 1}, group=group)
        assert [change.id for change in await lab.log(adapter, start)] == ["full"]
        assert [f.message for f in await adapter.diagnose() if f.level == "error"] == []


async def test_read_write_is_enough_to_end_what_a_killed_process_of_the_same_user_held(
    server: MongoDB, lab: Any
) -> None:
    await held_by_a_killed_process(lab, _url(server, "blind"))


async def test_without_the_oplog_all_runs_and_doctor_says_what_is_not_noticed(server: MongoDB, lab: Any) -> None:
    adapter = await lab.connect(_url(server, "blind"))
    start = await adapter.head(lab.docs)
    result = await lab.put(adapter, "blind", {"n": 1})
    assert [change.position for change in await lab.log(adapter, start)] == [result.position]
    ahead = f"{int(start[:8], 16) + 1_000:08x}{start[8:]}"
    with pytest.raises(PositionExpired, match="ahead of the store"):
        await lab.log(adapter, ahead)
    said = [f"{finding.message}; {finding.remedy}" for finding in await adapter.diagnose() if finding.level != "ok"]
    assert any("a restored backup is not noticed" in text and "read on database 'local'" in text for text in said)
    assert await adapter.history_reach(lab.docs) is None


@pytest.mark.parametrize("mapped", [None, MAPPED], ids=["managed", "mapped"])
async def test_who_may_only_read_is_told_so_before_anything_is_written(
    server: MongoDB, lab: Any, mapped: MappedOptions | None
) -> None:
    adapter = await lab.connect(_url(server, "reader"), mapped=mapped)
    with pytest.raises(BackendError, match=r"not authorized.*lacks a permission.*README") as caught:
        await lab.put(adapter, "reader", {"n": 1}, group="ada")
    assert "sesame" not in str(caught.value)
    full = await lab.connect(_url(server, "full"), mapped=mapped)
    assert await full.get(lab.docs, "ada", "reader") is None


async def test_who_may_not_watch_is_told_so_by_the_watch(server: MongoDB, lab: Any) -> None:
    adapter = await lab.connect(_url(server, "deaf"))
    await lab.put(adapter, "deaf", {"n": 1})
    head = await adapter.head(lab.docs)
    with pytest.raises(BackendError, match="lacks a permission"):
        await lab.log(adapter, head)
    assert (await adapter.get(lab.docs, "g", "deaf")).value == {"n": 1}


async def test_who_may_not_list_collections_is_told_so(server: MongoDB, lab: Any) -> None:
    for mapped in (None, MAPPED):
        adapter = await lab.connect(_url(server, "nameless"), mapped=mapped)
        with pytest.raises(BackendError, match=r"not authorized.*listCollections"):
            await adapter.prepare(lab.docs)
        findings = await adapter.diagnose()
        assert any("replica set 'rs0'" in finding.message for finding in findings)
        assert mapped is None or any(f.level == "error" and "listCollections" in f.message for f in findings)


async def test_doctor_names_the_rights_that_are_missing(server: MongoDB, lab: Any) -> None:
    images = MappedOptions(collection="orders", group_field="customer", enable_images=True)
    for user, mapped, missing in [
        ("full", None, ""),
        ("full", images, "collMod"),
        ("reader", MAPPED, "insert, update, remove, createCollection, createIndex"),
        ("deaf", None, "changeStream"),
        ("nameless", None, "listCollections"),
    ]:
        adapter = await lab.connect(_url(server, user), mapped=mapped)
        findings = [f"{finding.message}; {finding.remedy}" for finding in await adapter.diagnose()]
        if missing:
            said = f"user '{user}' may not {missing} on every collection of database 'shop'; grant it: "
            assert any(finding.startswith(said) for finding in findings), findings
        else:
            assert f"user '{user}' may do all that is needed on database 'shop'; " in findings


async def test_a_wrong_password_is_told_and_not_shown(server: MongoDB, lab: Any) -> None:
    with pytest.raises(BackendError, match="check user name, password and authSource") as caught:
        await lab.connect(_url(server, "full", "geheim"))
    assert "geheim" not in str(caught.value)


async def test_a_server_that_has_just_started_tells_no_time_and_is_waited_for(server: MongoDB, lab: Any) -> None:
    adapter = await lab.connect(_url(server, "full"))
    start = await adapter.head(lab.docs)
    written: list[str] = []
    for number in range(3):
        await server.restart()
        async with asyncio.timeout(60):
            while len(written) == number:
                try:
                    written.append((await lab.put(adapter, f"{number}", {"n": number})).position)
                except (BackendUnavailable, OutcomeUnknown):
                    continue
    log = [change.position for change in await lab.log(adapter, start)]
    assert [position for position in log if position in written] == written
    assert log == sorted(set(log))
