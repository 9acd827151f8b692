"""Reading the user's documents: one, a group's, all, and the groups that there are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

from motia_adapters.firestore.connection import Connection
from motia_adapters.firestore.mapped.layout import MappedLayout
from motia_adapters.firestore.mapped.template import Template
from motia_adapters.firestore.paging import PAGE_ITEMS, groups_from, items_behind
from motia_adapters.firestore.wire import GREATER_OR_EQUAL, LESS, query_of
from motia_core.model import Item


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
        cursor = None if after is None else self._layout.name((group, after))

        def shown(document: Any, now: int) -> Item | None:
            self._showed([document])
            return self._layout.item(document)

        parent = f"{documents}/{template.parent(group)}"
        return await items_behind(self._connection, parent, template.collection, cursor, limit, at, shown)

    async def list_groups(self, after: str | None, limit: int | None) -> list[str]:
        """See `groups_from`."""
        template, documents = self._layout.template, self._layout.documents

        async def page(start: str, size: int, at: Any) -> tuple[Sequence[Any], Any]:
            query = query_below(documents, template, start, limit=size, names_only=True)
            return await self._connection.query(documents, query, at)

        def behind(name: str, group: str | None) -> str:
            return name + "\x01" if group is None else f"{documents}/{template.start(group)}"

        return await groups_from(f"{documents}/{template.start(after)}", limit, page, self._group, behind)

    def _group(self, name: str) -> str | None:
        key = self._layout.key(name)
        return None if key is None else key[0]

    async def all(self, at: Any, *, names_only: bool = False, outside: set[str] | None = None) -> AsyncIterator[Any]:
        """All documents that are items, as of a time; names of others go to ``outside``. A read is billed for each."""
        documents, template = self._layout.documents, self._layout.template
        cursor: str | None = None
        while True:
            query = query_below(documents, template, cursor, limit=PAGE_ITEMS, names_only=names_only)
            found, _ = await self._connection.query(documents, query, at)
            for document in found:
                if self._layout.key(document.name) is not None:
                    yield document
                elif outside is not None and self._layout.is_at_path(document.name):
                    outside.add(document.name)
            if len(found) < PAGE_ITEMS:
                return
            cursor = found[-1].name + "\x01"
