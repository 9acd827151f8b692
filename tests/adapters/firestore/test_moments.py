"""What a listener says, message by message, as Google's own service may say it: whole moments or nothing."""

from __future__ import annotations

from typing import Any

import pytest
from motia_adapters.firestore.listener import ADDED, CURRENT, NO_CHANGE, REMOVED, RESET, Listener
from motia_adapters.firestore.mapped.layout import MappedLayout
from motia_adapters.firestore.mapped.moments import Moments
from motia_adapters.firestore.mapped.template import parse_template
from motia_adapters.firestore.wire import ListenResponse, micros, timestamp

DOCUMENTS = "projects/p/databases/(default)/documents"


class _Connection:
    database = "projects/p/databases/(default)"
    address = "nowhere"


class Script:
    """A listener of one target, to which the test speaks in the server's place."""

    def __init__(self) -> None:
        layout = MappedLayout(parse_template("ws/{group}/docs/{id}"), DOCUMENTS, "h")
        self.news = 0
        self.moments = Moments(layout, self._hear, is_bell=False)
        connection: Any = _Connection()
        self.listener = Listener(connection)
        self.listener._enter(self.moments)
        self.state: dict[str, int] = {}

    def _hear(self) -> None:
        self.news += 1

    def target(self, kind: int, *, at: int = 0, token: str = "", all_targets: bool = False) -> None:
        message = ListenResponse()
        message.target_change.target_change_type = kind
        if not all_targets:
            message.target_change.target_ids.append(self.moments.id)
        if at:
            message.target_change.read_time.CopyFrom(timestamp(at))
        message.target_change.resume_token = token.encode()
        self.listener._hear(message)

    def whole(self, at: int) -> None:
        """All targets are whole at a time."""
        self.target(NO_CHANGE, at=at, token=f"t{at}", all_targets=True)

    def put(self, id: str, at: int, path: str = "ws/g/docs") -> None:
        message = ListenResponse()
        document = message.document_change.document
        document.name = f"{DOCUMENTS}/{path}/{id}"
        document.update_time.CopyFrom(timestamp(at))
        message.document_change.target_ids.append(self.moments.id)
        self.listener._hear(message)

    def gone(self, id: str, kind: str = "document_delete") -> None:
        message = ListenResponse()
        getattr(message, kind).document = f"{DOCUMENTS}/ws/g/docs/{id}"
        getattr(message, kind).removed_target_ids.append(self.moments.id)
        self.listener._hear(message)

    def filter(self, count: int) -> None:
        message = ListenResponse()
        message.filter.target_id = self.moments.id
        message.filter.count = count
        self.listener._hear(message)

    def cut(self) -> None:
        """The call ends, and is made again."""
        self.moments.current = False
        self.moments.doubtful(whole=False)

    def take(self) -> dict[str, int | None]:
        """What has changed up to the last whole moment: ids, with the times of their last commits."""
        taken = {}
        for name, document in self.moments.take().documents.items():
            taken[name.rsplit("/", 1)[1]] = None if document is None else micros(document.update_time)
        for id, at in taken.items():
            self.state.pop(id, None)
            if at is not None:
                self.state[id] = at
        return taken

    def asked(self) -> list[tuple[str, bytes]]:
        """What the server was asked since the last look: targets added (with their tokens) and removed."""
        found = []
        while not self.listener._requests.empty():
            request = self.listener._requests.get_nowait()
            kind = request.WhichOneof("target_change")
            found.append((kind, request.add_target.resume_token if kind == "add_target" else b""))
        return found


@pytest.fixture
async def script() -> Script:
    made = Script()
    made.target(ADDED)
    made.put("a", 1)
    made.put("b", 2)
    made.target(CURRENT, at=10, token="c10")
    assert made.take() == {}, "nothing is complete yet"
    made.whole(10)
    assert made.take() == {"a": 1, "b": 2}
    made.asked()
    return made


async def test_changes_count_when_their_moment_is_whole(script: Script) -> None:
    script.put("a", 11)
    script.gone("b")
    script.put("c", 11)
    assert script.take() == {}
    script.whole(11)
    assert script.take() == {"a": 11, "b": None, "c": 11}
    assert micros(script.moments.take().at) == 11


async def test_a_moment_of_one_target_is_none(script: Script) -> None:
    script.put("a", 11)
    script.target(NO_CHANGE, at=11, token="t11")
    assert script.take() == {}


@pytest.mark.parametrize("kind", ["document_delete", "document_remove"])
async def test_a_document_that_leaves(script: Script, kind: str) -> None:
    script.gone("a", kind)
    script.whole(11)
    assert script.take() == {"a": None}


async def test_half_a_moment_is_forgotten_when_the_call_ends(script: Script) -> None:
    """What came and went while the call was cut must not stay, and what was told must be told again."""
    script.put("ghost", 11)
    script.gone("a")
    script.target(NO_CHANGE, token="too far")
    script.cut()
    assert script.moments.token == b"t10", "the last moment that was whole"
    assert {name.rsplit("/", 1)[1] for name in script.moments.members} == {"a", "b"}
    script.target(ADDED)
    script.put("b", 12)
    script.target(CURRENT, token="c12")
    script.whole(12)
    assert script.take() == {"b": 12}
    assert script.state == {"a": 1, "b": 12}


async def test_a_beginning_that_is_cut_begins_again() -> None:
    script = Script()
    script.target(ADDED)
    script.put("ghost", 1)
    script.cut()
    assert script.moments.token == b""
    script.put("a", 2)
    script.target(CURRENT)
    script.whole(3)
    assert script.take() == {"a": 2}


async def test_a_reset_tells_all_anew(script: Script) -> None:
    script.target(RESET)
    script.put("b", 2)
    script.put("d", 11)
    script.target(CURRENT)
    assert script.take() == {}
    script.whole(12)
    assert script.take() == {"a": None, "b": 2, "d": 11}


async def test_a_reset_that_is_cut_does_not_go_on_from_before_it(script: Script) -> None:
    script.target(RESET, token="r11")
    script.put("b", 2)
    script.cut()
    assert script.moments.token == b"", "a token of half a reset would leave the other half out"
    script.put("a", 1)
    script.put("b", 2)
    script.target(CURRENT)
    script.whole(12)
    script.take()
    assert script.state == {"a": 1, "b": 2}


async def test_a_count_that_is_not_ours_asks_for_all(script: Script) -> None:
    script.filter(2)
    assert script.asked() == []
    script.filter(1)
    assert script.asked() == [("remove_target", b""), ("add_target", b"")]
    script.put("b", 2)
    script.target(CURRENT)
    script.whole(12)
    assert script.take() == {"a": None, "b": 2}


async def test_a_target_that_is_ended_is_added_again(script: Script) -> None:
    script.put("ghost", 11)
    script.target(REMOVED)
    assert ("add_target", b"") in script.asked()
    script.put("a", 1)
    script.put("b", 2)
    script.target(CURRENT)
    script.whole(12)
    script.take()
    assert script.state == {"a": 1, "b": 2}


async def test_asking_where_it_stands_goes_on_from_the_last_whole_moment(script: Script) -> None:
    script.put("ghost", 11)
    script.moments.doubtful(whole=False)
    script.listener.renew(script.moments)
    assert script.asked() == [("remove_target", b""), ("add_target", b"t10")]
    script.put("late", 1, "ws/g/docs")
    script.target(CURRENT)
    script.whole(12)
    assert script.take() == {"late": 1}


async def test_documents_elsewhere_and_odd_ones(script: Script, caplog: pytest.LogCaptureFixture) -> None:
    script.put("x", 11, "ws/g/archive/y/docs")
    script.put("tab\tid", 11)
    script.whole(11)
    assert script.take() == {"x": None, "tab\tid": None}
    assert len(script.moments.outside) == 1
    assert len([record for record in caplog.records if "is left out" in record.message]) == 1
    script.filter(4)
    assert script.asked() == [], "they count"


async def test_what_could_not_be_handled_is_brought_again(script: Script) -> None:
    script.put("a", 11)
    script.whole(11)
    moment = script.moments.take()
    script.put("b", 12)
    script.put("a", 12)
    script.whole(12)
    script.moments.give_back(moment)
    assert script.take() == {"a": 12, "b": 12}
