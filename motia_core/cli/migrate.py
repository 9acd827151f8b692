"""``motia-core migrate``: bring a storage, or old data, to where this version wants it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from motia_core.app import Motia
from motia_core.cli.data import Project, check_shared
from motia_core.cli.importing import from_motia
from motia_core.cli.output import run, say
from motia_core.cli.preparing import apply_migrations, print_migrations
from motia_core.errors import ConfigError
from motia_core.model import StreamSpec
from motia_core.states import STATE
from motia_core.triggers import QUEUE

migrate_app = typer.Typer(help="Prepare storages, and import old data.", no_args_is_help=True)
migrate_app.command("print")(print_migrations)
migrate_app.command("apply")(apply_migrations)
migrate_app.command()(from_motia)


@migrate_app.command()
def new_history(
    streams: Annotated[list[str] | None, typer.Argument(metavar="[STREAM]...", help="The streams.")] = None,
    storage: Annotated[
        str | None, typer.Option("--storage", "-s", help="All streams of a [storage.NAME], and state and queues there.")
    ] = None,
    project: Project = Path(),
) -> None:
    """Expire all positions of streams, after their store was restored in a way that nobody could notice.

    Clients get a fresh sync, triggers report a gap. `motia-core doctor` and the adapter's page
    say which ways there are.
    """
    if not streams and storage is None:
        raise typer.BadParameter("name streams, or a whole --storage")
    motia = Motia.from_project(project, run_triggers=False)

    names = _named(motia, streams or [], storage)

    async def work() -> None:
        async with motia:
            for name in names:
                adapter = motia.storages[motia.homes[name]]
                spec = {STATE.name: STATE, QUEUE.name: QUEUE}.get(name) or StreamSpec(name)
                check_shared(f"stream {name!r}", motia.homes[name], adapter, spec)
                await adapter.begin_history(spec)
                say(f"stream {name} has begun a new history at {adapter.address}")

    run(work())


def _named(motia: Motia, streams: list[str], storage: str | None) -> list[str]:
    """The streams that were asked for, each once. Raises `ConfigError` for what the project does not have."""
    own = sorted(motia.stream_configs)
    if unknown := [name for name in streams if name not in own]:
        raise ConfigError(f"the project has no stream {unknown[0]!r}; its streams: {', '.join(own) or 'none'}")
    if storage is not None and storage not in motia.settings.storage:
        known = ", ".join(sorted(motia.settings.storage))
        raise ConfigError(f"the project has no storage {storage!r}; its storages: {known}")
    kept = [*own, STATE.name, *([QUEUE.name] if motia.enqueuer.is_used else [])]
    return [name for name in kept if name in streams or motia.homes[name] == storage]
