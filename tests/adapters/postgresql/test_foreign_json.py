"""Columns of json may hold what no value of ours can be: others' statements go on, and their rows stay readable."""

from __future__ import annotations

import json
from typing import Any

import pytest
from motia_adapters.postgresql.options import MappedOptions

from motia_core.model import StreamSpec, Write
from motia_core.operations import parse
from motia_core.testing.harness import read_log
from motia_core.values import encode
from tests.adapters.postgresql.conftest import Database

SPEC = StreamSpec("notes")
MAPPED = MappedOptions(table="notes", group_field="owner", id_field="id")
FOREIGN: list[tuple[str, Any]] = [
    (r'{"a":"\ud800"}', r'{"a": "\ud800"}'),
    (r'["\udc00\ud800"]', r'["\udc00\ud800"]'),
    (r'{"a":"\ud83d\ude00"}', {"a": "\U0001f600"}),
    (r'{"a":"\u0000"}', r'{"a": "\u0000"}'),
    (r'["\\ud800"]', [r"\ud800"]),
    ("[1e999]", "[Infinity]"),
    ("[123456789012345678901234567890]", "[123456789012345678901234567890]"),
    ("[" * 150 + "]" * 150, "[" * 150 + "]" * 150),
    ("[" * 3_000 + "]" * 3_000, "[" * 3_000 + "]" * 3_000),
    ('{"b" : [1, "x\\"}{"] }', {"b": [1, 'x"}{']}),
]


@pytest.mark.parametrize("number", ["", ", number numeric"])
@pytest.mark.parametrize("case", range(len(FOREIGN)))
async def test_any_json_of_others_can_be_read(database: Database, case: int, number: str) -> None:
    text, shown = FOREIGN[case]
    await database.psql.run(
        f"CREATE TABLE notes (owner text, id text, doc json, note text{number}, PRIMARY KEY (owner, id))"
    )
    await database.migrate(MAPPED)
    async with database.opened(mapped=MAPPED) as adapter:
        start = await adapter.head(SPEC)
        await database.psql.run("INSERT INTO notes VALUES ('ann', '1', $1::json, 'hm')", text)
        await database.psql.run("UPDATE notes SET note = 'mine'")
        item = await adapter.get(SPEC, "ann", "1")
        assert item is not None
        assert item.value["doc"] == shown
        update = Write(
            "update", "ann", "1", operations=parse([{"type": "set", "path": "note", "value": "ours"}]), finish=encode
        )
        (result,) = await adapter.write(SPEC, [update])
        assert result is not None
        assert result.new_value == {"owner": "ann", "id": "1", "doc": shown, "note": "ours"}
        assert await database.psql.value("SELECT doc::text FROM notes") == text
        await database.psql.run("UPDATE notes SET owner = 'bob'")
        (snapshot,) = (await adapter.snapshot(SPEC, "bob", None, limit=None)).items
        assert json.loads(snapshot.json)["doc"] == shown
        await database.psql.run("TRUNCATE notes")
        log = await read_log(adapter, SPEC, start)
    assert [change.type for change in log] == ["create", "update", "update", "delete", "create", "delete"]
    assert all(change.data["doc"] == shown for change in log)


async def test_rows_of_a_table_that_inherits_later_are_no_items(database: Database) -> None:
    """Nothing captures their changes."""
    await database.psql.run("CREATE TABLE notes (owner text, id text, note text, PRIMARY KEY (owner, id))")
    await database.migrate(MAPPED)
    await database.psql.run("CREATE TABLE more () INHERITS (notes); INSERT INTO more VALUES ('ann', 'theirs', 'x')")
    async with database.opened(mapped=MAPPED) as adapter:
        start = await adapter.head(SPEC)
        await adapter.write(SPEC, [Write("set", "ann", "ours", b'{"note":"y"}')])
        assert [item.id for item in await adapter.list(SPEC, "ann", after=None, limit=None)] == ["ours"]
        await adapter.write(SPEC, [Write("delete", "ann", "theirs")])
        assert await database.psql.value("SELECT count(*) FROM more") == 1
        await database.psql.run("TRUNCATE notes")
        assert [change.type for change in await read_log(adapter, SPEC, start)] == ["create", "delete"]
