"""``motia-core migrate from-motia``: what an older Motia, or the engine after it, left in Redis."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from motia_core.app import Motia
from motia_core.cli.data import Project
from motia_core.cli.import_target import Target, target_of
from motia_core.cli.output import AsJson, line, run, say
from motia_core.errors import (
    BackendError,
    ConfigError,
    Conflict,
    InvalidValue,
    MissingDependency,
    MotiaError,
    OutcomeUnknown,
)
from motia_core.values import decode

if TYPE_CHECKING:
    from motia_adapters.redis.legacy import OldGroup, OldItem, OldStore

AT_ONCE = 50
"""Items that are written at the same time."""
INTERNAL = "__motia."
"""Begins the names of the streams that an older Motia kept for itself."""
SHOWN = 20
"""Refused and differing items that are named, of each stream; the rest is counted."""
TIMEOUT = 10.0
"""Seconds that the old store may take to answer."""


@dataclass(slots=True)
class Tally:
    """What becomes of one stream (or of state, whose name is empty)."""

    source: str
    target: str
    groups: int = 0
    items: int = 0
    new: int = 0
    same: int = 0
    """Were there already, with this value."""
    different: list[str] = field(default_factory=list)
    """Are there already with another value, which is left alone."""
    refused: list[str] = field(default_factory=list)
    """Cannot be stored, and why."""
    left_out: str = ""
    """Why nothing of it is imported."""

    @property
    def complete(self) -> bool:
        """Whether everything is there now (or would be)."""
        return not (self.different or self.refused or self.left_out) and self.new + self.same == self.items


def from_motia(
    url: Annotated[str, typer.Argument(metavar="URL", help="The old server: redis://user:password@host:6379/0")],
    apply: Annotated[bool, typer.Option("--apply", help="Import; without it, only say what would happen.")] = False,
    stream: Annotated[
        list[str] | None,
        typer.Option(metavar="OLD=NEW", help="Import a stream under another name (OLD=: not at all)."),
    ] = None,
    state: Annotated[bool, typer.Option("--state/--no-state", help="Import state, too.")] = True,
    stream_prefix: Annotated[str, typer.Option(help="Of the npm adapter's stream keys.")] = "motia:stream:",
    state_prefix: Annotated[str, typer.Option(help="Of the npm adapter's state keys.")] = "motia:state:",
    json: AsJson = False,
    project: Project = Path(),
) -> None:
    """Import streams and state from the Redis of an older Motia, or of the engine after it.

    The old store is only read. An item that is there already is never overwritten, so an
    import that was interrupted is simply run again. Exit code 1: not everything is there.
    """
    names = _renamed(stream or [])

    async def work() -> bool:
        async with _old_store(url, stream_prefix, state_prefix) as old:
            say(f"Looking at {old.address} ...")
            groups = [group for group in await old.groups() if _is_wanted(group.stream, names, state)]
            async with Motia.from_project(project, run_triggers=False) as motia:
                tallies = await _import(motia, old, groups, names, apply)
            if old.is_node_of_cluster:
                say(
                    "It is one node of a Redis Cluster, and has only some of the keys: do this for each of the masters."
                )
            unreadable = [said for name, said in old.unreadable if _is_wanted(name, names, state)]
            return _report(old.address, unreadable, tallies, apply=apply, json=json)

    if not run(work()):
        raise typer.Exit(1)


@asynccontextmanager
async def _old_store(url: str, streams: str, state: str) -> AsyncIterator[OldStore]:
    try:
        from motia_adapters.redis.legacy import OldStore
    except ModuleNotFoundError as error:
        raise MissingDependency(f'this needs {error.name}: pip install "motia-core[redis]"') from error
    async with OldStore(url, TIMEOUT, streams=streams, state=state) as old:
        yield old


def _is_wanted(stream: str, names: dict[str, str], state: bool) -> bool:
    """Not what was declined, and not the older Motia's own bookkeeping."""
    if not stream:
        return state
    return names.get(stream, stream) != "" and not (stream.startswith(INTERNAL) and stream not in names)


def _renamed(options: Iterable[str]) -> dict[str, str]:
    names = {}
    for option in options:
        old, between, new = option.rpartition("=")
        if not between or not old:
            raise typer.BadParameter(f"{option!r} is not OLD=NEW", param_hint="--stream")
        names[old] = new
    return names


async def _import(
    motia: Motia, old: OldStore, groups: list[OldGroup], names: dict[str, str], apply: bool
) -> list[Tally]:
    tallies: dict[str, Tally] = {}
    with typer.progressbar(length=sum(group.count for group in groups), label="Items", file=sys.stderr) as bar:
        for group in groups:
            name = names.get(group.stream, group.stream)
            tally = tallies.setdefault(group.stream, Tally(group.stream, name))
            tally.groups += 1
            try:
                target = target_of(motia, group.stream, name)
            except ConfigError as error:
                tally.left_out = str(error)
                tally.items += group.count
                bar.update(group.count)
                continue
            async for page in old.items(group):
                tally.items += len(page)
                for start in range(0, len(page), AT_ONCE):
                    part = page[start : start + AT_ONCE]
                    await asyncio.gather(*(_take(target, group.group, item, tally, apply) for item in part))
                bar.update(len(page))
    return list(tallies.values())


async def _take(target: Target, group: str, item: OldItem, tally: Tally, apply: bool) -> None:
    """Import one item, or say what is in the way. Raises `BackendError`."""
    where = f"group {group!r}, item {item.id!r}"
    try:
        value = _decoded(item.json)
        target.door.check(group, item.id, value)
        if apply:
            with contextlib.suppress(Conflict):
                await target.door.set(group, item.id, value, expect="absent", ttl=item.ttl)
                tally.new += 1
                return
        same = await target.has(group, item.id, value)
    except OutcomeUnknown as error:
        tally.refused.append(f"{where}: {error}; run it again")
        return
    except BackendError:
        raise
    except MotiaError as error:
        tally.refused.append(f"{where}: {error}")
        return
    if same:
        tally.same += 1
    elif same is None and apply:
        tally.refused.append(f"{where}: was there, and was removed in between; run it again")
    elif same is None:
        tally.new += 1
    else:
        tally.different.append(f"{where}: has another value here, which is left alone")


def _decoded(json: bytes) -> Any:
    """The value. A number past 64 bits becomes a float: that is what it was to those who wrote it."""
    try:
        return decode(json)
    except ValueError as error:
        raise InvalidValue(f"is no JSON: {error}") from None


def _report(address: str, unreadable: list[str], tallies: list[Tally], *, apply: bool, json: bool) -> bool:
    """Print what became of it; whether everything is there."""
    complete = not unreadable and all(tally.complete for tally in tallies)
    if json:
        for tally in tallies:
            line({**asdict(tally), "complete": tally.complete})
    else:
        for tally in tallies:
            _show(tally, "imported" if apply else "to import")
    for problem in unreadable:
        say(f"left out: {problem}")
    if not tallies:
        say(f"There is nothing of an older Motia at {address}.")
    elif not apply:
        say("Nothing was written. Add --apply to import.")
    elif complete:
        say("Everything is there. The old store is as it was.")
    else:
        say("Not everything is there: see above. What is may be run again; the old store is as it was.")
    return complete


def _show(tally: Tally, done: str) -> None:
    name = f"stream {tally.source}" if tally.source else "state"
    name += f" as {tally.target}" if tally.target != tally.source else ""
    typer.echo(f"{name}: {tally.groups} groups, {tally.items} items: {tally.new} {done}, {tally.same} there already")
    if tally.left_out:
        typer.echo(f"    left out: {tally.left_out}")
    for what, entries in (("different", tally.different), ("refused", tally.refused)):
        for entry in entries[:SHOWN]:
            typer.echo(f"    {what}: {entry}")
        if len(entries) > SHOWN:
            typer.echo(f"    {what}: {len(entries) - SHOWN} more")
