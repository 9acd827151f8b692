"""`Motia` and its streams as a library: opening, closing, and what must be said when it is used wrongly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, computed_field

from motia_core import Motia, StreamConfig, hookimpl
from motia_core.adapter import Adapter
from motia_core.errors import BackendUnavailable, ConfigError, InvalidValue
from motia_core.model import StreamSpec
from motia_core.testing.harness import eventually

DEADLINE = 10.0
DOCUMENTS = StreamConfig(name="documents")
SPEC = StreamSpec("documents")


@pytest.fixture(params=["memory", "sqlite"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The two storages that need no server."""
    return {"adapter": "memory"} if request.param == "memory" else {"adapter": "sqlite", "path": str(tmp_path / "a.db")}


def application(storage: Any) -> Motia:
    return Motia(streams=[DOCUMENTS], storage={"default": storage})


async def test_a_start_that_failed_can_be_tried_again(tmp_path: Path) -> None:
    obstacle = tmp_path / "folder"
    obstacle.write_text("a file where a folder should be")
    motia = Motia(
        streams=[DOCUMENTS, StreamConfig(name="orders", base_config={"storageType": "orders"})],
        storage={"default": "memory://", "orders": {"adapter": "sqlite", "path": str(obstacle / "orders.db")}},
    )
    with pytest.raises(BackendUnavailable):
        async with motia:
            pass
    assert not motia.is_open
    obstacle.unlink()
    async with motia:
        for name in ("documents", "orders"):
            assert (await motia.streams[name].set("g", "x", {})).type == "create"


async def test_entering_twice_is_refused_and_breaks_nothing(storage: dict[str, Any]) -> None:
    motia = application(storage)
    async with motia:
        with pytest.raises(RuntimeError, match="open already"):
            await motia.__aenter__()
        await motia.streams["documents"].set("g", "x", {"n": 1})
    async with motia:
        await motia.streams["documents"].set("g", "x", {"n": 2})


async def test_watches_end_when_the_application_is_closed(storage: dict[str, Any]) -> None:
    seen: list[str] = []
    joined = asyncio.Event()

    async def follow(motia: Motia) -> None:
        async for change in motia.streams["documents"].watch("g"):
            seen.append(change.type)
            joined.set()

    async with application(storage) as motia:
        task = asyncio.create_task(follow(motia))
        await asyncio.wait_for(joined.wait(), DEADLINE)
    await asyncio.wait_for(task, DEADLINE)
    assert seen == ["sync"]


async def test_who_joins_while_the_application_is_closed_is_told(
    storage: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an error: a cancellation that nobody asked for would end a task without a word."""
    asked = asyncio.Event()

    async def never(*_: Any, **__: Any) -> None:
        asked.set()
        await asyncio.Event().wait()

    async with application(storage) as motia:
        monkeypatch.setattr(motia.storages["default"], "snapshot", never)
        joining = asyncio.create_task(anext(motia.streams["documents"].watch("g")))
        await asyncio.wait_for(asked.wait(), DEADLINE)
    with pytest.raises(BackendUnavailable, match="closed"):
        await asyncio.wait_for(joining, DEADLINE)


async def test_a_watch_has_one_reader(storage: dict[str, Any]) -> None:
    async with application(storage) as motia:
        docs = motia.streams["documents"]
        watch = docs.watch("g")
        first, second = asyncio.create_task(anext(watch)), asyncio.create_task(anext(watch))
        assert (await asyncio.wait_for(first, DEADLINE)).type == "sync"
        with pytest.raises(RuntimeError, match="another task waits"):
            await asyncio.wait_for(second, DEADLINE)
        await docs.set("g", "x", {})
        assert (await asyncio.wait_for(anext(watch), DEADLINE)).type == "create"
        await watch.aclose()
        assert docs.hub.members == 0


async def test_a_quiet_log_ages(storage: dict[str, Any]) -> None:
    async with application({**storage, "retention": {"age": 0.2}}) as motia:
        docs = motia.streams["documents"]
        adapter: Adapter = motia.storages["default"]
        last = await docs.set("g", "x", {})

        async def trimmed() -> bool:
            return await adapter.floor(SPEC) == last.position

        await eventually(trimmed, "the log to be trimmed by age alone")
        assert await docs.get("g", "x") == {}


async def test_a_batch_is_used_once(storage: dict[str, Any]) -> None:
    async with application(storage) as motia:
        docs = motia.streams["documents"]
        async with docs.batch() as batch:
            batch.set("g", "x", {"n": 1})
        with pytest.raises(RuntimeError, match="the batch is over"):
            batch.set("g", "y", {"n": 2})
        with pytest.raises(RuntimeError, match="the batch is over"):
            await batch.__aenter__()
        assert await docs.list("g") == [{"n": 1}]


async def test_a_position_that_is_no_text_is_refused(storage: dict[str, Any]) -> None:
    async with application(storage) as motia:
        after: Any = 5
        with pytest.raises(InvalidValue, match=r"after: must be a position \(text\), not int"):
            motia.streams["documents"].watch("g", after=after)


class Unfinished(BaseModel):
    other: "Missing"  # type: ignore[name-defined]  # noqa: F821, UP037


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "streams": (lambda: Motia(streams=DOCUMENTS), "streams must be a list of StreamConfig objects"),  # type: ignore[arg-type]
    "settings": (lambda: Motia(settings={}), r"settings must be made by Settings.build\(\)"),  # type: ignore[arg-type]
    "storage name": (lambda: Motia(storage={5: "memory://"}), "storage.5: a storage's name"),  # type: ignore[dict-item]
    "path": (lambda: Motia(storage={"default": {"adapter": "sqlite", "path": 5}}), r"\Astorage.default.path: must be "),
    "model": (
        lambda: Motia(streams=[StreamConfig(name="a", schema=Unfinished)]),
        "stream 'a': schema Unfinished: .*not fully defined",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_get_a_sentence(name: str) -> None:
    make, message = WRONG[name]
    with pytest.raises(ConfigError, match=message):
        make()


class _Guard:
    @hookimpl
    async def motia_before_write(self, stream: str, write: Any) -> None:
        if write.id == "refused":
            raise InvalidValue("not this one")
        write.json, write.id = b"not json", "elsewhere"


async def test_before_write_may_refuse_and_cannot_change_what_was_validated() -> None:
    streams = [StreamConfig("documents")]
    async with Motia(streams=streams, storage={"default": "memory://"}, plugins=[_Guard()]) as motia:
        docs = motia.streams["documents"]
        await docs.set("g", "x", {"n": 1})
        assert await docs.list("g") == [{"n": 1}]
        with pytest.raises(InvalidValue, match="not this one"):
            await docs.set("g", "refused", {})
        assert await docs.get("g", "x") == {"n": 1}
        assert await docs.get("g", "refused") is None


class _Slow:
    def __init__(self) -> None:
        self.seen: list[str | None] = []

    @hookimpl
    async def motia_on_change(self, change: Any) -> None:
        await asyncio.sleep(0.02)
        self.seen.append(change.id)


async def test_observers_get_what_has_come_before_the_end() -> None:
    slow = _Slow()
    streams = [StreamConfig("documents")]
    async with Motia(streams=streams, storage={"default": "memory://"}, plugins=[slow]) as motia:
        docs = motia.streams["documents"]
        async with docs.watch("g") as watch:
            await anext(watch)
            ids = [f"{number}" for number in range(20)]
            for id in ids:
                await docs.set("g", id, {})
            for _ in ids:
                await anext(watch)  # so the hub has them all
        assert len(slow.seen) < len(ids)
    assert slow.seen == ids


class _Computed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    n: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return 2 * self.n


async def test_a_model_with_computed_fields_is_stored_as_it_is_read() -> None:
    streams = [StreamConfig("documents", schema=_Computed)]
    async with Motia(streams=streams, storage={"default": "memory://"}) as motia:
        docs = motia.streams["documents"]
        await docs.set("g", "x", _Computed(n=2))
        assert await docs.get("g", "x") == {"n": 2}
        read = await docs.typed(_Computed).get("g", "x")
        assert read is not None
        assert read.double == 4
