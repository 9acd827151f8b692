"""Commands that read and write streams: ``get``, ``set``, ``list``, ``groups``, ``tail``.

They open the project's storages themselves and need no running server.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import orjson
import typer

from motia_core.adapter import Adapter
from motia_core.app import Motia
from motia_core.cli.output import fail, line, raw, run, say
from motia_core.errors import BackendError, ConfigError, PositionExpired
from motia_core.model import Change, StreamSpec
from motia_core.model import Item as StoredItem
from motia_core.names import check_id
from motia_core.streams import Stream

T = TypeVar("T")

PAGE = 500
"""Items or groups that are read at once."""

RETRY_FIRST, RETRY_MOST = 0.25, 5.0
"""Seconds between attempts to reach a backend that went away: the first, and the longest."""

Project = Annotated[
    Path, typer.Option("--project", "-p", envvar="MOTIA_PROJECT", help="The project's folder.", show_default="here")
]
StreamName = Annotated[str, typer.Argument(metavar="STREAM", help="A stream's name.")]
Group = Annotated[str, typer.Argument(metavar="GROUP", help="A group's id.")]
Item = Annotated[str, typer.Argument(metavar="ID", help="An item's id.")]
Limit = Annotated[int | None, typer.Option(min=1, help="How many, at most.", show_default="all")]


@dataclass(frozen=True)
class Opened:
    """A stream with the storage it lives in."""

    stream: Stream[dict[str, Any]]
    adapter: Adapter
    spec: StreamSpec


@asynccontextmanager
async def opened(project: Path, name: str) -> AsyncIterator[Opened]:
    """Open a project to work with one stream.

    Raises `ConfigError` for an unknown stream, and for one that only another process sees.
    """
    motia = Motia.from_project(project, run_triggers=False)
    if name not in motia.stream_configs:
        known = ", ".join(sorted(motia.stream_configs)) or "none"
        raise ConfigError(f"the project has no stream {name!r}; its streams: {known}")
    async with motia:
        storage_type = motia.stream_configs[name].storage_type
        adapter = motia.storages[storage_type]
        check_shared(f"stream {name!r}", storage_type, adapter, StreamSpec(name))
        yield Opened(motia.streams[name], adapter, StreamSpec(name))


def check_shared(what: str, storage_type: str, adapter: Adapter, spec: StreamSpec) -> None:
    """Raise `ConfigError` if a command's process cannot share this storage with the server's."""
    shared = adapter.capabilities(spec).multi_process
    if not shared:
        raise ConfigError(
            f"{what} lives in storage {storage_type!r}, where only the server's process can see it: {shared.note}"
        )


def get(stream: StreamName, group: Group, id: Item, project: Project = Path()) -> None:
    """Print an item."""

    async def work() -> None:
        async with opened(project, stream) as it:
            value = await it.stream.get(group, id)
        if value is None:
            raise fail(f"stream {stream!r} has no item {id!r} in group {group!r}")
        line(value)

    run(work())


def set_item(
    stream: StreamName,
    group: Group,
    id: Item,
    value: Annotated[str, typer.Argument(metavar="VALUE", help="A JSON object; - reads it from standard input.")],
    expect: Annotated[
        str | None, typer.Option(help="Write only if the item has this version, or is 'absent'.", metavar="VERSION")
    ] = None,
    ttl: Annotated[float | None, typer.Option(help="Seconds to live.", show_default="for ever")] = None,
    project: Project = Path(),
) -> None:
    """Create or replace an item; prints what happened."""
    try:
        decoded = orjson.loads(sys.stdin.buffer.read() if value == "-" else value)
    except orjson.JSONDecodeError as error:
        raise typer.BadParameter(f"is no JSON: {error}", param_hint="VALUE") from None

    async def work() -> None:
        async with opened(project, stream) as it:
            result = await it.stream.set(group, id, decoded, expect=expect, ttl=ttl)
        line(
            {
                "type": result.type,
                "version": result.version,
                "position": result.position,
                "oldValue": result.old_value,
                "newValue": result.new_value,
            }
        )

    run(work())


def list_items(
    stream: StreamName,
    group: Group,
    limit: Limit = None,
    after: Annotated[str | None, typer.Option(help="Begin behind this id.", metavar="ID")] = None,
    project: Project = Path(),
) -> None:
    """Print the items of a group, one line each: id, version and data."""

    async def work() -> None:
        async with opened(project, stream) as it:

            async def fetch(last: str | None, wanted: int) -> Sequence[StoredItem]:
                return await it.adapter.list(it.spec, check_id(group, "group id"), after=last, limit=wanted)

            async for item in paged(fetch, lambda item: item.id, after, limit):
                line({"id": item.id, "version": item.version, "data": orjson.Fragment(item.json)})

    run(work())


def groups(stream: StreamName, limit: Limit = None, project: Project = Path()) -> None:
    """Print the groups of a stream, one line each."""

    async def work() -> None:
        async with opened(project, stream) as it:

            async def fetch(last: str | None, wanted: int) -> Sequence[str]:
                return await it.stream.list_groups(after=last, limit=wanted)

            async for group in paged(fetch, str, None, limit):
                line(group)

    run(work())


async def paged(
    fetch: Callable[[str | None, int], Awaitable[Sequence[T]]],
    key: Callable[[T], str],
    after: str | None,
    limit: int | None,
) -> AsyncIterator[T]:
    """All that ``fetch(after, limit)`` has, at most ``limit``, a page at a time."""
    left = sys.maxsize if limit is None else limit
    while left > 0:
        wanted = min(left, PAGE)
        page = await fetch(after, wanted)
        for entry in page:
            yield entry
        if len(page) < wanted:
            return
        left -= len(page)
        after = key(page[-1])


def tail(
    stream: StreamName,
    group: Annotated[str | None, typer.Argument(metavar="[GROUP]", help="Only this group.", show_default=False)] = None,
    id: Annotated[str | None, typer.Option(help="Only this item of the group.", metavar="ID")] = None,
    after: Annotated[
        str | None, typer.Option(help="Begin behind this position.", metavar="POSITION", show_default="now")
    ] = None,
    project: Project = Path(),
) -> None:
    """Print changes as they happen, one line each, until interrupted.

    When the storage goes away it waits for it, and goes on where it stopped.
    """
    if id is not None and group is None:
        raise typer.BadParameter("needs a GROUP", param_hint="--id")

    async def work() -> None:
        async with opened(project, stream) as it:
            position = await it.adapter.head(it.spec) if after is None else after
            say(f"watching {stream} on {it.adapter.address}")
            async for change in changes(it, position):
                if group in (None, change.group_id) and id in (None, change.id):
                    raw(encoded(change))

    run(work())


async def changes(it: Opened, position: str) -> AsyncIterator[Change]:
    """The changes after a position, for ever, across outages of the backend.

    What the backend no longer has is told on standard error, once it is noticed.
    """
    pause = RETRY_FIRST
    while True:
        try:
            async with aclosing(it.adapter.watch(it.spec, position)) as batches:
                async for batch in batches:
                    pause = RETRY_FIRST
                    for change in batch.changes:
                        yield change
                    position = batch.position
        except PositionExpired as error:
            say(f"warning: changes are missing here: {error}")
            position = await _floor(it, pause) or position
        except BackendError as error:
            say(f"warning: {error}; trying again")
        await asyncio.sleep(pause)
        pause = min(pause * 2, RETRY_MOST)


async def _floor(it: Opened, pause: float) -> str | None:
    try:
        return await it.adapter.floor(it.spec)
    except BackendError as error:
        say(f"warning: {error}; trying again")
        await asyncio.sleep(pause)
        return None


def encoded(change: Change) -> bytes:
    """A change as JSON, with the names that the WebSocket protocol has."""
    fields: dict[str, Any] = {
        "type": change.type,
        "groupId": change.group_id,
        "id": change.id,
        "data": None if change.json is None else orjson.Fragment(change.json),
        "timestamp": change.timestamp,
        "version": change.version,
        "position": change.position,
    }
    if change.event_type is not None:
        fields["eventType"] = change.event_type
    return orjson.dumps(fields)
