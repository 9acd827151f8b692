"""``motia-core migrate``: bring a storage, or old data, to where this version wants it."""

from __future__ import annotations

from pathlib import Path

import typer

from motia_core.cli.data import Project, StreamName, opened
from motia_core.cli.importing import from_motia
from motia_core.cli.output import run, say
from motia_core.cli.preparing import apply_migrations, print_migrations

migrate_app = typer.Typer(help="Prepare storages, and import old data.", no_args_is_help=True)
migrate_app.command("print")(print_migrations)
migrate_app.command("apply")(apply_migrations)
migrate_app.command()(from_motia)


@migrate_app.command()
def new_history(stream: StreamName, project: Project = Path()) -> None:
    """Expire all positions of a stream, after its store was restored in a way that nobody could notice.

    Clients get a fresh sync, triggers report a gap. `motia-core doctor` and the adapter's page
    say which ways there are.
    """

    async def work() -> None:
        async with opened(project, stream) as it:
            await it.adapter.begin_history(it.spec)
            say(f"stream {stream} has begun a new history at {it.adapter.address}")

    run(work())
