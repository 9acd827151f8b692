"""Clause E1: everything but a clear yes is a no, and nothing of a group leaves before the yes."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from motia_core import Auth, StreamConfig
from motia_core.hookspecs import hookimpl

from .serving import Served, project, serve
from .sockets import about, kind, message

SECRET = "nobody else may read this"

YES: dict[str, Any] = {
    "authorized": {"authorized": True},
    "not unauthorized": {"unauthorized": False},
    "both": {"authorized": True, "unauthorized": False},
    "with a context": {"authorized": True, "context": {"userId": "ada"}},
    "with no context": {"authorized": True, "context": None},
    "with more": {"authorized": True, "reason": "because"},
}
NO: dict[str, Any] = {
    "not authorized": {"authorized": False},
    "unauthorized": {"unauthorized": True},
    "one": {"authorized": 1},
    "text": {"authorized": "yes"},
    "null": {"authorized": None},
    "zero": {"unauthorized": 0},
    "contradiction": {"authorized": True, "unauthorized": True},
    "other contradiction": {"authorized": False, "unauthorized": False},
    "empty": {},
    "other case": {"Authorized": True},
    "nothing": None,
    "true": True,
    "false": False,
    "list": [{"authorized": True}],
    "pairs": [("authorized", True)],
    "yes": "yes",
    "object": object(),
    "class": dict,
    "context that is none": {"authorized": True, "context": ["userId"]},
    "context of text": {"authorized": True, "context": "userId"},
}


class Treacherous(Mapping[str, Any]):
    """A mapping that breaks when it is read."""

    def __getitem__(self, key: str) -> Any:
        raise LookupError("broken")

    def __iter__(self) -> Any:
        raise LookupError("broken")

    def __len__(self) -> int:
        return 1

    def __contains__(self, key: object) -> bool:
        return True


class Worse(BaseException):
    """Not even an Exception."""


RAISED: dict[str, BaseException] = {
    "error": RuntimeError("the database says: password=hunter2"),
    "timeout": TimeoutError(),
    "exit": SystemExit(1),
    "cancelled": asyncio.CancelledError(),
    "worse": Worse(),
    "stop": StopAsyncIteration(),
    "assertion": AssertionError(),
}


def answer(group: str) -> Any:
    """What a hook does with a join to a group: the group's name says it."""
    if group in RAISED:
        raise RAISED[group]
    return Treacherous() if group == "treacherous" else {**YES, **NO}[group]


async def on_join(subscription: Any, ctx: Any, auth_context: Any) -> Any:
    return answer(subscription.group_id)


def plain_on_join(subscription: Any, ctx: Any, auth_context: Any) -> Any:
    return answer(subscription.group_id)


class PlainObject:
    def __call__(self, subscription: Any, ctx: Any, auth_context: Any) -> Any:
        return on_join(subscription, ctx, auth_context)


async def ask(server: Served, groups: list[str], streams: list[str]) -> tuple[dict[Any, str], str]:
    """Join each group of each stream on one socket; the answers, and all text that came."""
    for stream in streams:
        for group in groups:
            await server.motia.streams[stream].set(group, "x", {"text": SECRET})
    client = await server.connect()
    answers = {}
    for stream in streams:
        for group in groups:
            answers[stream, group] = kind(await client.joined(group, stream=stream))
            # What happens in the group now is for those who are in.
            await server.motia.streams[stream].set(group, "x", {"text": SECRET, "again": True})
    await client.settled()
    return answers, " ".join(map(str, client.texts))


HOOKS: dict[str, Any] = {"async": on_join, "plain": plain_on_join, "callable": PlainObject()}
STREAMS = [StreamConfig(name=name, on_join=hook) for name, hook in HOOKS.items()]


async def test_E1_every_unclear_answer_of_on_join_is_a_no(tmp_path: Path) -> None:
    async with serve(project(tmp_path, *STREAMS)) as server:
        answers, texts = await ask(server, [*NO, "treacherous"], list(HOOKS))
    assert {key: code for key, code in answers.items() if code != "STREAM_ACCESS_DENIED"} == {}
    assert SECRET not in texts


async def test_E1_either_spelling_of_yes_opens(tmp_path: Path) -> None:
    async with serve(project(tmp_path, *STREAMS)) as server:
        answers, texts = await ask(server, list(YES), list(HOOKS))
    assert {key: code for key, code in answers.items() if code != "sync"} == {}
    assert SECRET in texts


async def test_E1_whatever_on_join_raises_is_a_no(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serve(project(tmp_path, *STREAMS)) as server:
        answers, texts = await ask(server, list(RAISED), list(HOOKS))
    assert {key: code for key, code in answers.items() if code != "STREAM_ACCESS_DENIED"} == {}
    assert SECRET not in texts
    assert "hunter2" not in texts
    # The project's author learns why, with the place.
    failed = [record for record in caplog.records if "on_join of 'async' failed: RuntimeError" in record.message]
    assert failed
    assert failed[0].levelno == logging.WARNING
    assert failed[0].exc_info


async def test_E1_a_hook_that_hangs_is_a_no_and_delays_nobody(tmp_path: Path) -> None:
    release = threading.Event()

    async def hangs(subscription: Any, ctx: Any, auth_context: Any) -> Any:
        if subscription.group_id == "hang":
            await asyncio.Event().wait()
        return {"authorized": True}

    def plain_hangs(subscription: Any, ctx: Any, auth_context: Any) -> Any:
        if subscription.group_id == "hang":
            release.wait()
        return {"authorized": True}

    async def swallows(subscription: Any, ctx: Any, auth_context: Any) -> Any:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return {"authorized": True}

    streams = [
        StreamConfig(name="async", on_join=hangs),
        StreamConfig(name="plain", on_join=plain_hangs),
        StreamConfig(name="swallows", on_join=swallows),
    ]
    try:
        async with serve(project(tmp_path, *streams, server={"join_timeout": 0.3})) as server:
            for stream in ("async", "plain", "swallows"):
                await server.motia.streams[stream].set("hang", "x", {"text": SECRET})
            client = await server.connect()
            for stream in ("async", "plain", "swallows"):
                await client.join("hang", stream=stream)
            for stream in ("async", "plain"):
                assert kind(await client.joined("g", stream=stream)) == "sync"
            for stream in ("async", "plain", "swallows"):
                denied = await client.until(partial(about, stream, "hang"))
                assert kind(denied) == "STREAM_ACCESS_DENIED"
            assert SECRET not in str(client.texts)
    finally:
        release.set()


async def test_E1_a_denial_is_what_published_clients_know(tmp_path: Path) -> None:
    """In the subscription's name, with a sentence; the same whether the stream exists or not."""

    async def never(subscription: Any, ctx: Any, auth_context: Any) -> Any:
        return {"authorized": False}

    async with serve(project(tmp_path, StreamConfig(name="documents", on_join=never))) as server:
        client = await server.connect()
        group = await client.joined("g", subscriptionId="s1")
        item = await client.joined("g", "x", subscriptionId="s2")
        unknown = await client.joined("g", stream="nothing-of-this-name")
        state = await client.joined("g", stream="$state")
    text = "no such stream, or no access to it"
    event = {"type": "error", "data": {"code": "STREAM_ACCESS_DENIED", "message": text}}
    base = {"type": "stream", "timestamp": 0, "groupId": "g", "event": event}
    assert group == {**base, "streamName": "documents"}
    assert item == {**base, "streamName": "documents", "id": "x"}
    assert unknown == {**base, "streamName": "nothing-of-this-name"}
    assert message(state) == text


class Vetoes:
    """A plugin with a say in each join."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers

    @hookimpl
    async def motia_on_join(self, subscription: Any, ctx: Any, auth_context: Any) -> Any:
        found = self.answers.get(subscription.group_id)
        if isinstance(found, BaseException):
            raise found
        return found


async def test_E1_a_plugin_may_veto_and_never_open(tmp_path: Path) -> None:
    async def on_join(subscription: Any, ctx: Any, auth_context: Any) -> Any:
        return {"authorized": not subscription.group_id.startswith("no:")}

    says: dict[str, Any] = {
        "no opinion": None,
        "yes": {"authorized": True},
        "no:yes": {"authorized": True},
        "no:none": None,
        "veto": {"authorized": False},
        "other veto": {"unauthorized": True},
        "empty": {},
        "true": True,
        "error": RuntimeError("broken plugin"),
        "exit": SystemExit(3),
        "cancelled": asyncio.CancelledError(),
    }
    motia = project(
        tmp_path,
        StreamConfig(name="documents", on_join=on_join),
        StreamConfig(name="open"),
        plugins=[Vetoes(says)],
    )
    async with serve(motia) as server:
        answers, _ = await ask(server, list(says), ["documents", "open"])
    opened = {key for key, code in answers.items() if code == "sync"}
    assert opened == {
        ("documents", "no opinion"),
        ("documents", "yes"),
        *(("open", group) for group in ("no opinion", "yes", "no:yes", "no:none")),
    }
    assert set(answers.values()) == {"sync", "STREAM_ACCESS_DENIED"}


AUTH_NO: dict[str, Any] = {
    "list": ["ada"],
    "int": 1,
    "true": True,
    "false": False,
    "text": "ada",
    "bytes": b"ada",
    "nonsense in Auth": Auth(["ada"]),  # type: ignore[arg-type]
    "Auth in Auth": Auth(Auth({})),  # type: ignore[arg-type]
    "expiry of text": Auth({}, expires_at="tomorrow"),  # type: ignore[arg-type]
    "expiry that is no number": Auth({}, expires_at=float("nan")),
    "expiry past all floats": Auth({}, expires_at=10**400),
    "expiry of truth": Auth({}, expires_at=True),
    **{f"raises {name}": error for name, error in RAISED.items()},
}


class PlainAuthenticate:
    def __call__(self, request: Any) -> Any:
        return authenticate(request)


async def authenticate(request: Any) -> Any:
    found = AUTH_NO[request.token]
    if isinstance(found, BaseException):
        raise found
    return found


def plain_authenticate(request: Any) -> Any:
    found = AUTH_NO[request.token]
    if isinstance(found, BaseException):
        raise found
    return found


@pytest.mark.parametrize(
    "hook", [authenticate, plain_authenticate, PlainAuthenticate()], ids=["async", "plain", "callable"]
)
async def test_E1_authenticate_must_say_clearly_who_it_is(tmp_path: Path, hook: Any) -> None:
    """After an accepted upgrade: an error frame and 4401, and no join is answered."""
    async with serve(project(tmp_path, authenticate=hook)) as server:
        await server.docs.set("g", "x", {"text": SECRET})
        for token in AUTH_NO:
            client = await server.connect(additional_headers={"Authorization": f"Bearer {token}"})
            with suppress(ConnectionClosed):
                await client.join("g")
            assert (token, await client.gone()) == (token, 4401)
            assert [(kind(frame), message(frame)) for frame in client.frames] == [
                ("UNAUTHENTICATED", "not authenticated")
            ], token
            assert client.frames[0]["type"] == "error"


async def test_E1_authenticate_that_hangs_is_a_no(tmp_path: Path) -> None:
    async def hangs(request: Any) -> Any:
        if request.token == "slow":
            await asyncio.Event().wait()
        return {}

    async with serve(project(tmp_path, authenticate=hangs, server={"auth_timeout": 0.3})) as server:
        slow = await server.connect("/?authToken=slow")
        quick = await server.connect("/?authToken=quick")
        await slow.join("g")
        assert kind(await quick.joined("g")) == "sync"
        assert await slow.gone() == 4401
        assert slow.kinds() == ["UNAUTHENTICATED"]


class Authenticates:
    @hookimpl
    def motia_authenticate(self, request: Any) -> Any:
        if request.token == "raise":
            raise PermissionError("no")
        if request.token == "nonsense":
            return ["ada"]
        return {"userId": "plugin"} if request.token else None


@pytest.mark.parametrize("own", [False, True])
async def test_E1_a_plugin_authenticates_who_the_project_does_not_know(tmp_path: Path, own: bool) -> None:
    async def authenticate(request: Any) -> Any:
        return {"userId": "project"} if request.token == "project" else None

    seen: list[Any] = []

    async def on_join(subscription: Any, ctx: Any, auth_context: Any) -> Any:
        seen.append(auth_context)
        return {"authorized": True}

    motia = project(
        tmp_path,
        StreamConfig(name="documents", on_join=on_join),
        plugins=[Authenticates()],
        authenticate=authenticate if own else None,
    )
    async with serve(motia) as server:
        for token in ("raise", "nonsense"):
            assert await (await server.connect(f"/?authToken={token}")).gone() == 4401
        for path in ("/?authToken=project", "/?authToken=other", "/"):
            await (await server.connect(path)).joined("g")
    assert seen == [{"userId": "project" if own else "plugin"}, {"userId": "plugin"}, None]


async def test_E2_the_contexts_of_authenticate_and_the_hooks_stay_apart(tmp_path: Path) -> None:
    """What a hook does to the context it is given changes nobody's."""
    seen: list[Any] = []

    async def authenticate(request: Any) -> Any:
        return {"userId": "ada"}

    async def on_join(subscription: Any, ctx: Any, auth_context: Any) -> Any:
        seen.append(dict(auth_context))
        auth_context["admin"] = True
        return {"authorized": True, "context": {"role": subscription.group_id}}

    stream = StreamConfig(name="documents", on_join=on_join)
    async with serve(project(tmp_path, stream, authenticate=authenticate)) as server:
        client = await server.connect()
        await client.joined("one")
        await client.joined("two")
    assert seen == [{"userId": "ada"}, {"userId": "ada"}]
