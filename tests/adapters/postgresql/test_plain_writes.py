"""A plain write goes to a function of its own, `motia.write_one`: it does what `motia.write` does."""

from __future__ import annotations

import random
from typing import Any

import pytest

from motia_core.errors import Conflict
from motia_core.model import StreamSpec, Write
from motia_core.operations import parse
from motia_core.values import encode
from tests.adapters.postgresql.conftest import Database

SPEC = StreamSpec("documents")


def some_write(dice: random.Random, number: int, versions: dict[str, list[str]]) -> Write:
    """A write of an item or two, with a condition or a deadline at times; values are told apart by ``number``."""
    id = dice.choice("ab")
    expect = dice.choice([None, None, "absent", *versions.get(id, [])[-2:]])
    ttl = dice.choice([None, None, 60.0])
    value = f'{{"n":{number}}}'.encode()
    kind = dice.choice(["set", "set", "update", "delete"])
    if kind == "delete":
        return Write("delete", "g", id, expect=None if expect == "absent" else expect)
    if kind == "update":
        operations = parse([{"type": "increment", "path": "sum", "by": number}])
        return Write("update", "g", id, operations=operations, finish=encode, expect=expect)
    return Write("set", "g", id, value, expect=expect, ttl=ttl)


async def story(database: Database, seed: int, plain: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], int]:
    """What a random story of writes answers and tells, without what differs from run to run; and the plain calls."""
    dice = random.Random(seed)
    told: list[Any] = []
    calls = 0
    async with database.opened() as adapter:
        await adapter.prepare(SPEC)
        await adapter.write(SPEC, [Write("delete", "g", id) for id in "ab"])
        start = await adapter.head(SPEC)
        writer = adapter.opened(SPEC).writer
        if not plain:
            monkeypatch.setattr(writer, "one_function", None)
        rpc = adapter.database.rpc

        async def counting(function: str, **arguments: Any) -> Any:
            nonlocal calls
            calls += function == "write_one"
            return await rpc(function, **arguments)

        monkeypatch.setattr(adapter.database, "rpc", counting)
        versions: dict[str, list[str]] = {}
        for number in range(120):
            write = some_write(dice, number, versions)
            try:
                (result,) = await adapter.write(SPEC, [write])
            except Conflict:
                told.append("conflict")
                continue
            told.append(result if result is None else (result.type, result.id, result.old_json, result.new_json))
            if result is not None and write.id is not None:
                assert result.position == result.version == await adapter.head(SPEC)
                versions.setdefault(write.id, []).append(result.version)
        changes, more = await adapter.opened(SPEC).reads.changes(start)
        assert not more
        told += [(change.type, change.id, change.json) for change in changes.changes]
        stamps = [change.timestamp for change in changes.changes]
        assert stamps == sorted(set(stamps))
    return told, calls


@pytest.mark.parametrize("seed", range(5))
async def test_plain_writes_do_what_others_do(database: Database, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    one, calls = await story(database, seed, True, monkeypatch)
    other, none = await story(database, seed, False, monkeypatch)
    assert calls > 20
    assert none == 0
    assert one == other
    assert "conflict" in one
