"""How items are read from and written to the user's own documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from motia_adapters.firestore.items import NOTHING, Key, Layout, State, version_at
from motia_adapters.firestore.mapped.template import Template
from motia_adapters.firestore.mapped.values import same, to_json, to_values
from motia_adapters.firestore.wire import WriteMessage, removed
from motia_core.errors import BackendError, InvalidName
from motia_core.model import Item
from motia_core.names import check_id
from motia_core.values import decode

LAST = 0xFFF
"""The rank of a position behind all changes of its time."""


class Moment(NamedTuple):
    """A place in the order: behind the change of a rank (from 1) in the commit of a time (µs)."""

    time: int
    rank: int


class MappedLayout(Layout):
    """Items are documents of the user's; a version is the time of a document's last change."""

    keeps_log = False
    tells_equal = False

    def __init__(self, template: Template, documents: str) -> None:
        self.template = template
        self.documents = documents
        self.identity = ""
        """What tells this history from one that it replaced: 12 hex digits."""

    def name(self, key: Key) -> str:
        """As the template says."""
        return f"{self.documents}/{self.template.path(*key)}"

    def key(self, name: str) -> Key | None:
        """Group and id of a document; ``None`` if it is not at the template's path, or has no id that items have."""
        key = self.template.keys(name[len(self.documents) + 1 :])
        return key if key is not None and all(map(_is_ordinary, key)) else None

    def state(self, document: Any) -> State:
        """A document's fields, and the JSON that stands for them."""
        if document is None:
            return NOTHING
        json = self.json(document)
        return State(version_at(document.update_time), json, 0, document.update_time, document.fields)

    def json(self, document: Any) -> bytes:
        """The value of a document."""
        return orjson.dumps(to_json(document.fields, self.documents))

    def item(self, document: Any) -> Item | None:
        """The item in a document; ``None`` if it is not one of ours."""
        key = self.key(document.name)
        return None if key is None else Item(*key, self.json(document), version_at(document.update_time))

    def check(self, key: Key, json: bytes) -> None:
        """Raise `InvalidValue` for what Firestore cannot hold."""
        to_values(decode(json), self.documents)

    def message(self, key: Key, before: State, after: State, now: int) -> Any:
        """Fields whose JSON is what it was keep their native value, whatever type it is of."""
        if after.json is None:
            return removed(self.name(key), after=before.updated)
        message = WriteMessage()
        message.update.name = self.name(key)
        for field, value in self._fields(before, after.json).items():
            message.update.fields[field].CopyFrom(value)
        if before.updated is None:
            message.current_document.exists = False
        else:
            message.current_document.update_time.CopyFrom(before.updated)
        return message

    def deadline(self, key: Key, expires: int) -> Any:
        """There are none: `ttl` is declared unsupported."""
        raise BackendError("firestore: mapped storage keeps no deadlines")

    def alike(self, key: Key, before: State, json: bytes) -> bool:
        """Whether the document would be what it is."""
        return before.json is not None and same(decode(before.json), decode(json))

    def position(self, at: int, rank: int) -> str:
        """As the core knows it."""
        return f"{at:016x}{min(rank, LAST):03x}{self.identity}"

    def _fields(self, before: State, json: bytes) -> Mapping[str, Any]:
        item: dict[str, Any] = decode(json)
        if before.json is None:
            return to_values(item, self.documents)
        old: dict[str, Any] = decode(before.json)
        kept = {name for name, member in item.items() if name in old and same(member, old[name])}
        fields = to_values({name: member for name, member in item.items() if name not in kept}, self.documents)
        return {**fields, **{name: before.fields[name] for name in kept}}


def _is_ordinary(text: str) -> bool:
    """Whether the core takes it as a group or an id (SEMANTICS A9)."""
    try:
        check_id(text, "id")
    except InvalidName:
        return False
    return True
