"""What is said when Firestore cannot be used, and that it is said in time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import grpc
import pytest
from motia_adapters.firestore.adapter import FirestoreAdapter
from motia_adapters.firestore.options import FirestoreOptions, MappedOptions, options_from_url
from pydantic import ValidationError

from motia_core.adapter import StorageSettings
from motia_core.errors import (
    BackendError,
    BackendUnavailable,
    InvalidValue,
    MotiaError,
    OutcomeUnknown,
)
from motia_core.streams import Stream
from motia_core.testing.harness import DEADLINE
from motia_core.testing.proxy import Proxy
from motia_core.testing.servers import free_port
from tests.adapters.firestore.conftest import DOCS, Lab

VARIABLES = ("FIRESTORE_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT")


def test_urls_become_options() -> None:
    assert options_from_url("firestore://my-app") == {"project": "my-app"}
    assert options_from_url("firestore://my-app/other?emulator=h:1") == {
        "project": "my-app",
        "database": "other",
        "emulator": "h:1",
    }
    assert options_from_url("firestore://") == {}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://my-app", "begins with firestore://"),
        ("firestore://me:secret@my-app", "no user or password"),
        ("firestore://my-app#x", "no fragment"),
        ("firestore://my-app?project=other", "given twice"),
    ],
)
def test_bad_urls_are_refused(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        options_from_url(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"project": "My App"}, "no project id"),
        ({"database": "Main!"}, "no database id"),
        ({"root": "a/b"}, "no name of a collection"),
        ({"emulator": "http://127.0.0.1:8080"}, "without http://"),
        ({"poll": 0}, "greater than 0"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        FirestoreOptions(**options)


async def _refused(options: FirestoreOptions) -> str:
    adapter = FirestoreAdapter(StorageSettings("default", timeout=2.0), options)
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(BackendError) as caught:
            await adapter.open()
    await adapter.close()
    return str(caught.value)


@pytest.fixture
def _nothing_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")


@pytest.mark.usefixtures("_nothing_given")
async def test_without_credentials_the_ways_to_give_them_are_named() -> None:
    said = await _refused(FirestoreOptions(project="my-app"))
    assert "no credentials were found" in said
    for way in ("service-account.json", "GOOGLE_APPLICATION_CREDENTIALS", "gcloud auth", "FIRESTORE_EMULATOR_HOST"):
        assert way in said


@pytest.mark.usefixtures("_nothing_given")
async def test_a_key_that_is_missing_or_none_is_named_and_not_quoted(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    assert "No such file" in await _refused(FirestoreOptions(credentials=path))
    for content in ("not JSON, top-secret", json.dumps({"type": "service_account", "private_key": "top-secret"})):
        path.write_text(content)
        said = await _refused(FirestoreOptions(credentials=path))
        assert "is not the key of a service account" in said
        assert str(path) in said
        assert "top-secret" not in said


@pytest.mark.usefixtures("_nothing_given")
@pytest.mark.parametrize("content", [None, "folder", "[]", '{"type": "top-secret"}', '{"type": "service_account"}',
                                     '{"type": "impersonated_service_account"}'])  # fmt: skip
async def test_a_variable_that_names_no_credentials_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    path = tmp_path / "named.json"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_text(content)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    said = await _refused(FirestoreOptions(project="my-app"))
    assert f"GOOGLE_APPLICATION_CREDENTIALS names {str(path)!r}" in said
    assert ("not there" in said) == (content is None)
    assert "top-secret" not in said
    assert "gcloud auth" in said


async def test_a_firebase_app_that_is_not_there_is_named() -> None:
    assert "firebase_admin.initialize_app()" in await _refused(FirestoreOptions(app="elsewhere", emulator="h:1"))


async def test_nobody_at_the_address_is_said_in_time() -> None:
    address = f"127.0.0.1:{free_port()}"
    said = await _refused(FirestoreOptions(project="my-app", emulator=address))
    assert address in said
    assert "within 2 s" in said


@pytest.mark.parametrize(
    ("code", "unavailable", "remedy"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, False, "roles/datastore.user"),
        (grpc.StatusCode.UNAUTHENTICATED, False, "check the credentials"),
        (grpc.StatusCode.NOT_FOUND, False, "check project and database"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, True, "quota"),
        (grpc.StatusCode.UNAVAILABLE, True, "network"),
    ],
)
async def test_refusals_are_errors_with_a_remedy_in_time(lab: Lab, code: Any, unavailable: bool, remedy: str) -> None:
    docs = await lab.stream(timeout=2.0)
    adapter = docs.hub.adapter
    await docs.set("g", "x", {"n": 1})
    lab.gateway.refuse, lab.gateway.said = code, "said by the test"
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: docs.get("g", "x"),
        lambda: docs.list("g"),
        docs.list_groups,
        lambda: adapter.snapshot(DOCS, "g", None, limit=None),
        lambda: docs.set("g", "y", {"n": 1}),
    ]
    async with asyncio.timeout(DEADLINE):
        for call in calls:
            with pytest.raises(BackendError) as caught:
                await call()
            error = caught.value
            assert isinstance(error, BackendUnavailable | OutcomeUnknown) == unavailable, error
            assert adapter.address in str(error)
            assert remedy in str(error)
            assert "said by the test" in str(error)
            assert isinstance(error.__cause__, grpc.aio.AioRpcError)
    lab.gateway.refuse = None
    assert await docs.get("g", "x") == {"n": 1}
    await docs.set("g", "y", {"n": 2})


async def test_a_project_without_a_database_is_refused_at_the_start(lab: Lab) -> None:
    lab.gateway.refuse = grpc.StatusCode.NOT_FOUND
    lab.gateway.said = "The database (default) does not exist for project demo-motia"
    with pytest.raises(BackendError, match="check project and database"):
        await lab.connect()


@pytest.mark.parametrize("mode", ["stall", "hole"])
async def test_a_server_that_does_not_answer_is_given_up_in_time(lab: Lab, mode: Any) -> None:
    async with Proxy(lab.gateway.port) as proxy:
        docs = await lab.stream(emulator=f"127.0.0.1:{proxy.port}", timeout=1.0)
        await docs.set("g", "x", {"n": 1})
        proxy.mode = mode
        async with asyncio.timeout(DEADLINE):
            with pytest.raises(BackendUnavailable):
                await docs.get("g", "x")
            with pytest.raises((OutcomeUnknown, BackendUnavailable)):
                await docs.set("g", "x", {"n": 2})
        proxy.mode = "pass"
        proxy.cut()
        await _soon(docs.get("g", "x"))


async def _soon(call: Any) -> None:
    async with asyncio.timeout(DEADLINE):
        await call


async def _all_at_once(docs: Stream[dict[str, Any]], values: dict[str, str]) -> None:
    async with docs.batch() as batch:
        for id, text in values.items():
            batch.set("g", id, {"s": text})


async def test_what_is_too_large_is_refused_before_anything_is_asked(lab: Lab) -> None:
    docs = await lab.stream()
    limits = docs.capabilities
    before = dict(lab.gateway.billed)
    with pytest.raises(InvalidValue):
        await docs.set("g", "x", {"s": "x" * (limits.max_value_bytes or 0)})
    many = {str(number): "" for number in range((limits.max_batch_writes or 0) + 1)}
    large = {str(number): "x" * 900_000 for number in range(5)}
    for values in (many, large):
        with pytest.raises(MotiaError, match="batch"):
            await _all_at_once(docs, values)
    assert dict(lab.gateway.billed) == before


async def test_the_largest_value_and_batch_are_taken(lab: Lab) -> None:
    docs = await lab.stream()
    largest = {"s": "x" * ((docs.capabilities.max_value_bytes or 0) - len('{"s":""}'))}
    await docs.set("g", "x", largest)
    assert await docs.get("g", "x") == largest
    async with docs.batch() as batch:
        for number in range(docs.capabilities.max_batch_writes or 0):
            batch.set("many", f"{number:03}", {"n": number})
    assert len(await docs.list("many")) == docs.capabilities.max_batch_writes


@pytest.mark.parametrize("what", ["get", "list", "head"])
async def test_who_reads_while_the_storage_is_closed_is_told(lab: Lab, what: str) -> None:
    """By an error: a cancellation that nobody asked for would end a task without a word."""
    adapter = await lab.connect()
    held, going = asyncio.Event(), asyncio.Event()

    async def hold(method: str, request: bytes) -> None:
        held.set()
        await going.wait()

    lab.gateway.hold = hold
    reads = {
        "get": lambda: adapter.get(DOCS, "g", "x"),
        "list": lambda: adapter.list(DOCS, "g", after=None, limit=None),
        "head": lambda: adapter.head(DOCS),
    }
    reading = asyncio.create_task(reads[what]())
    async with asyncio.timeout(DEADLINE):
        await held.wait()
        await adapter.close()
        going.set()
        with pytest.raises(BackendUnavailable, match="is not open"):
            await reading


async def test_what_is_asked_for_while_the_storage_is_closed_leaves_nothing_behind(lab: Lab) -> None:
    """A stream that begins to listen only now would do so for ever."""
    adapter = await lab.connect(mapped=MappedOptions(path=f"{lab.namespace}/{{group}}/documents/{{id}}"))
    asked = []
    async with aclosing(adapter.watch(DOCS, await adapter.head(DOCS))) as watch:
        await anext(watch)
        closing = asyncio.create_task(adapter.close())
        while not closing.done():
            asked.append(asyncio.create_task(adapter.head(DOCS)))
            await asyncio.sleep(0.001)
    for said in await asyncio.gather(*asked, return_exceptions=True):
        assert isinstance(said, str | BackendUnavailable)
    assert not [name for task in asyncio.all_tasks() if (name := task.get_name()).startswith("motia-firestore")]
