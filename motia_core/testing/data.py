"""Clauses A: data."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from pydantic import BaseModel

from motia_core.errors import (
    Conflict,
    InvalidName,
    InvalidValue,
    SchemaError,
    UnsupportedCapability,
    UpdateError,
)
from motia_core.model import ABSENT, StreamSpec
from motia_core.operations import parse
from motia_core.testing.harness import DEADLINE, World, eventually, read_log
from motia_core.testing.history import Told, story, told
from motia_core.testing.suite import Suite
from motia_core.testing.values import ODD, REFUSED, deep, ids, objects, operations
from motia_core.values import encode

SPEC = StreamSpec("documents")

EXAMPLES = settings(
    max_examples=int(os.environ.get("MOTIA_TEST_EXAMPLES", "60")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

ODD_IDS = [
    *(":", "/", ".", "..", "*", "__x__", "'", '"', "`", "{}", "{x}", "../a", "a/b", "$", "%2F", "\\", " "),
    *("a:b", "a::b", "A", "a", "null", "0", "-1", "~", "e\u0301", "\u00e9", "\uffff", "\U0001f600"),
    *("x" * 512, "\U0001f600" * 128),
]


class Room(StrEnum):
    """Ids as an application may write them."""

    KITCHEN = "kitchen"


class Data(Suite):
    """Values, writes, updates, pages, batches, names (SEMANTICS A)."""

    @pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
    async def test_A1_odd_values_come_back_to_the_last_bit(self, world: World, value: dict[str, Any]) -> None:
        docs = await world.stream()
        if not await _holds(docs, "x", value):
            assert await docs.list("g") == []
            return
        same = _comparison(docs)
        assert same(await docs.get("g", "x")) == same(value)
        assert [same(item) for item in await docs.list("g")] == [same(value)]

    async def test_A1_any_value_comes_back_to_the_last_bit(self, world: World) -> None:
        docs = await world.stream()
        loop = asyncio.get_running_loop()
        cases: list[dict[str, Any]] = []

        @EXAMPLES
        @given(objects)
        def collect(value: dict[str, Any]) -> None:
            cases.append(value)

        await loop.run_in_executor(None, collect)
        same = _comparison(docs)
        held = [await _holds(docs, str(number), value) for number, value in enumerate(cases)]
        for number, value in enumerate(cases):
            assert same(await docs.get("g", str(number))) == same(value if held[number] else None)

    @pytest.mark.parametrize(("value", "path"), [(v, p) for _, v, p in REFUSED], ids=[n for n, _, _ in REFUSED])
    async def test_A1_what_json_lacks_is_refused_with_its_path(self, world: World, value: Any, path: str) -> None:
        docs = await world.stream()
        head = await _head(world, docs)
        with pytest.raises(InvalidValue) as caught:
            await docs.set("g", "x", value)
        assert caught.value.path.startswith(path)
        assert path in str(caught.value)
        if isinstance(value, dict):
            with pytest.raises(UpdateError):
                await docs.update("g", "x", [{"type": "set", "path": "deeper", "value": value}])
        assert await docs.get("g", "x") is None
        assert await read_log(docs.hub.adapter, SPEC, head) == []

    async def test_A1_nesting_has_a_limit(self, world: World) -> None:
        docs = await world.stream()
        if await _holds(docs, "x", deep(100)):
            assert await docs.get("g", "x") == deep(100)
        with pytest.raises(InvalidValue, match="100 levels"):
            await docs.set("g", "y", deep(101))
        with pytest.raises(InvalidValue, match="100 levels"):
            await docs.set("g", "y", deep(5_000))
        with pytest.raises(UpdateError, match="100 levels"):
            await docs.update("g", "z", [{"type": "set", "path": ["a", "b"], "value": deep(99)}])
        assert await docs.get("g", "y") is None

    async def test_A2_set_says_create_or_update_and_gives_both_values(self, world: World) -> None:
        docs = await world.stream()
        made = await docs.set("g", "x", {"n": 1})
        assert (made.type, made.old_value, made.new_value) == ("create", None, {"n": 1})
        changed = await docs.set("g", "x", {"n": 2})
        assert (changed.type, changed.old_value, changed.new_value) == ("update", {"n": 1}, {"n": 2})
        assert changed.version != made.version
        if docs.capabilities.ordered_versions.level == "full":
            assert changed.version > made.version
        assert changed.position > made.position
        assert await docs.get("g", "x") == {"n": 2}

    async def test_A2_an_equal_value_is_a_change_too(self, world: World) -> None:
        docs = await world.stream()
        head = await _head(world, docs)
        first = await docs.set("g", "x", {"n": 1})
        second = await docs.set("g", "x", {"n": 1})
        assert (second.type, second.old_value, second.new_value) == ("update", {"n": 1}, {"n": 1})
        log = await read_log(docs.hub.adapter, SPEC, head)
        if docs.capabilities.equal_writes:
            assert second.version != first.version
            assert second.position > first.position
            expected = [Told("create", "g", "x", {"n": 1}), Told("update", "g", "x", {"n": 1})]
            assert story(docs.capabilities, told(log)) == story(docs.capabilities, expected)
        elif len(log) == 1:
            # What nobody was told of must not make anybody's condition fail.
            assert second.version == first.version
            await docs.set("g", "x", {"n": 2}, expect=first.version)

    async def test_A2_delete_gives_the_old_value_and_its_change_carries_it(self, world: World) -> None:
        docs = await world.stream()
        await docs.set("g", "x", {"n": 1})
        head = await _head(world, docs)
        gone = await docs.delete("g", "x")
        assert gone is not None
        assert (gone.type, gone.old_value, gone.new_value) == ("delete", {"n": 1}, None)
        assert await docs.get("g", "x") is None
        (change,) = await read_log(docs.hub.adapter, SPEC, head)
        assert (change.type, change.group_id, change.id, change.data) == ("delete", "g", "x", {"n": 1})

    async def test_A2_deleting_nothing_changes_nothing_and_tells_nobody(self, world: World) -> None:
        docs = await world.stream()
        await docs.set("g", "y", {})
        head = await _head(world, docs)
        assert await docs.delete("g", "x") is None
        assert await docs.delete("other", "y") is None
        assert await read_log(docs.hub.adapter, SPEC, head) == []
        assert await docs.get("g", "x") is None

    async def test_A2_versions_grow_across_delete_and_re_creation(self, world: World) -> None:
        docs = await world.stream()
        versions = []
        for number in range(3):
            versions.append((await docs.set("g", "x", {"n": number})).version)
            deleted = await docs.delete("g", "x")
            assert deleted is not None
            versions.append(deleted.version)
        assert len(set(versions[::2])) == 3
        if docs.capabilities.ordered_versions.level == "full":
            assert len(set(versions)) == len(versions)
        if docs.capabilities.ordered_versions.level == "full":
            assert versions == sorted(versions)

    async def test_A3_operations_apply_in_order(self, world: World) -> None:
        docs = await world.stream()
        await docs.set("g", "x", {"title": "a", "views": 1, "tags": ["x"], "meta": {"a": 1}})
        result = await docs.update(
            "g",
            "x",
            [
                {"type": "set", "path": "title", "value": "b"},
                {"type": "increment", "path": "views", "by": 2},
                {"type": "decrement", "path": "views", "by": 0.5},
                {"type": "append", "path": "tags", "value": "y"},
                {"type": "append", "path": "title", "value": "c"},
                {"type": "merge", "path": "meta", "value": {"b": 2}},
                {"type": "set", "path": ["deep", "er"], "value": [1]},
                {"type": "set", "path": "dots.stay", "value": None},
                {"type": "remove", "path": ["meta", "a"]},
                {"type": "remove", "path": ["no", "where"]},
            ],
        )
        expected = {
            "title": "bc",
            "views": 2.5,
            "tags": ["x", "y"],
            "meta": {"b": 2},
            "deep": {"er": [1]},
            "dots.stay": None,
        }
        assert result.type == "update"
        assert result.new_value == expected
        assert await docs.get("g", "x") == expected

    async def test_A3_a_missing_item_starts_empty(self, world: World) -> None:
        docs = await world.stream()
        result = await docs.update("g", "x", [{"type": "increment", "path": "n", "by": 3}])
        assert (result.type, result.old_value, result.new_value) == ("create", None, {"n": 3})

    async def test_A3_all_or_nothing_with_index_and_code(self, world: World) -> None:
        docs = await world.stream()
        await docs.set("g", "x", {"s": "text", "n": 2**63 - 1})
        head = await _head(world, docs)
        failing: list[tuple[dict[str, Any], str]] = [
            ({"type": "increment", "path": "s", "by": 1}, "NOT_A_NUMBER"),
            ({"type": "increment", "path": "n", "by": 1}, "OUT_OF_RANGE"),
            ({"type": "set", "path": ["s", "a"], "value": 1}, "NOT_AN_OBJECT"),
            ({"type": "merge", "path": "s", "value": {}}, "NOT_AN_OBJECT"),
            ({"type": "append", "path": "n", "value": 1}, "NOT_A_LIST"),
            ({"type": "append", "path": "s", "value": 1}, "NOT_TEXT"),
        ]
        for bad, code in failing:
            with pytest.raises(UpdateError) as caught:
                await docs.update("g", "x", [{"type": "set", "path": "a", "value": 1}, bad])
            assert (caught.value.index, caught.value.code) == (1, code)
        with pytest.raises(UpdateError) as caught:
            await docs.update("g", "x", [{"type": "nope"}, {"type": "set", "path": "a", "value": 1}, {"type": "set"}])
        assert [problem.index for problem in caught.value.problems] == [0, 2]
        assert await docs.get("g", "x") == {"s": "text", "n": 2**63 - 1}
        assert await read_log(docs.hub.adapter, SPEC, head) == []

    async def test_A3_values_in_operations_are_never_shared(self, world: World) -> None:
        docs = await world.stream()
        shared: list[Any] = []
        result = await docs.update(
            "g",
            "x",
            [
                {"type": "set", "path": "a", "value": shared},
                {"type": "set", "path": "b", "value": shared},
                {"type": "append", "path": "a", "value": 1},
            ],
        )
        assert shared == []
        assert result.new_value == {"a": [1], "b": []}
        result.new_value["b"].append(2)
        assert await docs.get("g", "x") == {"a": [1], "b": []}

    async def test_A3_the_backend_agrees_with_the_reference(self, world: World) -> None:
        docs = await world.stream()
        loop = asyncio.get_running_loop()
        same = _comparison(docs)
        cases: list[tuple[dict[str, Any], list[Any]]] = []

        @EXAMPLES
        @given(objects, operations)
        def collect(value: dict[str, Any], ops: list[Any]) -> None:
            cases.append((value, ops))

        await loop.run_in_executor(None, collect)
        for number, (value, ops) in enumerate(cases):
            id = str(number)
            if not await _holds(docs, id, value):
                continue
            try:
                expected: Any = parse(ops).apply(value)
            except UpdateError as error:
                with pytest.raises(UpdateError) as caught:
                    await docs.update("g", id, ops)
                assert (caught.value.index, caught.value.code) == (error.index, error.code)
                expected = value
            else:
                try:
                    await docs.update("g", id, ops)
                except InvalidValue:
                    assert docs.capabilities.exact_values.level == "limited"
                    expected = value
            assert same(await docs.get("g", id)) == same(expected)

    async def test_A4_concurrent_updaters_lose_nothing(self, world: World) -> None:
        writers = [await world.stream() for _ in range(_processes(world, await world.adapter()))]
        if len(writers) == 1:
            writers *= 2

        async def work(docs: Any) -> None:
            for _ in range(10):
                await docs.update("g", "x", [{"type": "increment", "path": "n", "by": 1}])

        async with asyncio.timeout(DEADLINE * 2):
            await asyncio.gather(*(work(docs) for docs in writers for _ in range(4)))
        assert await writers[0].get("g", "x") == {"n": 10 * 4 * len(writers)}

    async def test_A4_of_racing_creates_one_is_the_create(self, world: World) -> None:
        writers = [await world.stream() for _ in range(_processes(world, await world.adapter()))]
        for key in range(20):
            results = await asyncio.gather(
                *(docs.set("g", str(key), {"by": n, "k": k}) for n, docs in enumerate(writers) for k in range(4))
            )
            assert sorted(result.type for result in results) == ["create"] + ["update"] * (len(results) - 1)

    async def test_A5_expect_guards_every_write(self, world: World) -> None:
        docs = await world.stream()
        if not docs.capabilities.conditional_writes:
            with pytest.raises(UnsupportedCapability):
                await docs.set("g", "x", {}, expect=ABSENT)
            return
        first = await docs.set("g", "x", {"n": 1}, expect=ABSENT)
        assert await docs.version("g", "x") == first.version
        head = await _head(world, docs)
        op = [{"type": "set", "path": "n", "value": 9}]
        with pytest.raises(Conflict) as caught:
            await docs.set("g", "x", {"n": 2}, expect=ABSENT)
        assert caught.value.actual in (first.version, None)
        attempts: list[Any] = [
            lambda: docs.set("g", "x", {"n": 2}, expect="no-such-version"),
            lambda: docs.update("g", "x", op, expect="no-such-version"),
            lambda: docs.delete("g", "x", expect="no-such-version"),
            lambda: docs.update("g", "new", op, expect=first.version),
            lambda: docs.delete("g", "new", expect=first.version),
            lambda: docs.update("g", "x", op, expect=ABSENT),
        ]
        for attempt in attempts:
            with pytest.raises(Conflict):
                await attempt()
        assert await docs.get("g", "x") == {"n": 1}
        assert await docs.get("g", "new") is None
        assert await read_log(docs.hub.adapter, SPEC, head) == []
        second = await docs.update("g", "x", op, expect=first.version)
        with pytest.raises(Conflict):
            await docs.set("g", "x", {"n": 3}, expect=first.version)
        assert (await docs.delete("g", "x", expect=second.version)) is not None
        await docs.set("g", "x", {"n": 4}, expect=ABSENT)

    async def test_A5_of_racing_conditional_writes_one_wins(self, world: World) -> None:
        docs = await world.stream()
        if not docs.capabilities.conditional_writes:
            pytest.skip("conditional writes are declared unsupported")
        version = (await docs.set("g", "x", {"n": 0})).version
        results = await asyncio.gather(
            *(docs.set("g", "x", {"n": n}, expect=version) for n in range(1, 11)), return_exceptions=True
        )
        assert sum(isinstance(result, Conflict) for result in results) == 9

    async def test_A6_pages_by_the_bytes_of_ids(self, world: World) -> None:
        docs = await world.stream()
        names = ["a", "B", "ab", "a-", "é", "z", "\U0001f600", "\uffee", "10", "9", "~", " "]
        for name in names:
            await docs.set("g", name, {"id": name})
        ordered = sorted(names, key=str.encode)
        assert [item["id"] for item in await docs.list("g")] == ordered
        pages: list[str] = []
        after = None
        while page := await docs.list("g", limit=5, after=after):
            assert len(page) <= 5
            assert len(pages) < len(names), "a page that was there before came again"
            pages += [item["id"] for item in page]
            after = page[-1]["id"]
        assert pages == ordered
        assert [item["id"] for item in await docs.list("g", after="a")] == ordered[ordered.index("a") + 1 :]
        assert await docs.list("nothing here") == []
        for limit in (0, -1, True, 1.5):
            with pytest.raises(InvalidValue):
                await docs.list("g", limit=limit)  # type: ignore[arg-type]

    async def test_A6_groups_are_those_with_items(self, world: World) -> None:
        docs = await world.stream()
        assert await docs.list_groups() == []
        names = ["b", "a", "é", "\U0001f600", "B"]
        for name in names:
            for item in ("1", "2"):
                await docs.set(name, item, {})
        ordered = sorted(names, key=str.encode)
        assert list(await docs.list_groups()) == ordered
        assert list(await docs.list_groups(limit=2)) == ordered[:2]
        assert list(await docs.list_groups(limit=2, after=ordered[1])) == ordered[2:4]
        await docs.delete("a", "1")
        assert "a" in await docs.list_groups()
        await docs.delete("a", "2")
        assert "a" not in await docs.list_groups()

    async def test_A7_a_batch_is_one_step(self, world: World) -> None:
        docs = await world.stream()
        if not docs.capabilities.batch:
            with pytest.raises(UnsupportedCapability):
                docs.batch()
            return
        await docs.set("g", "x", {"n": 1})
        await docs.set("g", "y", {"n": 1})
        head = await _head(world, docs)
        async with docs.batch() as batch:
            made = batch.set("g", "new", {"n": 5})
            batch.update("g", "x", [{"type": "increment", "path": "n", "by": 1}])
            gone = batch.delete("h", "y")
            await batch.delete("g", "y")
            batch.send({"groupId": "g"}, {"type": "hello", "data": 1})
        assert made.result is not None
        assert made.result.type == "create"
        assert gone.result is None
        log = await read_log(docs.hub.adapter, SPEC, head)
        assert [(change.type, change.id) for change in log] == [
            ("create", "new"),
            ("update", "x"),
            ("delete", "y"),
            ("event", None),
        ]

    async def test_A7_a_batch_that_fails_anywhere_writes_nothing(self, world: World) -> None:
        docs = await world.stream()
        if not docs.capabilities.batch:
            pytest.skip("batches are declared unsupported")
        await docs.set("g", "x", {"n": "text"})
        head = await _head(world, docs)
        with pytest.raises(UpdateError):
            async with docs.batch() as batch:
                batch.set("g", "a", {})
                batch.update("g", "x", [{"type": "increment", "path": "n", "by": 1}])
        with pytest.raises(Conflict):
            async with docs.batch() as batch:
                batch.set("g", "a", {})
                batch.delete("g", "x")
                batch.set("g", "b", {}, expect="no-such-version")
        with pytest.raises(RuntimeError, match="changed my mind"):
            async with docs.batch() as batch:
                batch.set("g", "a", {})
                raise RuntimeError("changed my mind")
        assert await docs.list("g") == [{"n": "text"}]
        assert await read_log(docs.hub.adapter, SPEC, head) == []

    async def test_A7_changes_of_a_batch_are_adjacent(self, world: World) -> None:
        docs = await world.stream()
        if not docs.capabilities.batch:
            pytest.skip("batches are declared unsupported")
        head = await _head(world, docs)

        async def write(writer: int) -> None:
            for turn in range(5):
                async with docs.batch() as batch:
                    for part in range(5):
                        batch.set(f"w{writer}", f"{turn}-{part}", {"batch": f"{writer}.{turn}"})

        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(*(write(writer) for writer in range(4)))
        log = await read_log(docs.hub.adapter, SPEC, head)
        batches = [change.data["batch"] for change in log]
        assert len(batches) == 100
        for start in range(0, 100, 5):
            assert len(set(batches[start : start + 5])) == 1

    async def test_A7_limits_are_refused_before_io(self, world: World) -> None:
        docs = await world.stream(max_value_bytes=100_000_000)
        if not docs.capabilities.batch:
            pytest.skip("batches are declared unsupported")
        head = await _head(world, docs)
        with pytest.raises(InvalidValue, match="named twice"):
            async with docs.batch() as batch:
                batch.set("g", "x", {})
                batch.delete("g", "x")
        with pytest.raises(InvalidValue, match="writes"):
            async with docs.batch() as batch:
                for number in range(docs.capabilities.max_batch_writes + 1):
                    batch.set("g", str(number), {})
        big = {"x": "y" * (docs.capabilities.max_batch_bytes // 2)}
        with pytest.raises(InvalidValue, match="bytes"):
            async with docs.batch() as batch:
                batch.set("g", "1", big)
                batch.set("g", "2", big)
        with pytest.raises(InvalidValue, match="bytes"):
            async with docs.batch() as batch:
                batch.update("g", "1", [{"type": "merge", "value": big}])
                batch.update("g", "2", [{"type": "merge", "value": big}])
        assert await read_log(docs.hub.adapter, SPEC, head) == []

    async def test_A8_a_json_schema_guards_every_write(self, world: World) -> None:
        schema = {
            "type": "object",
            "properties": {"n": {"type": "integer"}, "tags": {"type": "array", "items": {"type": "string"}}},
            "required": ["n"],
        }
        docs = await world.stream(schema=schema)
        await docs.set("g", "x", {"n": 1})
        head = await _head(world, docs)
        bad: list[tuple[dict[str, Any], str]] = [
            ({"n": "1"}, "$.n"),
            ({}, "$"),
            ({"n": 1, "tags": ["a", 2]}, "$.tags[1]"),
        ]
        for value, path in bad:
            with pytest.raises(SchemaError) as caught:
                await docs.set("g", "x", value)
            assert caught.value.path == path
        with pytest.raises(SchemaError):
            await docs.update("g", "x", [{"type": "remove", "path": "n"}])
        assert await docs.get("g", "x") == {"n": 1}
        assert await read_log(docs.hub.adapter, SPEC, head) == []

    async def test_A8_a_model_guards_and_gives_models_back(self, world: World) -> None:
        class Document(BaseModel):
            title: str
            views: int = 0

        docs = await world.stream(schema=Document)
        await docs.set("g", "x", Document(title="a"))
        await docs.set("g", "y", {"title": "b", "views": 2})
        bad: list[dict[str, Any]] = [{"title": 1}, {"views": 1}, {"title": "a", "views": "3"}]
        for value in bad:
            with pytest.raises(SchemaError):
                await docs.set("g", "z", value)
        assert await docs.get("g", "x") == {"title": "a", "views": 0}
        assert await docs.typed(Document).get("g", "y") == Document(title="b", views=2)

    async def test_A8_an_item_that_no_longer_fits_can_still_be_read(self, world: World) -> None:
        adapter = await world.adapter()
        await (await world.stream(adapter=adapter)).set("g", "x", {"old": True})
        docs = await world.stream(adapter=adapter, schema={"type": "object", "required": ["new"]})
        assert await docs.get("g", "x") == {"old": True}
        assert await docs.list("g") == [{"old": True}]
        await docs.delete("g", "x")

    async def test_A9_any_text_is_an_id_and_none_collide(self, world: World) -> None:
        docs = await world.stream()
        groups = [n for n, name in enumerate(ODD_IDS) if await _takes(docs, name, "item", {"n": n})]
        items = [n for n, name in enumerate(ODD_IDS) if await _takes(docs, "group", name, {"n": n})]
        for number in groups:
            assert await docs.get(ODD_IDS[number], "item") == {"n": number}
            assert await docs.list(ODD_IDS[number]) == [{"n": number}]
        for number in items:
            assert await docs.get("group", ODD_IDS[number]) == {"n": number}
        assert len(await docs.list("group")) == len(items)
        assert set(await docs.list_groups()) == {*(ODD_IDS[number] for number in groups), "group"}

    async def test_A9_ids_that_are_more_than_text_become_plain_text(self, world: World) -> None:
        docs = await world.stream()
        result = await docs.set(Room.KITCHEN, Room.KITCHEN, {"n": 1})
        assert await docs.get("kitchen", "kitchen") == {"n": 1}
        (group,) = await docs.list_groups()
        assert [type(found) for found in (result.group, result.id, group)] == [str, str, str]

    async def test_A9_no_two_pairs_of_ids_share_an_item(self, world: World) -> None:
        docs = await world.stream()
        cases: set[tuple[str, str]] = set()

        @EXAMPLES
        @given(ids, ids)
        def collect(group: str, id: str) -> None:
            cases.add((group, id))

        await asyncio.get_running_loop().run_in_executor(None, collect)
        cases = {(group, id) for group, id in cases if await _takes(docs, group, id, {"pair": [group, id]})}
        for group, id in cases:
            assert await docs.get(group, id) == {"pair": [group, id]}
        for group in {group for group, _ in cases}:
            assert len(await docs.list(group)) == sum(other == group for other, _ in cases)

    @pytest.mark.parametrize("bad", ["", "a\x00b", "\n", "\x7f", "\x85", "\ud800", "x" * 513, "é" * 257, None, 1, b"x"])
    async def test_A9_bad_ids_are_refused(self, world: World, bad: Any) -> None:
        docs = await world.stream()
        for attempt in (
            lambda: docs.get(bad, "x"),
            lambda: docs.set("g", bad, {}),
            lambda: docs.set(bad, "x", {}),
            lambda: docs.update(bad, "x", []),
            lambda: docs.delete("g", bad),
            lambda: docs.list(bad),
        ):
            with pytest.raises(InvalidName):
                await attempt()
        with pytest.raises(InvalidName):
            docs.watch(bad)
        assert await docs.list_groups() == []

    async def test_A9_values_have_a_limit_to_the_byte(self, world: World) -> None:
        docs = await world.stream()
        overhead = len(encode({"x": ""}))
        fits, over = {"x": "é" * ((1_000_000 - overhead) // 2)}, {"x": "y" * (1_000_000 - overhead + 1)}
        await docs.set("g", "x", fits)
        assert await docs.get("g", "x") == fits
        with pytest.raises(InvalidValue, match="1000001 bytes as compact JSON, 1000000 at most"):
            await docs.set("g", "y", over)
        with pytest.raises(InvalidValue, match="1000000 at most"):
            await docs.update("g", "x", [{"type": "append", "path": "x", "value": "zz"}])
        if docs.capabilities.custom_events:
            with pytest.raises(InvalidValue, match="1000000 at most"):
                await docs.send({"groupId": "g"}, {"type": "t", "data": over})
        assert await docs.get("g", "x") == fits
        assert await docs.get("g", "y") is None

    async def test_A9_namespaces_keep_applications_apart(self, world: World) -> None:
        mine = await world.stream()
        if mine.capabilities.isolation.level != "full":
            pytest.skip(f"isolation is declared limited: {mine.capabilities.isolation.note}")
        theirs = await world.stream(adapter=await world.adapter(namespace=world.namespace + "x"))
        await mine.set("g", "x", {"mine": True})
        assert await theirs.get("g", "x") is None
        assert await theirs.list_groups() == []
        await theirs.set("g", "x", {"mine": False})
        assert await mine.get("g", "x") == {"mine": True}

    async def test_A9_streams_are_apart(self, world: World) -> None:
        adapter = await world.adapter()
        one = await world.stream("one", adapter=adapter)
        if one.capabilities.isolation.level != "full":
            with pytest.raises(UnsupportedCapability):
                await adapter.prepare(StreamSpec("two"))
            return
        two = await world.stream("two", adapter=adapter)
        head = await adapter.head(StreamSpec("two"))
        await one.set("g", "x", {"n": 1})
        assert await two.get("g", "x") is None
        assert await two.list_groups() == []
        await two.set("g", "y", {"n": 2})
        (change,) = await read_log(adapter, StreamSpec("two"), head)
        assert (change.stream, change.id) == ("two", "y")

    async def test_A10_an_expired_item_is_gone_at_once_and_its_delete_follows(self, world: World) -> None:
        docs = await world.stream()
        if not docs.capabilities.ttl:
            with pytest.raises(UnsupportedCapability):
                await docs.set("g", "x", {}, ttl=1)
            return
        head = await _head(world, docs)
        await docs.set("g", "x", {"n": 1}, ttl=0.3)
        await docs.set("g", "stays", {"n": 2}, ttl=3600)
        assert await docs.get("g", "x") == {"n": 1}
        await eventually(lambda: _is_none(docs.get("g", "x")), "the item to expire")
        assert await docs.list("g") == [{"n": 2}]
        for turn in range(10):  # whenever a sweeper may come by
            await docs.set("at once", f"{turn}", {}, ttl=0.05)
            await asyncio.sleep(0.06)
            assert await docs.get("at once", f"{turn}") is None
            assert await docs.list("at once") == []
            assert "at once" not in await docs.list_groups()
        async with asyncio.timeout(DEADLINE):
            log = await read_log(docs.hub.adapter, SPEC, head)
            while sum(change.type == "delete" for change in log) < 11:
                await asyncio.sleep(0.05)
                log = await read_log(docs.hub.adapter, SPEC, head)
        log = [change for change in log if change.group_id == "g"]
        assert [(change.type, change.id, change.data) for change in log] == [
            ("create", "x", {"n": 1}),
            ("create", "stays", {"n": 2}),
            ("delete", "x", {"n": 1}),
        ]

    async def test_A10_writing_over_an_expired_item_logs_its_delete_first(self, world: World) -> None:
        docs = await world.stream()
        if not docs.capabilities.ttl:
            pytest.skip("ttl is declared unsupported")
        head = await _head(world, docs)
        await docs.set("g", "x", {"n": 1}, ttl=0.05)
        await eventually(lambda: _is_none(docs.get("g", "x")), "the item to expire")
        again = await docs.update("g", "x", [{"type": "increment", "path": "n", "by": 5}])
        assert (again.type, again.old_value, again.new_value) == ("create", None, {"n": 5})
        log = await read_log(docs.hub.adapter, SPEC, head)
        assert [(change.type, change.data) for change in log] == [
            ("create", {"n": 1}),
            ("delete", {"n": 1}),
            ("create", {"n": 5}),
        ]

    async def test_A10_update_keeps_a_deadline_and_set_ends_it(self, world: World) -> None:
        docs = await world.stream()
        if not docs.capabilities.ttl:
            pytest.skip("ttl is declared unsupported")
        for id in ("updated", "replaced"):
            await docs.set("g", id, {"n": 1}, ttl=0.5)
        await docs.update("g", "updated", [{"type": "increment", "path": "n", "by": 1}])
        await docs.set("g", "replaced", {"n": 9})
        await eventually(lambda: _is_none(docs.get("g", "updated")), "the updated item to expire")
        assert await docs.get("g", "replaced") == {"n": 9}

    @pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), True, "5"])
    async def test_A10_bad_ttls_are_refused(self, world: World, ttl: Any) -> None:
        docs = await world.stream()
        if not docs.capabilities.ttl:
            pytest.skip("ttl is declared unsupported")
        with pytest.raises(InvalidValue, match="ttl"):
            await docs.set("g", "x", {}, ttl=ttl)
        assert await docs.get("g", "x") is None


def _exact(value: Any) -> str:
    """Equal only if equal to the last bit, whatever the order of keys."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key!r}:{_exact(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_exact, value)) + "]"
    return f"{type(value).__name__}:{value!r}"


def _comparison(docs: Any) -> Callable[[Any], Any]:
    """How to compare values of this stream: to the last bit, or as its mapping lets them be equal."""
    return _exact if docs.capabilities.exact_values.level == "full" else lambda value: value


async def _holds(docs: Any, id: str, value: dict[str, Any]) -> bool:
    """Store a value in group "g"; whether the backend took it. Only a mapping may refuse."""
    try:
        await docs.set("g", id, value)
    except InvalidValue:
        assert docs.capabilities.exact_values.level == "limited"
        assert await docs.get("g", id) is None
        return False
    return True


async def _takes(docs: Any, group: str, id: str, value: dict[str, Any]) -> bool:
    """Store a value; whether the backend took the ids. Only a mapping may refuse."""
    try:
        await docs.set(group, id, value)
    except InvalidName:
        assert docs.capabilities.any_ids.level == "limited"
        return False
    return True


async def _head(world: World, docs: Any) -> str:
    return str(await docs.hub.adapter.head(SPEC))


async def _is_none(value: Any) -> bool:
    return await value is None


def _processes(world: World, adapter: Any) -> int:
    return 2 if adapter.capabilities(SPEC).multi_process else 1
