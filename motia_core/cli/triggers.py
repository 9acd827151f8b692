"""Commands about durable triggers: ``worker``, ``triggers`` and ``dead-letters``.

All but ``worker`` read and write the records beside the data; they need no running server.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from motia_core.app import Motia
from motia_core.cli.data import Project
from motia_core.cli.logs import Level, log_to_stderr
from motia_core.cli.output import AsJson, fail, line, run, say
from motia_core.errors import ConfigError
from motia_core.plugin_checks import suggestion
from motia_core.triggers import LAG_COUNTED, DeadLetter, Runner, TriggerStatus, described

Name = Annotated[str, typer.Argument(metavar="TRIGGER", help="As `motia-core triggers` shows it.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="ID...", help="Which; all if left out.")]

triggers_app = typer.Typer(help="Look at the durable triggers, and mend them.", invoke_without_command=True)
dead_letters_app = typer.Typer(help="Look at what was given up; try it again, or forget it.", no_args_is_help=True)


def worker(project: Project = Path(), log_level: Level = "info") -> None:
    """Run the project's triggers, without a server, until stopped."""
    log_to_stderr(log_level)
    motia = Motia.from_project(project)
    if not motia.durable_steps.triggers:
        raise ConfigError(f"{project}: no step has a stream, state, queue or cron trigger")

    async def work() -> None:
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError):
                loop.add_signal_handler(number, stopped.set)
        async with motia:
            count = sum(map(len, motia.durable_steps.triggers.values()))
            say(f"Running {count} trigger{'s' * (count != 1)}")
            await stopped.wait()

    run(work())


@triggers_app.callback()
def triggers(context: typer.Context, json: AsJson = False, project: Project = Path()) -> None:
    """List the triggers that the storages know: partitions, owners, lag, last error."""
    if context.invoked_subcommand is not None:
        return

    async def work() -> None:
        async with _opened(project) as runners:
            for storage, runner in runners.items():
                for status in await runner.status():
                    if json:
                        line({"storage": storage, **asdict(status)})
                    else:
                        _show(storage, status)

    run(work())


@triggers_app.command()
def drop(trigger: Name, project: Project = Path()) -> None:
    """Forget a trigger that no step declares any more, with its dead letters."""

    async def work() -> None:
        async with _found(project, trigger) as (runner, status):
            await runner.drop(status.key)
        say(f"dropped {trigger}")

    run(work())


@triggers_app.command()
def resize(
    trigger: Name,
    partitions: Annotated[int, typer.Argument(min=1, max=65_536, help="How many there shall be.")],
    project: Project = Path(),
) -> None:
    """Give a trigger another number of partitions; running workers do it within seconds."""

    async def work() -> None:
        async with _found(project, trigger) as (runner, status):
            await runner.resize(status.key, partitions)
        say(f"asked for {partitions} partitions of {trigger}")

    run(work())


@dead_letters_app.command("list")
def list_letters(
    trigger: Annotated[
        str | None, typer.Argument(metavar="TRIGGER", help="Of which trigger; of all if left out.")
    ] = None,
    json: AsJson = False,
    project: Project = Path(),
) -> None:
    """List what was given up after its last attempt, and what was lost before it was read."""

    async def work() -> None:
        async with _opened(project) as runners:
            found = await _statuses(runners)
            if trigger is not None:
                _known(trigger, found)
            for runner, status in found:
                if trigger in (None, status.name):
                    letters = await runner.dead_letters(status.key)
                    for letter in await letters.list():
                        _show_letter(status.name, letter, json)
                    for gap in await letters.gaps():
                        _show_gap(status.name, asdict(gap), json)

    run(work())


@dead_letters_app.command()
def show(trigger: Name, id: Annotated[str, typer.Argument(metavar="ID")], project: Project = Path()) -> None:
    """Print one dead letter, with its change and its last error."""

    async def work() -> None:
        async with _found(project, trigger) as (runner, status):
            letter = await (await runner.dead_letters(status.key)).get(id)
        line(_letter(status.name, letter))

    run(work())


@dead_letters_app.command()
def retry(trigger: Name, ids: Ids = None, project: Project = Path()) -> None:
    """Have dead letters handled again, with all their attempts; out of order with what came after them."""

    async def work() -> None:
        async with _found(project, trigger) as (runner, status):
            count = await (await runner.dead_letters(status.key)).retry(*(ids or ()))
        say(f"asked for {count} to be tried again; a running worker does it")

    run(work())


@dead_letters_app.command("drop")
def drop_letters(
    trigger: Name,
    ids: Ids = None,
    all: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    project: Project = Path(),
) -> None:
    """Forget dead letters for good."""
    if bool(ids) == all:
        raise typer.BadParameter("name the dead letters, or say --all", param_hint="ID...")

    async def work() -> None:
        async with _found(project, trigger) as (runner, status):
            count = await (await runner.dead_letters(status.key)).drop(*(ids or ()))
        say(f"dropped {count}")

    run(work())


@asynccontextmanager
async def _opened(project: Path) -> AsyncIterator[dict[str, Runner]]:
    """The project's runners, by storage type; none of them runs."""
    async with Motia.from_project(project, run_triggers=False) as motia:
        yield motia.durable_steps.inspect(motia.storages)


@asynccontextmanager
async def _found(project: Path, name: str) -> AsyncIterator[tuple[Runner, TriggerStatus]]:
    async with _opened(project) as runners:
        yield _known(name, await _statuses(runners))


async def _statuses(runners: dict[str, Runner]) -> Sequence[tuple[Runner, TriggerStatus]]:
    return [(runner, status) for runner in runners.values() for status in await runner.status()]


def _known(name: str, found: Sequence[tuple[Runner, TriggerStatus]]) -> tuple[Runner, TriggerStatus]:
    for runner, status in found:
        if status.name == name:
            return runner, status
    raise fail(f"there is no trigger {name!r}{suggestion(name, [status.name for _, status in found])}")


def _show(storage: str, status: TriggerStatus) -> None:
    workers = f"{len(status.workers)} worker{'s' * (len(status.workers) != 1)}"
    owned = sum(partition.owner is not None for partition in status.partitions)
    parked = sum(max(0, partition.parked) for partition in status.partitions)
    behind = (
        "an unknown number of" if status.behind is None else f"{status.behind}{'+' * (status.behind >= LAG_COUNTED)}"
    )
    state = "" if status.declared else "  (no step declares it: motia-core triggers drop)"
    typer.echo(f"{status.name}{state}")
    typer.echo(f"    storage {storage}, {workers}, {owned} of {len(status.partitions)} partitions owned")
    typer.echo(f"    {behind} changes to be handled, {parked} to be tried again")
    if status.last_error:
        typer.echo(f"    last error: {status.last_error}")


def _letter(trigger: str, letter: DeadLetter) -> dict[str, Any]:
    change = letter.change
    return {
        "trigger": trigger,
        "id": letter.id,
        "attempts": letter.attempts,
        "error": letter.error,
        "requested": letter.requested,
        "change": {
            "type": change.type,
            "streamName": change.stream,
            "groupId": change.group_id,
            "id": change.id,
            "timestamp": change.timestamp,
            "position": change.position,
            "data": None if change.json is None else orjson.Fragment(change.json),
        },
    }


def _show_letter(trigger: str, letter: DeadLetter, json: bool) -> None:
    if json:
        line(_letter(trigger, letter))
        return
    change = letter.change
    again = "  (will be tried again)" if letter.requested else ""
    what = described(change)
    typer.echo(f"{trigger}  {letter.id}{again}")
    typer.echo(f"    {what}, {letter.attempts} attempts, last error: {letter.error}")
    sys.stdout.flush()


def _show_gap(trigger: str, gap: dict[str, Any], json: bool) -> None:
    if json:
        line({"trigger": trigger, "gap": gap})
    else:
        typer.echo(f"{trigger}  lost from {gap['start']} to {gap['end']}: {gap['reason']}")
