"""State: its update operations and errors are about the value, wherever that is kept."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest

from motia_core import Motia
from motia_core.errors import InvalidValue, UpdateError
from motia_core.operations import MAX_PATH
from motia_core.states import State


@pytest.fixture
async def state() -> AsyncGenerator[State, None]:
    async with Motia(storage={"default": "memory://"}) as motia:
        yield motia.state


async def test_values_of_every_type(state: State) -> None:
    for value in ({"a": 1}, [1, 2], "text", 3, 1.5, True, None):
        assert await state.set("g", "k", value) == value
        assert await state.get("g", "k") == value


async def test_operations_on_the_value_itself(state: State) -> None:
    async def update(*operations: dict[str, Any]) -> Any:
        return await state.update("g", "k", operations)

    assert await update({"type": "increment", "by": 2}) == 2
    assert await update({"type": "set", "path": [], "value": ["a"]}) == ["a"]
    assert await update({"type": "append", "path": "", "value": "b"}) == ["a", "b"]
    assert await update({"type": "set", "value": 7}, {"type": "decrement", "path": None, "by": 1}) == 6
    assert await update({"type": "remove"}) is None
    assert await update({"type": "merge", "value": {"a": {"n": 1}}}) == {"a": {"n": 1}}
    assert await update({"type": "increment", "path": ["a", "n"], "by": 1}) == {"a": {"n": 2}}


async def test_a_path_may_have_as_many_keys_as_in_a_stream(state: State) -> None:
    path = [f"k{number}" for number in range(MAX_PATH)]
    value = await state.update("g", "k", [{"type": "set", "path": path, "value": 1}])
    for key in path:
        value = value[key]
    assert value == 1
    with pytest.raises(UpdateError, match=rf"operation 0: path has {MAX_PATH + 1} keys, {MAX_PATH} at most"):
        await state.update("g", "k", [{"type": "set", "path": [*path, "more"], "value": 1}])


@pytest.mark.parametrize(
    ("value", "path"),
    [({"a": [{"b": float("nan")}]}, "$.a[0].b"), (float("inf"), "$"), ([b"x"], "$[0]"), ({"a": {1: 2}}, "$.a")],
)
async def test_errors_say_where_in_the_value(state: State, value: Any, path: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        await state.set("g", "k", value)
    assert caught.value.path == path
    assert str(caught.value).startswith(f"{path}: ")
    assert await state.get("g", "k") is None


async def test_errors_of_operations_say_where_in_the_value(state: State) -> None:
    await state.set("g", "k", {"a": {"b": 1}})
    with pytest.raises(UpdateError, match=r"operation 0: 'a\.b' is a number, not an object"):
        await state.update("g", "k", [{"type": "set", "path": ["a", "b", "c", "d"], "value": 1}])
    await state.set("g", "k", 5)
    with pytest.raises(UpdateError, match="operation 0: it is a number, not an object"):
        await state.update("g", "k", [{"type": "set", "path": ["a", "b"], "value": 1}])
    with pytest.raises(UpdateError, match=r"operation 0: \$\.value\.n: nan is not a JSON number"):  # its own field
        await state.update("g", "k", [{"type": "set", "path": "a", "value": {"n": float("nan")}}])


async def test_a_malformed_operation_is_refused_with_its_index(state: State) -> None:
    with pytest.raises(UpdateError, match=r"operation 1: type 'sett' is not one of"):
        await state.update("g", "k", [{"type": "set", "value": 1}, {"type": "sett"}])
    with pytest.raises(UpdateError, match="operations must be a list of objects"):
        await state.update("g", "k", {"type": "set", "value": 1})  # type: ignore[arg-type]
