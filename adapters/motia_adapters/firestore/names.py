"""Where managed storage keeps what, and how any text becomes an id that Firestore takes.

| document | holds |
|---|---|
| ``ROOT/NAMESPACE/streams/STREAM/log/SEQ`` | one commit's changes: see `history` |
| ``…/groups/GROUP/items/ID`` | an item: ``group``, ``id``, ``version``, ``json``, perhaps ``expires`` (µs) |
| ``…/deadlines/HASH`` | where an item with a deadline is: ``group``, ``id``, ``at`` (µs) |

Documents of namespaces, streams and groups are never written: the console shows them in italics.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

LOG, GROUPS, ITEMS, DEADLINES = "log", "groups", "items", "deadlines"


def encode_id(text: str) -> str:
    """An id of a document for any text; sorts as the text does, and no two are alike.

    Firestore refuses ``/``, ``.``, ``..`` and ``__x__``: a hyphen in front cures the last three.
    """
    return "-" + text.replace(".", ".0").replace("/", ".1")


def decode_id(id: str) -> str:
    """What `encode_id` made an id from."""
    return id[1:].replace(".1", "/").replace(".0", ".")


@dataclass(frozen=True, slots=True)
class Paths:
    """The full names of one stream's documents."""

    stream: str
    """The stream's own document, which is the parent of all."""

    def entry(self, seq: int) -> str:
        """A document of the log."""
        return f"{self.stream}/{LOG}/{seq:013x}"

    def group(self, group: str) -> str:
        """A group's document, which is the parent of its items."""
        return f"{self.stream}/{GROUPS}/{encode_id(group)}"

    def item(self, group: str, id: str) -> str:
        """An item's document."""
        return f"{self.stream}/{GROUPS}/{encode_id(group)}/{ITEMS}/{encode_id(id)}"

    def after_group(self, group: str) -> str:
        """A name behind those of all items of a group, and before those of the next group's."""
        return f"{self.stream}/{GROUPS}/{encode_id(group)}\x01/{ITEMS}/-"  # no group holds a control character

    def deadline(self, group: str, id: str) -> str:
        """The document that says where an item with a deadline is."""
        digest = hashlib.sha256(f"{group}\0{id}".encode()).hexdigest()
        return f"{self.stream}/{DEADLINES}/{digest[:32]}"


def group_of(name: str) -> str:
    """The group in the full name of an item's document."""
    return decode_id(name.rsplit("/", 3)[1])


def paths_of(documents: str, root: str, namespace: str, stream: str) -> Paths:
    """The names of a stream's documents under a database's ``documents``."""
    return Paths(f"{documents}/{root}/{encode_id(namespace)}/streams/{encode_id(stream)}")
