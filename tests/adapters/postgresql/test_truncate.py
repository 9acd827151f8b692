"""TRUNCATE where its transaction cannot see all that it takes (B8), and columns whose names our SQL uses itself."""

from __future__ import annotations

from typing import Any

import pytest
from motia_adapters.postgresql.options import MappedOptions

from motia_core.errors import Conflict, PositionExpired
from motia_core.model import StreamSpec, Write
from motia_core.testing.harness import read_log
from tests.adapters.postgresql.conftest import ORDERS, Database, told

SPEC = StreamSpec("orders")


async def rows(adapter: Any) -> list[tuple[str, str]]:
    return [
        (group, item.id)
        for group in await adapter.list_groups(SPEC, after=None, limit=None)
        for item in await adapter.list(SPEC, group, after=None, limit=None)
    ]


@pytest.mark.parametrize("isolation", ["repeatable_read", "serializable"])
async def test_truncate_takes_rows_that_its_transaction_cannot_see(orders: Database, isolation: Any) -> None:
    """They cannot be told as deletes: history begins anew, and what came after the TRUNCATE is told."""
    async with orders.opened(mapped=ORDERS) as adapter, orders.psql.connection() as other:
        await adapter.write(SPEC, [Write("set", "a", "old", b'{"n":1}')])
        transaction = other.transaction(isolation=isolation)
        await transaction.start()
        await other.fetchval("SELECT 1")  # it sees nothing later than this
        await orders.psql.run("INSERT INTO orders (customer, code, n) VALUES ('b', 'unseen', 2)")
        (unseen,) = await adapter.list(SPEC, "b", after=None, limit=None)
        before = await adapter.head(SPEC)
        await other.execute("TRUNCATE orders; INSERT INTO orders (customer, code, n) VALUES ('c', 'new', 3)")
        await transaction.commit()
        await orders.psql.run("UPDATE orders SET n = 4")
        with pytest.raises(PositionExpired):
            await read_log(adapter, SPEC, before)
        floor = await adapter.floor(SPEC)
        assert floor > before
        assert told(await read_log(adapter, SPEC, floor)) == [("create", "c", "new", 3), ("update", "c", "new", 4)]
        assert await rows(adapter) == [("c", "new")]
        snapshot = await adapter.snapshot(SPEC, "c", None, limit=None)
        assert snapshot.position == await adapter.head(SPEC) == snapshot.items[0].version
        with pytest.raises(Conflict):
            await adapter.write(SPEC, [Write("delete", "b", "unseen", expect=unseen.version)])


async def test_our_own_write_right_after_such_a_truncate_comes_after_it(orders: Database) -> None:
    async with orders.opened(mapped=ORDERS) as adapter, orders.psql.connection() as other:
        await adapter.write(SPEC, [Write("set", "a", f"{number}", b"{}") for number in range(5)])
        before = await adapter.head(SPEC)
        async with other.transaction(isolation="repeatable_read"):
            await other.execute("TRUNCATE orders")
        (result,) = await adapter.write(SPEC, [Write("set", "a", "3", b'{"n":1}')])
        assert result is not None
        assert (result.type, result.old_json) == ("create", None)
        assert told(await read_log(adapter, SPEC, await adapter.floor(SPEC))) == [("create", "a", "3", 1)]
        assert result.position == await adapter.head(SPEC)
        with pytest.raises(PositionExpired):
            await read_log(adapter, SPEC, before)
        await adapter.write(SPEC, [Write("set", "a", "3", b'{"n":2}', expect=result.version)])


async def test_a_truncate_that_is_rolled_back_leaves_everything(orders: Database) -> None:
    async with orders.opened(mapped=ORDERS) as adapter, orders.psql.connection() as other:
        await adapter.write(SPEC, [Write("set", "a", "x", b'{"n":1}')])
        head = await adapter.head(SPEC)
        transaction = other.transaction(isolation="repeatable_read")
        await transaction.start()
        await other.execute("TRUNCATE orders")
        await transaction.rollback()
        assert await adapter.head(SPEC) == head
        assert await rows(adapter) == [("a", "x")]


NAMES = ["t", "r", "v", "k", "m", "s", "p", "n", "x", "value", "page", "id", "key", "type", "old", "tx"]


async def test_columns_may_have_any_name(database: Database) -> None:
    """Also those that our own SQL gives to rows and values."""
    columns = ", ".join(f'"{name}" text' for name in NAMES)
    await database.psql.run(f"CREATE TABLE odd (grp text, code text, {columns}, PRIMARY KEY (grp, code))")
    mapped = MappedOptions(table="odd", group_field="grp", id_field="code")
    await database.migrate(mapped)
    value = "{" + ",".join(f'"{name}":"{name} of it"' for name in NAMES) + "}"
    expected = {name: f"{name} of it" for name in NAMES} | {"grp": "g", "code": "1"}
    async with database.opened(mapped=mapped) as adapter:
        start = await adapter.head(SPEC)
        (made,) = await adapter.write(SPEC, [Write("set", "g", "1", value.encode())])
        assert made is not None
        assert made.new_value == expected
        item = await adapter.get(SPEC, "g", "1")
        assert item is not None
        assert item.value == expected
        await adapter.write(SPEC, [Write("set", "g", "1", value.replace("t of it", "changed").encode())])
        await database.psql.run("INSERT INTO odd (grp, code, t) VALUES ('g', '2', 'theirs'); TRUNCATE odd")
        log = await read_log(adapter, SPEC, start)
    assert [(change.type, change.id) for change in log[:3]] == [("create", "1"), ("update", "1"), ("create", "2")]
    assert [change.data["t"] for change in log[:3]] == ["t of it", "changed", "theirs"]
    assert sorted((change.type, change.id) for change in log[3:]) == [("delete", "1"), ("delete", "2")]
