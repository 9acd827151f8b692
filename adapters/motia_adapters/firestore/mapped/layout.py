"""How items are read from and written to the user's own documents."""

from __future__ import annotations

import base64
import hashlib
import re
import string
from typing import Any, NamedTuple

import orjson

from motia_adapters.firestore.items import NOTHING, Key, Layout, State, version_at
from motia_adapters.firestore.mapped.rewriting import check_size, rewritten
from motia_adapters.firestore.mapped.template import Template
from motia_adapters.firestore.mapped.values import same, to_json
from motia_adapters.firestore.wire import WriteMessage, removed
from motia_core.errors import BackendError, InvalidName
from motia_core.model import Item
from motia_core.names import check_id
from motia_core.values import decode

FIRST, LAST = 0xF0000, 0xFFFFF
"""The numbers in positions; the last one lies behind all changes of its time."""
BEHIND_ALL = "~"
"""Behind every key."""
PREFIX, WHOLE = 24, 33
"""Bytes of a document's group and id that are in a position: of longer ones fewer, with a hash."""
_PLACE = re.compile(
    r"(?P<time>[0-9a-f]{16})(?:"
    r"(?P<number>f[0-9a-f]{4})(?P<identity>[0-9a-f]{12})|"
    r"(?P<last>[01])(?P<its>[0-9a-f]{12})(?P<key>[0-9A-Za-z^_]{1,44})\.(?P<since>[0-9a-f]{16})?)"
)
_PLAIN = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
_IN_ORDER = str.maketrans(_PLAIN, "".join(sorted(string.ascii_letters + string.digits + "^_")), "=")


class Place(NamedTuple):
    """Whoever stands there has all changes up to ``since`` (µs), and of those up to ``time`` some.

    Which of them, ``key`` says: those of documents that have no greater one.
    """

    time: int
    since: int
    key: str


class MappedLayout(Layout):
    """Items are documents of the user's; a version is the time of a document's last change."""

    keeps_log = False
    tells_equal = False

    def __init__(self, template: Template, documents: str, history: str) -> None:
        self.template = template
        self.documents = documents
        self.history = history
        """The name of the document that holds `identity`."""
        self.identity = ""
        """What tells this history from one that it replaced: 12 hex digits."""

    def name(self, key: Key) -> str:
        """As the template says."""
        return f"{self.documents}/{self.template.path(*key)}"

    def key(self, name: str) -> Key | None:
        """Group and id of a document; ``None`` if it is not at the template's path, or has no id that items have."""
        key = self.template.keys(name[len(self.documents) + 1 :])
        return key if key is not None and all(map(_is_ordinary, key)) else None

    def is_at_path(self, name: str) -> bool:
        """Whether a document is where items are, whatever its group and id; collections elsewhere may share a name."""
        return self.template.keys(name[len(self.documents) + 1 :]) is not None

    def state(self, document: Any) -> State:
        """A document's fields, and the JSON that stands for them."""
        if document is None:
            return NOTHING
        json = self.json(document)
        return State(version_at(document.update_time), json, 0, document.update_time, document.fields)

    def json(self, document: Any) -> bytes:
        """The value of a document."""
        return orjson.dumps(to_json(document.fields, self.documents), option=orjson.OPT_SORT_KEYS)

    def item(self, document: Any) -> Item | None:
        """The item in a document; ``None`` if it is not one of ours."""
        key = self.key(document.name)
        return None if key is None else Item(*key, self.json(document), version_at(document.update_time))

    def fields(self, key: Key, before: State, json: bytes) -> dict[str, Any]:
        """What is in the new value as it was keeps its native value. Raises `InvalidValue` for what cannot be held."""
        old = None if before.json is None else decode(before.json)
        made = rewritten(decode(json), old, before.fields or {}, self.documents)
        check_size(self.template.path(*key), made)
        return made

    def message(self, key: Key, before: State, after: State, now: int) -> Any:
        """The document as a whole, if it was last changed when we think it was."""
        if after.json is None:
            return removed(self.name(key), after=before.updated)
        message = WriteMessage()
        message.update.name = self.name(key)
        for field, value in after.fields.items():
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

    def position(self, at: int, left: int = 0, name: str = "", since: int | None = None) -> str:
        """Of a change with ``left`` more of its time behind it, and of the document ``name``, if it is no event's.

        ``TIME 0 IDENTITY KEY.``, 16, 1 and 12 hex digits, and `key_of` the document: whatever else a process leaves out
        or knows of that time, a document has the same place. ``1`` instead of ``0``: nothing of the time follows.
        ``SINCE``, 16 digits, is there if some of the deletes that follow may have been done earlier than at that time,
        but after ``since``. Of events, and behind all of a time, ``TIME NUMBER IDENTITY``, with `LAST` less how many
        follow, 5 digits.
        """
        if not name:
            return f"{at:016x}{max(LAST - left, FIRST):05x}{self.identity}"
        place = f"{at:016x}{0 if left else 1}{self.identity}{self.rank(name)}."
        return place if not left or since is None or since >= at - 1 else f"{place}{since:016x}"

    def rank(self, name: str) -> str:
        """See `key_of`."""
        return key_of(self.template.keys(name[len(self.documents) + 1 :]) or ("", name))

    def place(self, position: str) -> Place:
        """What a position says. Raises `ValueError` for what is none of this history's."""
        found = _PLACE.fullmatch(position)
        if found is None or (found["identity"] or found["its"]) != self.identity:
            raise ValueError(position)
        time = int(found["time"], 16)
        if found["last"] == "0":
            return Place(time, int(found["since"], 16) if found["since"] else time - 1, found["key"])
        is_last = found["last"] or int(found["number"], 16) == LAST
        return Place(time, time, "") if is_last else Place(time, time - 1, BEHIND_ALL)

    def is_ours(self, position: str) -> bool:
        """Whether it is of this history."""
        try:
            self.place(position)
        except ValueError:
            return False
        return True


def key_of(key: Key) -> str:
    """What the documents of one time are told in the order of, in every process: text that sorts as group and id do.

    44 characters at most: of long ones only the first bytes sort.
    """
    whole = "\0".join(key).encode()
    tail = b"" if len(whole) <= WHOLE else hashlib.blake2b(whole, digest_size=WHOLE - PREFIX).digest()
    return base64.b64encode(whole[:PREFIX] + tail if tail else whole).decode().translate(_IN_ORDER)


def time_of(position: str) -> int:
    """The time (µs) of a position of whatever history."""
    return int(position[:16], 16)


def is_amid(position: str) -> bool:
    """Whether documents of its time follow."""
    return position[16] == "0"


def _is_ordinary(text: str) -> bool:
    """Whether the core takes it as a group or an id (SEMANTICS A9)."""
    try:
        check_id(text, "id")
    except InvalidName:
        return False
    return True
