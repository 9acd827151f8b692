"""Which document of the user's collection is which item, and whether it can be mapped at all."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson
from bson import Int64, ObjectId
from pymongo.errors import ExecutionTimeout

from motia_adapters.mongodb.link import Link
from motia_adapters.mongodb.mapped.values import to_json
from motia_adapters.mongodb.options import IdType, MappedOptions
from motia_core.errors import BackendError, BackendUnavailable, InvalidName, InvalidValue
from motia_core.names import MAX_ID_BYTES, check_id
from motia_core.values import decode

COUNTING = 2.0
"""Seconds in which a collection is searched for documents that cannot be items."""
GONE = "gone"
"""The version of a delete."""
CONTROL = r"\x00-\x1f\x7f-\x9f"
"""Characters that no id holds (of a regular expression)."""
_HEX = re.compile(r"[0-9a-f]{24}\Z")
_INT = re.compile(r"(0|-?[1-9][0-9]{0,18})\Z")
BSON_TYPES: dict[str, list[str]] = {
    "auto": ["string", "objectId"], "text": ["string"], "objectid": ["objectId"], "int": ["int", "long"],
}  # fmt: skip


class Found(NamedTuple):
    """A document as an item."""

    group: str
    id: str
    json: bytes
    version: str


def to_text(value: Any, kind: IdType) -> str | None:
    """A group or id as text; ``None``: it is none that can be mapped."""
    if isinstance(value, ObjectId):
        return str(value) if kind in ("auto", "objectid") else None
    if isinstance(value, str):
        if kind not in ("auto", "text") or (kind == "auto" and _HEX.match(value)):
            return None
        try:
            return check_id(value, "id")
        except InvalidName:
            return None
    if isinstance(value, int) and not isinstance(value, bool) and kind == "int":
        return str(int(value))
    return None


def to_native(text: str, kind: IdType, what: str) -> Any:
    """A group or id as it is stored. Raises `InvalidName`."""
    if kind == "text":
        return text
    if _HEX.match(text) and kind in ("auto", "objectid"):
        return ObjectId(text)
    if kind == "auto":
        return text
    if kind == "int" and _INT.match(text) and -(2**63) <= int(text) < 2**63:
        number = int(text)
        return number if -(2**31) <= number < 2**31 else Int64(number)
    expected = {"objectid": "the 24 hex digits of an ObjectId", "int": "a decimal number of 64 bits"}[kind]
    raise InvalidName(f"{what} {text!r} must be {expected} in this mapped collection")


class Collection:
    """One mapped collection."""

    def __init__(self, options: MappedOptions) -> None:
        self.options = options
        self.collection = options.collection
        self.group, self.id = options.group_field, options.id_field
        self.alone = self.id == "_id"
        """Whether an id is unique by itself, and so in one group only."""

    def names(self, group: str, id: str | None) -> tuple[Any, Any]:
        """Group and id as they are stored. Raises `InvalidName`."""
        native = to_native(group, self.options.group_type, "group id")
        return native, None if id is None else to_native(id, self.options.id_type, "item id")

    def matches(self, document: Mapping[str, Any]) -> bool:
        """Whether the filter takes the document."""
        return all(key in document and _equal(document[key], value) for key, value in self.options.filter.items())

    def found(self, document: Mapping[str, Any] | None) -> Found | None:
        """The item that a document is; ``None``: it is none."""
        if document is None or not self.matches(document):
            return None
        group = to_text(document.get(self.group), self.options.group_type)
        id = to_text(document.get(self.id), self.options.id_type)
        if group is None or id is None:
            return None
        json = orjson.dumps(self.value(document))
        return Found(group, id, json, version_of(json))

    def value(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """What the stream shows of a document."""
        return {key: to_json(member) for key, member in document.items() if self.shows(key)}

    def shows(self, key: str) -> bool:
        """Whether a field is part of the value."""
        if key in (self.group, self.id):
            return self.options.include_ids
        if key == "_id":
            return False
        return not self.options.fields or key in self.options.fields

    def fields_of(self, json: bytes, group: str, id: str) -> dict[str, Any]:
        """The fields that a value sets, without group and id. Raises `InvalidValue` for those that it must not."""
        value: dict[str, Any] = decode(json)
        for field, own in ((self.group, group), (self.id, id)):
            if field in value:
                if not self.options.include_ids or str(value[field]) != own:
                    said = f"is the item's {'group' if field == self.group else 'id'}, which a value cannot change"
                    raise InvalidValue(said, path=f"$.{field}")
                del value[field]
        for key in value:
            where = f"$.{key}" if key.isidentifier() else f"$[{key[:40]!r}]"
            if not self.shows(key):
                raise InvalidValue("is not one of the fields that this stream maps", path=where)
            if key in self.options.filter and value[key] != to_json(self.options.filter[key]):
                raise InvalidValue("the mapping's filter would not take the document", path=where)
        return value

    def where(self) -> dict[str, Any]:
        """The filter of documents that are items, as far as the server can tell."""
        return {**self.options.filter, self.group: self.of_type(self.group), self.id: self.of_type(self.id)}

    def of_type(self, field: str) -> dict[str, Any]:
        """What a group or an id has to be."""
        kind = self.options.group_type if field == self.group else self.options.id_type
        return {"$type": BSON_TYPES[kind], "$not": {"$type": "array"}}  # $type looks into lists, too

    def check_kind(self, found: Mapping[str, Any]) -> None:
        """Raise `BackendError` unless it (as ``listCollections`` has it) is a plain collection."""
        if found.get("type", "collection") != "collection":
            raise BackendError(f"mongodb: {self.collection!r} is a {found['type']}; only collections can be mapped")
        if found.get("options", {}).get("capped"):
            raise BackendError(f"mongodb: collection {self.collection!r} is capped and cannot be mapped")

    def check_images(self, found: Mapping[str, Any]) -> None:
        """Raise `BackendError` unless the collection keeps pre- and post-images."""
        self.check_kind(found)
        if not keeps_images(found):
            raise BackendError(
                f"mongodb: collection {self.collection!r} keeps no pre- and post-images, without which"
                " deletes and moves cannot be told; run in mongosh: db.runCommand({collMod: "
                f'"{self.collection}", changeStreamPreAndPostImages: {{enabled: true}}}})'
                " or set mapped.enable_images = true"
            )

    async def check_unique(self, link: Link) -> None:
        """Raise `BackendError` unless group and id are unique by an index."""
        if self.id == "_id":
            return
        indexes, _ = await link.read_all({"listIndexes": self.collection})
        unique = [
            set(index["key"]) for index in indexes if index.get("unique") and "partialFilterExpression" not in index
        ]
        self.alone = {self.id} in unique
        if self.alone or {self.group, self.id} in unique:
            return
        raise BackendError(
            f"mongodb: in collection {self.collection!r} no unique index says that {self.group!r} and {self.id!r} name"
            f" one document; run in mongosh: db[{self.collection!r}].createIndex("
            f"{{{self.group}: 1, {self.id}: 1}}, {{unique: true}})"
        )

    async def unusable(self, link: Link) -> int | None:
        """Documents that the filter takes and that cannot be items; ``None``: the collection is too large to look."""
        types: tuple[tuple[str, IdType], ...] = ((self.group, self.options.group_type), (self.id, self.options.id_type))
        named = [condition for field, kind in types for condition in _is_name(field, kind)]
        query = {**self.options.filter, "$nor": [{**self.where(), "$and": named}]}
        limit = max(1, round(min(COUNTING, link.timeout / 2) * 1000))
        try:
            return int((await link.run({"count": self.collection, "query": query, "maxTimeMS": limit}))["n"])
        except BackendUnavailable as error:
            if isinstance(error.__cause__, ExecutionTimeout):
                return None
            raise


def keeps_images(found: Mapping[str, Any]) -> bool:
    """Whether a collection (as ``listCollections`` has it) keeps pre- and post-images."""
    return bool(found.get("options", {}).get("changeStreamPreAndPostImages", {}).get("enabled"))


def _equal(value: Any, wanted: Any) -> bool:
    """As the server compares: to it true is not 1."""
    return bool(value == wanted) and isinstance(value, bool) == isinstance(wanted, bool)


def _is_name(field: str, kind: IdType) -> list[dict[str, Any]]:
    """The conditions under which a text can be a group or an id, as `to_text` has it.

    The expression for the characters would fail at text that is no UTF-8; the query for them does not.
    """
    text = {"$getField": {"$literal": field}}
    bad = rf"[{CONTROL}]" if kind == "text" else rf"[{CONTROL}]|^[0-9a-f]{{24}}$"
    fits = {"$and": [{"$gt": [text, ""]}, {"$lte": [{"$strLenBytes": text}, MAX_ID_BYTES]}]}
    return [
        {field: {"$not": {"$regex": bad}}},
        {"$expr": {"$cond": [{"$eq": [{"$type": text}, "string"]}, fits, True]}},
    ]


def version_of(json: bytes) -> str:
    """A hash of what is shown: versions are equal or not, and nothing more."""
    return hashlib.blake2b(json, digest_size=12).hexdigest()
