"""The frames of the WebSocket protocol: what is read, and what is sent, each encoded once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import orjson

from motia_core.errors import InvalidName
from motia_core.model import Change, Snapshot
from motia_core.names import check_id


class BadFrame(Exception):
    """A client's frame that means nothing; ``code`` is one of `codes.CODES`.

    ``echo`` holds the names of the subscription it was about, where it had them.
    """

    def __init__(self, code: str, message: str, echo: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.echo = echo


@dataclass(frozen=True, slots=True)
class Message:
    """A ``join`` or ``leave``. ``resumable``: the client asks for an acknowledgement."""

    type: str
    stream: str
    group: str
    id: str | None
    subscription_id: str
    after: str | None = None
    resumable: bool = False

    @property
    def names(self) -> dict[str, Any]:
        """The names as they stand in frames about this subscription."""
        return names_of(self.stream, self.group, self.id)


def names_of(stream: str, group: str, id: str | None) -> dict[str, Any]:
    """``streamName``, ``groupId`` and, for an item, ``id``."""
    names = {"streamName": stream, "groupId": group}
    return names if id is None else {**names, "id": id}


def read_message(text: str) -> Message:
    """Parse a client's frame. Raises `BadFrame`."""
    try:
        frame = orjson.loads(text)
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        raise BadFrame("INVALID_FRAME", "a frame must be JSON text") from None
    if not isinstance(frame, dict) or not isinstance(frame.get("type"), str):
        raise BadFrame("INVALID_FRAME", "a frame must be an object with a 'type'")
    if frame["type"] not in ("join", "leave"):
        raise BadFrame("UNKNOWN_MESSAGE", f"type {frame['type'][:40]!r} is not one of 'join', 'leave'")
    data = frame.get("data")
    if not isinstance(data, dict):
        raise BadFrame("INVALID_FRAME", f"{frame['type']} needs an object 'data'")
    stream, group, id = data.get("streamName"), data.get("groupId"), data.get("id")
    echo = None
    try:
        if not isinstance(stream, str):
            raise InvalidName("streamName must be text")
        check_id(group, "groupId")
        if id is not None:
            check_id(id, "id")
        echo = names_of(stream, str(group), id)
        subscription = data.get("subscriptionId")
        if subscription is None:
            subscription = orjson.dumps([stream, group, id]).decode()
        elif not isinstance(subscription, str) or not 0 < len(subscription) <= 4096:
            raise InvalidName("subscriptionId must be text")
        after = data.get("after")
        if after is not None and (not isinstance(after, str) or not 0 < len(after) <= 1024):
            raise InvalidName("after must be a position, or null")
    except InvalidName as error:
        raise BadFrame("INVALID_FRAME", str(error), echo) from None
    return Message(frame["type"], stream, str(group), id, subscription, after, "after" in data)


FrameKind = Literal["change", "sync", "control"]
"""What a frame is for: changes and syncs can be replaced by a later sync, the others cannot."""


class Frame:
    """One text frame for any number of sockets: as text for ASGI, as bytes for the wire."""

    __slots__ = ("_text", "_wire", "kind", "payload")

    def __init__(self, payload: bytes, kind: FrameKind) -> None:
        self.payload = payload
        self.kind = kind
        self._text: str | None = None
        self._wire: bytes | None = None

    def __len__(self) -> int:
        return len(self.payload)

    @property
    def text(self) -> str:
        """The payload as text."""
        if self._text is None:
            self._text = self.payload.decode()
        return self._text

    @property
    def wire(self) -> bytes:
        """The frame with its WebSocket header (RFC 6455, 5.2): final, text, not masked."""
        if self._wire is None:
            size = len(self.payload)
            if size < 126:
                header = bytes((0x81, size))
            elif size < 65_536:
                header = b"\x81\x7e" + size.to_bytes(2, "big")
            else:
                header = b"\x81\x7f" + size.to_bytes(8, "big")
            self._wire = header + self.payload
        return self._wire


def change_frame(change: Change) -> Frame:
    """The frame of a change, made at its first use and kept with it."""
    frame = change.frame
    if frame is None:
        frame = change.frame = _encode_change(change)
    return frame  # type: ignore[no-any-return]


def _encode_change(change: Change) -> Frame:
    if change.type == "event":
        event = b'{"type":"event","event":{"type":%b,"data":%b}}' % (
            orjson.dumps(change.event_type),
            change.json or b"null",
        )
    else:
        assert change.id is not None
        event = b'{"type":"%b","data":%b}' % (change.type.encode(), _with_id(change.id, change.json or b"{}"))
    extra = {"position": change.position}
    if change.version:
        extra["version"] = change.version
    head = orjson.dumps(
        {
            "type": "stream",
            "timestamp": change.timestamp,
            **names_of(change.stream, change.group_id, change.id),
            **extra,
        }
    )
    return Frame(b'%b,"event":%b}' % (head[:-1], event), "change")


def sync_frame(stream: str, group: str, id: str | None, snapshot: Snapshot, reason: str | None) -> Frame:
    """The frame of a snapshot; of a group it never holds an ``id``."""
    if id is None:
        data = b"[%b]" % b",".join(_with_id(item.id, item.json) for item in snapshot.items)
    else:
        data = _with_id(id, snapshot.items[0].json) if snapshot.items else b"null"
    extra = {"position": snapshot.position, **({"reason": reason} if reason else {})}
    if id is not None and snapshot.items:
        extra["version"] = snapshot.items[0].version
    head = orjson.dumps({"type": "stream", "timestamp": snapshot.timestamp, **names_of(stream, group, id), **extra})
    return Frame(b'%b,"event":{"type":"sync","data":%b}}' % (head[:-1], data), "sync")


def joined_frame(subscription_id: str, position: str) -> Frame:
    """The acknowledgement of a join that asked for one."""
    return Frame(orjson.dumps({"type": "joined", "subscriptionId": subscription_id, "position": position}), "control")


def error_frame(code: str, message: str, names: dict[str, Any] | None = None) -> Frame:
    """An error: of one subscription if ``names`` are given, else of the connection."""
    data = {"code": code, "message": message}
    if names is None:
        return Frame(orjson.dumps({"type": "error", "data": data}), "control")
    # Published clients keep the greatest timestamp they met: an error must not move it.
    event = {"type": "error", "data": data}
    return Frame(orjson.dumps({"type": "stream", "timestamp": 0, **names, "event": event}), "control")


def _with_id(id: str, json: bytes) -> bytes:
    """The item with an ``id`` in it, which group subscribers need; its own, if it has one."""
    # The bytes tell most: only an object that holds the text "id" somewhere is decoded.
    if b'"id"' in json and "id" in orjson.loads(json):
        return json
    head = b'{"id":%b' % orjson.dumps(id)
    return head + (b"}" if json == b"{}" else b"," + json[1:])
