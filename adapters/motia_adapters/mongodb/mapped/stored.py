"""A document as it was read, in order to be written: what it is guarded by, and the update that changes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bson import decode
from bson.errors import InvalidBSON
from bson.raw_bson import RawBSONDocument

from motia_adapters.mongodb.mapped.values import CODEC, STRICT, same, to_json
from motia_core.errors import InvalidValue


@dataclass(frozen=True, slots=True)
class Stored:
    """A document as it was read: its bytes, which a write is guarded by, and what they hold."""

    raw: RawBSONDocument
    document: dict[str, Any]
    broken: InvalidBSON | None = None
    """Why it can be removed only: it holds text that is none, and could not be written back as it is."""

    @classmethod
    def of(cls, raw: RawBSONDocument) -> Stored:
        """The document in these bytes."""
        try:
            return cls(raw, decode(raw.raw, STRICT))
        except InvalidBSON as error:
            return cls(raw, decode(raw.raw, CODEC), error)

    @property
    def exactly(self) -> dict[str, Any]:
        """The filter that finds the document as it was read, and not otherwise."""
        return {"_id": self.document["_id"], "$expr": {"$eq": ["$$ROOT", {"$literal": self.raw}]}}

    def becomes(self, made: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The update that makes another document of it; fields that show the same are not touched.

        Raises `InvalidValue` for a broken one.
        """
        if self.broken is not None:
            raise InvalidValue(f"the document that is there cannot be written by us: {self.broken}") from self.broken
        before, root = self.document, "$$ROOT"
        gone = [key for key in before if key not in made]
        new = {key: value for key, value in made.items() if key not in before or not _shows(before[key], value)}
        rest: Any = root
        if gone:
            stays = {"$not": {"$in": ["$$this.k", {"$literal": gone}]}}
            rest = {"$arrayToObject": {"$filter": {"input": {"$objectToArray": root}, "cond": stays}}}
        return [{"$replaceWith": {"$mergeObjects": [rest, {"$literal": new}]}}]


def _shows(before: Any, value: Any) -> bool:
    return same(to_json(before), to_json(value))
