"""Where the user's documents are: ``workspaces/{group}/documents/{id}``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from motia_core.errors import InvalidName

_ID = re.compile(r"(?!\.{1,2}$)(?!__.*__$)[^/]+", re.DOTALL)
MAX_ID = 1_500
"""Bytes of an id of a document, at most."""
_FIRST = "\x01"  # sorts before every id that a group or an item may have


@dataclass(frozen=True, slots=True)
class Template:
    """A path of a document, in which one segment is the group and the last one the item's id."""

    segments: tuple[str, ...]

    @property
    def collection(self) -> str:
        """The collection that items are in."""
        return self.segments[-2]

    @property
    def text(self) -> str:
        """As it was given."""
        return "/".join(self.segments)

    def path(self, group: str, id: str) -> str:
        """An item's path under ``documents``."""
        return "/".join({"{group}": group, "{id}": id}.get(segment, segment) for segment in self.segments)

    def parent(self, group: str) -> str:
        """The path of the document whose collection holds a group's items."""
        return "/".join(group if segment == "{group}" else segment for segment in self.segments[:-2])

    def keys(self, path: str) -> tuple[str, str] | None:
        """Group and id of the document at a path under ``documents``; ``None`` if it is none of ours."""
        parts = path.split("/")
        if len(parts) != len(self.segments):
            return None
        found = {}
        for segment, part in zip(self.segments, parts, strict=True):
            if segment.startswith("{"):
                found[segment] = part
            elif segment != part:
                return None
        return found["{group}"], found["{id}"]

    def start(self, after: str | None) -> str:
        """A path before those of all groups behind one (``None``: of all groups), and behind all before."""
        return self.path(_FIRST if after is None else after + _FIRST, _FIRST)

    def end(self) -> str:
        """A path behind those of all groups."""
        at = self.segments.index("{group}")
        return "/".join([*self.segments[: at - 1], self.segments[at - 1] + _FIRST, "-"])

    def check(self, name: str, what: str) -> None:
        """Raise `InvalidName` unless Firestore takes this as the id of a document."""
        if not is_document_id(name):
            raise InvalidName(
                f"{what} {name!r} cannot be the id of a document in Firestore: no '/', not '.', '..' or __x__"
            )


def is_document_id(name: str) -> bool:
    """Whether Firestore takes this as the id of a document, or the name of a collection."""
    return bool(_ID.fullmatch(name)) and len(name.encode()) <= MAX_ID


def parse_template(text: str) -> Template:
    """The template that a text spells. Raises `ValueError` with what does not fit."""
    segments = tuple(text.split("/"))
    if any(not segment for segment in segments):
        raise ValueError(f"path {text!r} has an empty segment: write it as workspaces/{{group}}/documents/{{id}}")
    if len(segments) % 2:
        raise ValueError(f"path {text!r} names a collection, not a document: collections and documents alternate")
    for number, segment in enumerate(segments):
        if "{" in segment or "}" in segment:
            if segment not in ("{group}", "{id}"):
                raise ValueError(f"path {text!r}: {segment!r} is no segment: {{group}} and {{id}} stand alone")
            if number % 2 == 0:
                raise ValueError(f"path {text!r}: {segment} stands where a collection is; it must name a document")
        elif not _ID.fullmatch(segment):
            raise ValueError(f"path {text!r}: {segment!r} is no name that Firestore takes")
    if segments.count("{group}") != 1 or segments.count("{id}") != 1 or segments[-1] != "{id}":
        raise ValueError(f"path {text!r} needs {{group}} once, and {{id}} once, at its end")
    return Template(segments)
