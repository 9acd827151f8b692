"""What the adapter asks of a mapped table. Each function runs in the reader thread, inside one read transaction."""

from __future__ import annotations

from motia_adapters.sqlite.mapped.reads import Rows
from motia_adapters.sqlite.queries import LIST_PAGE, View
from motia_core.model import Item, Snapshot


def get(view: View, group: str, id: str) -> Item | None:
    """One item."""
    rows = _rows(view)
    found = rows.get(view.connection, group, id)
    if found is None:
        return None
    seq, cells = found
    return Item(group, id, rows.table.json(group, id, cells), view.history.position(seq))


def list_items(view: View, group: str, after: bytes, limit: int) -> tuple[list[Item], bytes | None]:
    """Items of a group by their ids, and where to go on if there may be more."""
    return _rows(view).items(view.connection, group, after, limit, view.history.position)


def list_groups(view: View, after: bytes, limit: int) -> tuple[list[str], bytes | None]:
    """Groups that have items, and where to go on if there may be more."""
    return _rows(view).groups(view.connection, after, limit)


def snapshot(view: View, group: str, id: str | None, limit: int | None) -> Snapshot:
    """Items and the position up to which they are true."""
    items: list[Item] = []
    if id is not None:
        item = get(view, group, id)
        items = [] if item is None or limit == 0 else [item]
    else:
        cursor: bytes | None = b""
        while cursor is not None and (limit is None or len(items) < limit):
            size = LIST_PAGE if limit is None else min(LIST_PAGE, limit - len(items))
            page, cursor = list_items(view, group, cursor, size)
            items += page
    return Snapshot(tuple(items), view.history.head, view.history.ts)


def _rows(view: View) -> Rows:
    assert view.rows is not None
    return view.rows
