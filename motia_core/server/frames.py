"""The frames of the WebSocket protocol: what is read, and what is sent, each encoded once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import orjson

from motia_core.errors import InvalidName
from motia_core.members import Run
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


FrameKind = Literal["change", "sync", "joined", "control"]
"""What a frame is for: all but the last kind can be replaced by a later sync, and say nothing true without it."""


class Frame:
    """Text frames for any number of sockets: as texts for ASGI, as bytes for the wire."""

    __slots__ = ("_texts", "_wire", "kind", "payloads", "size")

    def __init__(self, payloads: list[bytes], kind: FrameKind) -> None:
        self.payloads = payloads
        self.size = sum(map(len, payloads))
        self.kind = kind
        self._texts: list[str] | None = None
        self._wire: bytes | None = None

    @property
    def texts(self) -> list[str]:
        """The payloads as text."""
        if self._texts is None:
            self._texts = [payload.decode() for payload in self.payloads]
        return self._texts

    @property
    def wire(self) -> bytes:
        """The payloads with their WebSocket headers (RFC 6455, 5.2): final, text, not masked."""
        if self._wire is None:
            self._wire = b"".join(part for payload in self.payloads for part in (_header(len(payload)), payload))
        return self._wire


def _header(size: int) -> bytes:
    if size < 126:
        return bytes((0x81, size))
    if size < 65_536:
        return b"\x81\x7e" + size.to_bytes(2, "big")
    return b"\x81\x7f" + size.to_bytes(8, "big")


def change_frame(run: Run) -> Frame:
    """The frame of a run of changes, made at its first use and kept with it."""
    frame = run.frame
    if frame is None:
        frame = run.frame = Frame([_encode_change(change) for change in run.changes], "change")
    return frame  # type: ignore[no-any-return]


def _encode_change(change: Change) -> bytes:
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
    return b'%b,"event":%b}' % (head[:-1], event)


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
    return Frame([b'%b,"event":{"type":"sync","data":%b}}' % (head[:-1], data)], "sync")


def joined_frame(subscription_id: str, position: str) -> Frame:
    """The acknowledgement of a join that asked for one."""
    frame = {"type": "joined", "subscriptionId": subscription_id, "position": position}
    return Frame([orjson.dumps(frame)], "joined")


def error_frame(code: str, message: str, names: dict[str, Any] | None = None) -> Frame:
    """An error: of one subscription if ``names`` are given, else of the connection."""
    data = {"code": code, "message": message}
    if names is None:
        return _control({"type": "error", "data": data})
    # Published clients keep the greatest timestamp they met: an error must not move it.
    event = {"type": "error", "data": data}
    return _control({"type": "stream", "timestamp": 0, **names, "event": event})


def _control(frame: dict[str, Any]) -> Frame:
    return Frame([orjson.dumps(frame)], "control")


def _with_id(id: str, json: bytes) -> bytes:
    """The item with an ``id`` in it, which group subscribers need; its own, if it has one."""
    # The bytes tell most: only an object that holds the text "id" somewhere is decoded.
    if b'"id"' in json and "id" in orjson.loads(json):
        return json
    head = b'{"id":%b' % orjson.dumps(id)
    return head + (b"}" if json == b"{}" else b"," + json[1:])
