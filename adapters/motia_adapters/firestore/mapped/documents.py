"""Reading the user's documents: one, a group's, all, and the groups that there are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from motia_adapters.firestore.connection import Connection
from motia_adapters.firestore.mapped.layout import MappedLayout
from motia_adapters.firestore.mapped.template import Template
from motia_adapters.firestore.wire import GREATER, GREATER_OR_EQUAL, LESS, query_of
from motia_core.model import Item

PAGE = 500
"""Documents that are listed at once, at most."""
PAGE_GROUPS = 300
"""Names that are read at once to find groups, at most."""


def query_below(documents: str, template: Template, cursor: str | None = None, **options: Any) -> Any:
    """What finds the documents of a template in the order of their names, from a name on (``None``: all)."""
    start = f"{documents}/{template.start(None)}" if cursor is None else cursor
    where = [("__name__", GREATER_OR_EQUAL, start), ("__name__", LESS, f"{documents}/{template.end()}")]
    return query_of(template.collection, "__name__", where=where, below=True, **options)


class Documents:
    """The documents of one template. ``showed`` is told of each that callers get to see."""

    def __init__(self, connection: Connection, layout: MappedLayout, showed: Callable[[Iterable[Any]], None]) -> None:
        self._connection = connection
        self._layout = layout
        self._showed = showed

    async def get(self, group: str, id: str, at: Any = None) -> Item | None:
        """The item. One billed read."""
        (document,), _ = await self._connection.get([self._layout.name((group, id))], at)
        if document is None:
            return None
        self._showed([document])
        return self._layout.item(document)

    async def list_items(self, group: str, after: str | None, limit: int | None, at: Any = None) -> list[Item]:
        """A group's items in the order of their ids, all as of one time. A read is billed for each."""
        template, documents = self._layout.template, self._layout.documents
        parent = template.parent(group)
        items: list[Item] = []
        cursor = None if after is None else self._layout.name((group, after))
        while limit is None or len(items) < limit:
            size = PAGE if limit is None else min(PAGE, limit - len(items))
            where = [] if cursor is None else [("__name__", GREATER, cursor)]
            query = query_of(template.collection, "__name__", where=where, limit=size)
            found, read_time = await self._connection.query(f"{documents}/{parent}", query, at)
            at = at or read_time
            self._showed(found)
            items += [item for document in found if (item := self._layout.item(document))]
            if len(found) < size:
                break
            cursor = found[-1].name
        return items

    async def list_groups(self, after: str | None, limit: int | None) -> list[str]:
        """Groups that have items, in order. A read is billed for each group, and for some items of small groups."""
        template, documents = self._layout.template, self._layout.documents
        groups: list[str] = []
        cursor, at, size = template.start(after), None, 20
        while limit is None or len(groups) < limit:
            query = query_below(documents, template, f"{documents}/{cursor}", limit=size, names_only=True)
            found, at = await self._connection.query(documents, query, at)
            keys = [key for document in found if (key := self._layout.key(document.name))]
            new = dict.fromkeys(group for group, _ in keys)
            # The last one may be met again: below its items there may be collections of the same name.
            groups += [group for group in new if group not in groups[-1:]]
            if len(found) < size:
                break
            last = found[-1].name
            known = self._layout.key(last)
            cursor = template.start(known[0]) if known else last[len(documents) + 1 :] + "\x01"
            size = min(PAGE_GROUPS, size * 2) if len(new) > size // 4 else max(2, size // 4)
        return groups if limit is None else groups[:limit]

    async def all(
        self, at: Any, *, names_only: bool = False, outside: set[str] | None = None
    ) -> AsyncIterator[Any]:
        """All documents that are items, as of a time; others at the path go to ``outside``. A read is billed for each."""
        documents, template = self._layout.documents, self._layout.template
        cursor: str | None = None
        while True:
            query = query_below(documents, template, cursor, limit=PAGE, names_only=names_only)
            found, _ = await self._connection.query(documents, query, at)
            for document in found:
                if self._layout.key(document.name) is not None:
                    yield document
                elif outside is not None and self._layout.is_at_path(document.name):
                    outside.add(document.name)
            if len(found) < PAGE:
                return
            cursor = found[-1].name + "\x01"
