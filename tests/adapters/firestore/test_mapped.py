"""Documents of an application's own, and another process that knows only firebase-admin."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from google.auth.credentials import AnonymousCredentials
from google.cloud import firestore
from google.cloud.firestore_v1.vector import Vector
from motia_adapters.firestore.mapped import departures, events, kept, notes, places, stream
from motia_adapters.firestore.mapped.states import LAG
from motia_adapters.firestore.wire import RunQueryRequest, micros

from motia_core.adapter import Adapter
from motia_core.errors import Conflict, InvalidName, InvalidValue, PositionExpired, UnsupportedCapability
from motia_core.model import StreamSpec
from motia_core.streams import Stream
from motia_core.testing.harness import Reader, eventually, read_log
from motia_core.testing.history import Told, check_history, told
from tests.adapters.firestore.conftest import DOCS, Lab
from tests.adapters.firestore.outsider import AT

NATIVE = {
    "at": {"$timestamp": "2026-01-31T12:00:00.123456Z"},
    "who": {"$reference": "users/alice"},
    "where": {"$geopoint": [52.5, 13.4]},
    "raw": {"$bytes": "AP8="},
    "nan": {"$double": "NaN"},
}


def mapped(lab: Lab) -> dict[str, Any]:
    """Options for documents of this test alone."""
    return {"path": f"{lab.namespace}/{{group}}/documents/{{id}}"}


async def theirs(lab: Lab, *deeds: str) -> None:
    """Let the other program do something."""
    environment = {**os.environ, "FIRESTORE_EMULATOR_HOST": lab.server.url.removeprefix("http://")}
    program = Path(__file__).with_name("outsider.py")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "ignore", str(program), lab.namespace, *deeds, env=environment
    )
    assert await process.wait() == 0


@pytest_asyncio.fixture(loop_scope="session")
async def docs(lab: Lab) -> Stream[dict[str, Any]]:
    return await lab.stream(mapped=mapped(lab))


@pytest_asyncio.fixture(loop_scope="session")
async def client(lab: Lab) -> AsyncGenerator[Any, None]:
    """The plain driver, in this process."""
    os.environ["FIRESTORE_EMULATOR_HOST"] = lab.server.url.removeprefix("http://")
    anonymous: Any = AnonymousCredentials
    made = firestore.AsyncClient(project="demo-motia", credentials=anonymous())
    api = made._firestore_api
    del os.environ["FIRESTORE_EMULATOR_HOST"]
    yield made
    await api.transport.close()


def document(client: Any, lab: Lab, id: str, group: str = "g") -> Any:
    """A reference of the plain driver's."""
    return client.collection(lab.namespace).document(group).collection("documents").document(id)


async def held_look(lab: Lab, client: Any) -> asyncio.Event:
    """Have a look for changes begun, by a document of another program's; it ends when the event is set."""
    going, held = asyncio.Event(), asyncio.Event()

    async def hold(method: str, request: bytes) -> None:
        if method == "RunQuery" and not RunQueryRequest.FromString(request).parent.endswith("/g"):
            held.set()
            await going.wait()

    lab.gateway.hold = hold
    await document(client, lab, "other").set({"n": 1})  # which calls for a look
    await held.wait()
    return going


async def looks_are_behind(adapter: Any) -> None:
    """Wait until a look that begins now would see all that was done."""
    done = micros(await adapter._streams["docs"]._places.now())

    async def over() -> bool:
        return bool(adapter._connection.now() - LAG * 1_000_000 > done)

    await eventually(over, "looks to be behind what was done")


async def test_what_the_other_program_does_is_told(lab: Lab, docs: Stream[dict[str, Any]]) -> None:
    adapter = docs.hub.adapter
    head = await adapter.head(DOCS)
    reader = Reader(adapter.watch(DOCS, head))
    await docs.set("g", "batch-old", {"n": 0})
    await docs.set("g", "one", {"n": 3})
    expected: list[Told] = []

    async def done(deed: str, *stories: Told) -> None:
        """Each deed is seen before the next one, so that nothing is left out."""
        await theirs(lab, deed)
        expected.extend(stories)

        def arrived(batches: list[Any]) -> bool:
            changes = told(change for batch in batches for change in batch.changes)
            return all(one in changes for one in expected)

        await reader.until(arrived)

    await done("insert", Told("create", "g", "x", {"n": 1, "by": "them"}))
    await done("update", Told("update", "g", "x", {"n": 2, "by": "them", "deep": {"er": "there"}, "tags": ["a"]}))
    await done("replace", Told("update", "g", "x", {"n": 10}))
    await done("merge")
    merged = await docs.get("g", "x")
    assert merged is not None
    assert {**merged, "stamp": None} == {"n": 10, "more": {"a": 1}, "stamp": None}
    assert list(merged["stamp"]) == ["$timestamp"]
    await done("batch", *(Told("create", "g", f"batch{n}", {"n": n}) for n in range(5)))
    await done("transaction", Told("update", "g", "one", {"n": 0}))
    assert await docs.get("g", "other") == {"n": 3}
    await done("move", Told("create", "a", "x", merged), Told("delete", "g", "x", merged))
    await done("insert", Told("create", "g", "x", {"n": 1, "by": "them"}))
    await done("remove", Told("delete", "g", "x", {"n": 1, "by": "them"}))
    await reader.stop()
    seen = [change for batch in reader.seen for change in batch.changes]
    assert told(seen)[:2] == [Told("create", "g", "batch-old", {"n": 0}), Told("create", "g", "one", {"n": 3})]
    moves = [(change.type, change.group_id, change.position) for change in seen if change.id == "x"]
    moved = next(at for at, (_, group, _) in enumerate(moves) if group == "a")
    assert {moves[moved][2][:16], moves[moved + 1][2][:16]} == {moves[moved][2][:16]}, "a batch has one time"
    assert [change.position for change in seen] == sorted({change.position for change in seen})
    assert [change.timestamp for change in seen] == sorted({change.timestamp for change in seen})


async def test_two_processes_tell_another_programs_storm_alike(lab: Lab, docs: Stream[dict[str, Any]]) -> None:
    """Whoever goes on in the other process at any place it was told of misses nothing."""
    here = docs.hub.adapter
    there = await lab.connect(mapped=mapped(lab))
    head = await here.head(DOCS)
    readers = [Reader(adapter.watch(DOCS, head)) for adapter in (here, there)]

    async def ours() -> None:
        for number in range(60):
            await docs.set("g", f"{number % 7}", {"ours": number})
            if number % 9 == 8:
                await docs.delete("g", f"{number % 7}")

    await asyncio.gather(theirs(lab, "storm"), ours())
    last = await docs.set("g", "last", {"n": 0})
    for reader in readers:
        await reader.until(lambda batches: bool(batches) and batches[-1].position >= last.position)
        await reader.stop()
    snapshot = await here.snapshot(DOCS, "g", None, limit=None)
    final = {("g", item.id): item.value for item in snapshot.items}
    logs = [[change for batch in reader.seen for change in batch.changes] for reader in readers]
    for log in logs:
        verdict = check_history(log, final, coalesced=True)
        assert verdict, verdict
    for log, other in ((logs[0], there), (logs[1], here)):
        for change in log[:: max(1, len(log) // 12)]:
            known = [one for one in log if one.position <= change.position]
            reader = Reader(other.resume(DOCS, change.position))
            await reader.until(lambda batches: bool(batches) and batches[-1].position >= last.position)
            await reader.stop()
            rest = [one for batch in reader.seen for one in batch.changes]
            assert _ends(known + rest) == final, f"who goes on behind {change.position} is left behind"


def _ends(changes: list[Any]) -> dict[tuple[str, str], Any]:
    state: dict[tuple[str, str], Any] = {}
    for change in changes:
        if change.type == "delete":
            state.pop((change.group_id, change.id), None)
        else:
            state[change.group_id, change.id] = change.data
    return state


async def test_native_types_are_json_and_updates_leave_them_alone(
    lab: Lab, docs: Stream[dict[str, Any]], client: Any
) -> None:
    await theirs(lab, "native")
    value = await docs.get("g", "native")
    assert value == {**NATIVE, "n": 1, "map": {**NATIVE, "deep": {"at": NATIVE["at"]}}, "list": list(NATIVE.values())}
    before = (await document(client, lab, "native").get()).to_dict()
    await docs.update("g", "native", [{"type": "increment", "path": "n", "by": 1}])
    await docs.update(
        "g", "native", [{"type": "set", "path": ["map", "new"], "value": {"$timestamp": "2026-01-31T12:00:00Z"}}]
    )
    await docs.update("g", "native", [{"type": "append", "path": "list", "value": "last"}])
    after = (await document(client, lab, "native").get()).to_dict()
    assert after["map"].pop("new") == AT.replace(microsecond=0)
    assert after["list"].pop() == "last"
    assert _shape(after) == _shape({**before, "n": 2})
    # In front of a list, and out of its middle: those behind keep their types.
    changed = {**value, "list": ["first", *value["list"][:1], *value["list"][2:]]}
    await docs.set("g", "native", changed)
    found = (await document(client, lab, "native").get()).to_dict()
    assert _shape(found["list"]) == _shape(["first", before["list"][0], *before["list"][2:]])
    assert _shape(found["map"]) == _shape(before["map"])


def _shape(value: Any) -> Any:
    """What the driver shows, as something that can be compared: its references and NaN cannot."""
    if isinstance(value, dict):
        return {name: _shape(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_shape(member) for member in value]
    return (type(value).__name__, getattr(value, "path", repr(value)))


async def test_what_json_cannot_write_is_kept_while_its_neighbours_change(
    lab: Lab, docs: Stream[dict[str, Any]], client: Any
) -> None:
    """A vector is a map with a name that cannot be written; a map that looks like a tag is no timestamp."""
    vector = Vector([1.0, 2.0])
    await document(client, lab, "x").set(
        {"n": 1, "v": vector, "in": {"v": vector, "n": 1}, "list": [{"v": vector, "n": 1}, {"$timestamp": "never"}]}
    )
    await docs.update("g", "x", [{"type": "increment", "path": path, "by": 1} for path in (["in", "n"], "n")])
    item = await docs.get("g", "x")
    assert item is not None
    item["list"][0]["n"] = 2
    await docs.set("g", "x", item)
    found = (await document(client, lab, "x").get()).to_dict()
    assert found == {
        "n": 2,
        "v": vector,
        "in": {"v": vector, "n": 2},
        "list": [{"v": vector, "n": 2}, {"$timestamp": "never"}],
    }


@pytest.mark.parametrize(
    ("value", "path", "reason"),
    [
        ({"a": [[1]]}, "$.a[0]", "no array right inside"),
        ({"": 1}, "$", "no field named ''"),
        ({"a": {"__x__": 1}}, "$.a", "no field named '__x__'"),
        ({"a": {"$timestamp": "yesterday"}}, "$.a", "no timestamp"),
        ({"a": [{"$geopoint": [100, 0]}]}, "$.a[0]", "latitude"),
        ({"a": {"$bytes": "?"}}, "$.a", "base64"),
        ({"a": {"$reference": "users"}}, "$.a", "no path of a document"),
        ({"a": {"$reference": "users/.."}}, "$.a", "no path of a document"),
        ({"a": {"$reference": "users/__x__"}}, "$.a", "no path of a document"),
        ({"a": {"$reference": "projects/A B/databases/x/documents/users/alice"}}, "$.a", "no path of a document"),
        ({"a": {"$double": ["NaN"]}}, "$.a", "none of NaN"),
        ({"a": [0] * 140_000}, "$", "takes 1,048,576 at most"),
    ],
)
async def test_what_documents_cannot_hold_is_refused_with_its_path(
    lab: Lab, docs: Stream[dict[str, Any]], value: Any, path: str, reason: str
) -> None:
    await docs.set("g", "kept", {"n": 1})
    commits = lab.gateway.billed["Commit"]
    for id in ("x", "kept"):
        with pytest.raises(InvalidValue, match=reason) as caught:
            await docs.set("g", id, value)
        assert caught.value.path == path
    assert await docs.get("g", "kept") == {"n": 1}
    assert lab.gateway.billed["Commit"] == commits


async def test_a_document_as_large_as_firestore_takes_is_taken(docs: Stream[dict[str, Any]]) -> None:
    await docs.set("g", "x", {"a": [0] * 130_000})
    found = await docs.get("g", "x")
    assert found is not None
    assert len(found["a"]) == 130_000


async def test_ids_that_firestore_refuses(docs: Stream[dict[str, Any]]) -> None:
    for bad in ("a/b", ".", "..", "__x__"):
        with pytest.raises(InvalidName, match="id of a document"):
            await docs.set("g", bad, {})
        with pytest.raises(InvalidName, match="id of a document"):
            await docs.get(bad, "x")
        with pytest.raises(InvalidName, match="id of a document"):
            await docs.hub.adapter.snapshot(DOCS, bad, None, limit=None)


async def test_a_second_stream_needs_a_storage_of_its_own(docs: Stream[dict[str, Any]]) -> None:
    with pytest.raises(UnsupportedCapability, match="storage of its own"):
        await docs.hub.adapter.prepare(StreamSpec("others"))


async def test_documents_that_can_be_no_items_are_counted_and_reported(
    lab: Lab, docs: Stream[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    adapter = docs.hub.adapter
    reader = Reader(docs.watch("g"))
    await reader.count(1)
    await theirs(lab, "odd")
    await reader.until(lambda seen: any(entry.id == "ordinary" for entry in seen))
    await reader.stop()
    assert [item["n"] for item in await docs.list("g")] == [1]
    assert list(await docs.list_groups()) == ["g"]
    findings = [finding.message for finding in await adapter.diagnose()]
    assert [finding for finding in findings if finding.startswith("1 documents at") and "left out" in finding]
    assert len([record for record in caplog.records if "is left out" in record.message]) == 1


async def test_timestamps_rise_when_a_batch_follows_a_delete(
    lab: Lab, docs: Stream[dict[str, Any]], client: Any
) -> None:
    """The delete is told as having been right before the batch, whose changes have timestamps a little earlier."""
    adapter = docs.hub.adapter
    reader = Reader(adapter.watch(DOCS, await adapter.head(DOCS)))
    for turn in range(6):
        await document(client, lab, "gone").set({"n": turn})
        await reader.until(_heard("gone", {"n": turn}))
        batch = client.batch()
        for number in range(40):
            batch.set(document(client, lab, f"{number}"), {"n": turn})
        await document(client, lab, "gone").delete()
        await batch.commit()
        await reader.until(_heard("39", {"n": turn}))
    await reader.stop()
    seen = [change for batch in reader.seen for change in batch.changes]
    assert [change.timestamp for change in seen] == sorted({change.timestamp for change in seen})


def _heard(id: str, data: Any) -> Any:
    def heard(batches: list[Any]) -> bool:
        return any(change.id == id and change.data == data for batch in batches for change in batch.changes)

    return heard


async def test_a_document_that_came_and_went_again_ends_with_its_own_value(
    lab: Lab, docs: Stream[dict[str, Any]], client: Any
) -> None:
    """Two lives between two moments, with a change beside the second one: each delete has the value of its life."""
    adapter: Any = docs.hub.adapter
    layout = adapter._streams["docs"]._layout
    name = layout.name(("g", "x"))
    first = micros((await document(client, lab, "x").set({"n": 0})).update_time.timestamp_pb())
    await document(client, lab, "x").delete()
    second = micros((await document(client, lab, "x").set({"n": 1})).update_time.timestamp_pb())
    await document(client, lab, "x").delete()
    after = micros((await document(client, lab, "y").set({"n": 2})).update_time.timestamp_pb())

    async def told_so() -> bool:
        life = notes.Life(name, first, after)
        ends = await departures.ends_of(adapter._connection, layout, [life], {second})
        return sorted(end.json or b"" for end in ends) == [b'{"n":0}', b'{"n":1}']

    await eventually(told_so, "both ends, with their values")


async def test_the_emulators_listener_tells_of_one_document_however_many_there_are(
    lab: Lab, docs: Stream[dict[str, Any]]
) -> None:
    """It tells all that a query finds at each commit, and breaks down over thousands of them."""
    told: list[str] = []

    def note(message: Any) -> bool:
        if message.HasField("document_change"):
            told.append(message.document_change.document.name)
        return False

    async def often() -> bool:
        return len(told) >= 20

    lab.gateway.swallow = note
    await docs.hub.adapter.head(DOCS)
    for number in range(20):
        await docs.set("g", f"{number:02}", {"n": number})
    await eventually(often, "the listener to tell of each commit")
    assert {name.rpartition("/")[2] for name in told} == {"00"}


async def test_a_join_that_is_read_late_shows_nothing_that_has_gone_unsaid(
    lab: Lab, docs: Stream[dict[str, Any]], client: Any
) -> None:
    """A document comes and goes between two moments, and a snapshot from between arrives after the second one."""
    adapter: Any = docs.hub.adapter
    await adapter.head(DOCS)
    states = adapter._streams["docs"]._states
    going, held = {"look": asyncio.Event(), "join": asyncio.Event()}, {"look": asyncio.Event(), "join": asyncio.Event()}

    async def hold(method: str, request: bytes) -> None:
        if method == "RunQuery":
            what = "join" if RunQueryRequest.FromString(request).parent.endswith("/g") else "look"
            held[what].set()
            await going[what].wait()

    lab.gateway.hold = hold
    await document(client, lab, "other").set({"n": 1})  # which calls for a look
    await held["look"].wait()
    brief = document(client, lab, "brief")
    await brief.set({"n": 1})
    join = asyncio.create_task(adapter.snapshot(DOCS, "g", None, limit=None))
    await held["join"].wait()
    await brief.delete()
    gone = micros(await adapter._streams["docs"]._places.now())

    async def over() -> bool:
        return bool(adapter._connection.now() - LAG * 1_000_000 > gone)

    async def told() -> bool:
        return bool(states.time > gone)

    await eventually(over, "looks to be behind the delete")
    going["look"].set()
    states.want(gone + 1)
    await eventually(told, "the moment behind the delete")
    going["join"].set()
    snapshot = await join
    shown = {item.id for item in snapshot.items}
    for change in await read_log(adapter, DOCS, snapshot.position):
        (shown.discard if change.type == "delete" else shown.add)(change.id)
    assert shown == {"other"}


async def test_a_join_in_front_of_more_than_is_kept_is_told_of_all_that_it_shows(
    lab: Lab, docs: Stream[dict[str, Any]], client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A document comes, is shown, and goes, and so much follows at once that this is not kept."""
    monkeypatch.setattr(kept, "MOST", 5)
    await docs.hub.start()
    going = await held_look(lab, client)
    await document(client, lab, "brief").set({"n": "brief"})
    reader = Reader(docs.watch("g"))
    assert {item["n"] for item in (await reader.count(1))[0].data} == {"brief", 1}
    await document(client, lab, "brief").delete()
    for number in range(20):
        await document(client, lab, f"{number}").set({"n": f"{number}"})
    going.set()
    last = await docs.set("g", "last", {"n": "last"})
    seen = await reader.until(lambda seen: seen[-1].position >= last.position)
    await reader.stop()
    shown: set[Any] = set()
    for change in seen:
        if change.type == "sync":
            shown = {item["n"] for item in change.data}
        else:
            (shown.discard if change.type == "delete" else shown.add)(change.data["n"])
    assert shown == {1, *map(str, range(20)), "last"}


@pytest.mark.parametrize("by", ["us", "them"])
async def test_what_was_written_or_shown_ends_with_a_word_however_much_it_was(
    lab: Lab, docs: Stream[dict[str, Any]], client: Any, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """More documents come between two moments than values are remembered, and go before the second one."""
    monkeypatch.setattr(notes, "MOST_VALUES", 2)
    adapter: Any = docs.hub.adapter
    await docs.set("g", "old", {"n": -1})
    await read_log(adapter, DOCS, await adapter.head(DOCS))
    going = await held_look(lab, client)
    for number in range(6):
        await docs.set("g", f"written{number}", {"n": number})
        await document(client, lab, f"shown{number}").set({"n": number})
    snapshot = await adapter.snapshot(DOCS, "g", None, limit=None)
    expected = {item.id: item.value for item in snapshot.items if item.id != "other"}
    assert len(expected) == 13
    for id in expected:
        await (docs.delete("g", id) if by == "us" else document(client, lab, id).delete())
    await looks_are_behind(adapter)
    going.set()
    await docs.set("g", "last", {"n": -2})  # another program's delete may be told as late as what is told next
    log = await read_log(adapter, DOCS, snapshot.position)
    assert {change.id: change.data for change in log if change.type == "delete"} == expected


async def test_who_comes_from_elsewhere_is_told_of_the_end_that_it_waits_for(
    lab: Lab, docs: Stream[dict[str, Any]], client: Any
) -> None:
    """Not of a later one of the same name alone: whoever leaves between the two would not be told of that either."""
    there = await lab.stream(mapped=mapped(lab))
    here, other = docs.hub.adapter, there.hub.adapter
    reader = Reader(here.watch(DOCS, await here.head(DOCS)))
    await docs.set("g", "x", {"n": 1})
    await reader.until(lambda batches: any(batch.changes for batch in batches))
    await reader.stop()
    position = reader.seen[-1].position
    await other.snapshot(DOCS, "g", None, limit=None)
    await read_log(other, DOCS, await other.head(DOCS))
    going = await held_look(lab, client)
    await document(client, lab, "x").delete()
    await document(client, lab, "y").set({"n": 2})
    await there.set("g", "x", {"n": 3})
    gone = await there.delete("g", "x")
    assert gone is not None
    going.set()
    await read_log(other, DOCS, await other.head(DOCS))
    resumed = Reader(other.resume(DOCS, position))
    await resumed.until(lambda batches: bool(batches) and batches[-1].position >= gone.position)
    await resumed.stop()
    changes = [(c.type, c.id) for batch in resumed.seen for c in batch.changes if c.id != "other"]
    assert changes == [("delete", "x"), ("create", "y"), ("delete", "x")]


async def test_deletes_that_cannot_be_told_apart_are_each_told_once_wherever_one_goes(
    lab: Lab, docs: Stream[dict[str, Any]], client: Any
) -> None:
    """Another program does one after the other between two moments; each is heard of in another process."""
    here = docs.hub.adapter
    others = [await lab.connect(mapped=mapped(lab)) for _ in range(2)]
    for number in range(6):
        await docs.set("g", f"{number}", {"n": number})
    reader = Reader(here.watch(DOCS, await here.head(DOCS)))
    await reader.count(1)
    await others[0].head(DOCS)  # the second one is a process that has just begun
    going = await held_look(lab, client)
    for number in range(5):
        await document(client, lab, f"{number}").delete()
    going.set()
    last = await docs.set("g", "last", {"n": -1})
    await reader.until(lambda batches: bool(batches) and batches[-1].position >= last.position)
    await reader.stop()
    deletes = [one for batch in reader.seen for one in batch.changes if one.type == "delete"]
    assert {one.id for one in deletes} == {"0", "1", "2", "3", "4"}
    assert len({one.position[:16] for one in deletes}) == 1, "no time was looked for"
    position, told = deletes[0].position, [deletes[0].id]
    while len(told) < 5:
        resumed = Reader(others[len(told) % 2].resume(DOCS, position))
        first = (await resumed.count(1))[0].changes[0]
        await resumed.stop()
        position, told = first.position, [*told, first.id]
    assert sorted(told) == ["0", "1", "2", "3", "4"]
    for other in others:
        rest = Reader(other.resume(DOCS, position))
        assert [change.id for change in (await rest.count(1))[0].changes] == ["last"]
        await rest.stop()


async def test_who_joined_amid_deletes_that_cannot_be_told_apart_is_told_of_all_elsewhere(
    lab: Lab, docs: Stream[dict[str, Any]], client: Any
) -> None:
    """What came and went around the join may go last, and was not there when the first of them went."""
    here = docs.hub.adapter
    other = await lab.connect(mapped=mapped(lab))
    for number in range(6):
        await docs.set("g", f"{number}", {"n": number})
    await here.head(DOCS)
    going = await held_look(lab, client)
    for number in range(6):
        if number % 2:
            await document(client, lab, f"{number}").delete()
        await document(client, lab, f"brief{number}").set({"n": number})
    snapshot = await here.snapshot(DOCS, "g", None, limit=None)
    shown = {item.id for item in snapshot.items} - {"other"}
    assert shown == {"0", "2", "4", *(f"brief{number}" for number in range(6))}
    for id in sorted(shown):
        await document(client, lab, id).delete()
    going.set()
    last = await docs.set("g", "last", {"n": -1})
    reader = Reader(here.watch(DOCS, snapshot.position))
    await reader.until(lambda batches: bool(batches) and batches[-1].position >= last.position)
    await reader.stop()
    for change in (one for batch in reader.seen for one in batch.changes if one.type == "delete"):
        shown.remove(change.id or "")
        resumed = Reader(other.resume(DOCS, change.position))
        told = {one.id for one in (await resumed.count(1))[0].changes if one.type == "delete"}
        await resumed.stop()
        assert told >= shown
    assert not shown


async def test_a_group_is_listed_once_whatever_is_below_its_items(
    lab: Lab, docs: Stream[dict[str, Any]], client: Any
) -> None:
    for group in ("g", "h", "i"):
        await document(client, lab, "x", group).set({"n": 1})
        for number in range(25):
            await document(client, lab, "x", group).collection("documents").document(f"{number}").set({})
    assert list(await docs.list_groups()) == ["g", "h", "i"]
    pages: list[str] = []
    while page := await docs.list_groups(after=pages[-1] if pages else None, limit=1):
        pages += page
    assert pages == ["g", "h", "i"]


async def test_doctor_looks_at_the_path(lab: Lab) -> None:
    adapter = await lab.connect(mapped=mapped(lab))
    empty = [finding for finding in await adapter.diagnose() if "no document at" in finding.message]
    assert [finding.level for finding in empty] == ["warning"]
    assert "as your application has it" in empty[0].remedy
    await theirs(lab, "insert")
    assert [f for f in await adapter.diagnose() if "documents/{id} are mapped" in f.message and f.level == "ok"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("workspaces/{group}/documents", "names a collection"),
        ("workspaces/{group}//{id}", "empty segment"),
        ("workspaces/{group}/documents/x", "once"),
        ("workspaces/w/documents/{id}", "once"),
        ("{group}/w/documents/{id}", "stands where a collection is"),
        ("workspaces/{group}/documents/d-{id}", "stand alone"),
        ("workspaces/{id}/documents/{group}", "at its end"),
        ("workspaces/{group}/__x__/{id}", "no name that Firestore takes"),
    ],
)
def test_a_template_that_does_not_fit(path: str, reason: str) -> None:
    from motia_adapters.firestore.options import FirestoreOptions

    with pytest.raises(ValueError, match=reason):
        FirestoreOptions(mapped={"path": path})  # type: ignore[arg-type]


@pytest.mark.parametrize("meddled", ["seen", "none"])
async def test_what_a_batch_has_only_looked_at_must_still_be_so(
    lab: Lab, docs: Stream[dict[str, Any]], client: Any, meddled: str
) -> None:
    """A condition on an item that keeps its value, or on one that is not there, holds for the commit as a whole."""
    version = (await docs.set("g", "seen", {"n": 1})).version
    adapter: Any = docs.hub.adapter
    commit = adapter._connection.commit

    async def late(writes: Any) -> Any:
        """Another program comes between reading and committing."""
        adapter._connection.commit = commit
        await document(client, lab, meddled).set({"n": 2})
        return await commit(writes)

    async def write() -> Any:
        async with docs.batch() as batch:
            batch.set("g", "seen", {"n": 1}, expect=version)
            gone = batch.delete("g", "none")
            batch.set("g", "written", {"n": 1})
        return gone

    adapter._connection.commit = late
    if meddled == "seen":
        with pytest.raises(Conflict):
            await write()
        assert await docs.get("g", "written") is None
    else:
        gone = await write()
        assert gone.result is not None
        assert gone.result.old_value == {"n": 2}
        assert await docs.get("g", "none") is None
    assert await docs.get("g", "seen") == {"n": 2 if meddled == "seen" else 1}


async def test_a_position_that_firestore_does_not_remember_is_expired(docs: Stream[dict[str, Any]]) -> None:
    adapter = docs.hub.adapter
    position = (await docs.set("g", "x", {"n": 1})).position
    hours_ago = f"{int(position[:16], 16) - 2 * 3_600_000_000:016x}{position[16:]}"
    with pytest.raises(PositionExpired) as caught:
        await read_log(adapter, DOCS, hours_ago)
    assert caught.value.floor is not None
    assert await read_log(adapter, DOCS, caught.value.floor) is not None


async def test_custom_events_do_not_touch_the_documents(lab: Lab, docs: Stream[dict[str, Any]], client: Any) -> None:
    await docs.set("g", "x", {"n": 1})
    before = (await document(client, lab, "x").get()).update_time
    position = (await docs.send({"groupId": "g", "id": "x"}, {"type": "ping", "data": {"a": 1}})).position
    assert (await document(client, lab, "x").get()).update_time == before
    other = await lab.connect(mapped=mapped(lab))
    start = f"{int(position[:16], 16) - 1:016x}fffff{position[21:]}"
    assert told(await read_log(other, DOCS, start)) == [Told("event", "g", "x", {"a": 1}, "ping")]


async def test_a_deleted_document_is_told_with_its_last_value_after_reopening(lab: Lab, client: Any) -> None:
    adapter: Adapter = await lab.connect(mapped=mapped(lab))
    await document(client, lab, "gone").set({"n": 1})
    position = await adapter.head(DOCS)
    await adapter.close()
    await document(client, lab, "gone").delete()
    again = await lab.connect(mapped=mapped(lab))

    async def arrived() -> bool:
        return told(await read_log(again, DOCS, position)) == [Told("delete", "g", "gone", {"n": 1})]

    await eventually(arrived, "the delete that nobody saw")


async def test_old_custom_events_are_removed(
    lab: Lab, docs: Stream[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter: Any = docs.hub.adapter
    head = await adapter.head(DOCS)
    for number in range(5):
        await docs.send({"groupId": "g"}, {"type": "ping", "data": {"n": number}})
    stored = adapter._streams["docs"]
    assert (await stored._events._log.oldest()).seq == 0
    monkeypatch.setattr(events, "KEPT", 0)
    monkeypatch.setattr(stream, "SELDOM", 0.0)

    async def trimmed() -> bool:
        return bool((await stored._events._log.oldest()).seq == 5)

    await eventually(trimmed, "all events but the last one to be removed")
    last = await docs.send({"groupId": "g"}, {"type": "ping", "data": {"n": 5}})
    log = await read_log(adapter, DOCS, head)
    assert [change.position for change in log][-1] == last.position
    assert [change.data for change in log] == [{"n": n} for n in range(6)], "this process still has them"


async def test_a_stream_that_is_quiet_for_longer_than_firestore_remembers_goes_on(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However seldom its looks are asked to be; its position stays young."""
    monkeypatch.setattr(stream, "LONGEST_QUIET", 0.2)
    monkeypatch.setattr(places, "GRACE", departures.REACH - 1)  # the floor is a second old at most
    docs = await lab.stream(mapped=mapped(lab), poll=3_600)
    adapter = docs.hub.adapter
    reader = Reader(adapter.watch(DOCS, await adapter.head(DOCS)))
    await reader.count(1)
    began = asyncio.get_running_loop().time()
    await reader.until(lambda _: asyncio.get_running_loop().time() > began + 3)
    assert reader.seen[-1].position >= await adapter.floor(DOCS)
    await docs.set("g", "x", {"n": 1})
    await reader.until(lambda batches: any(batch.changes for batch in batches))
    await reader.stop()


async def test_a_watch_that_is_slower_than_what_is_kept_misses_nothing(
    lab: Lab, docs: Stream[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "MOST", 5)
    adapter = docs.hub.adapter
    head = await adapter.head(DOCS)
    watch = adapter.watch(DOCS, head)
    await anext(watch)  # it has begun, and its reader is busy
    for number in range(20):
        last = await docs.set("g", f"{number}", {"n": number})
    await read_log(adapter, DOCS, last.position)  # until all of it has been told
    reader = Reader(watch)
    await reader.until(lambda batches: bool(batches) and batches[-1].position >= last.position)
    await reader.stop()
    assert [change.id for batch in reader.seen for change in batch.changes] == [f"{number}" for number in range(20)]
