"""``motia-core migrate``: bring a storage, or old data, to where this version wants it."""

from __future__ import annotations

import typer

from motia_core.cli.importing import from_motia
from motia_core.cli.preparing import apply_migrations, print_migrations

migrate_app = typer.Typer(help="Prepare storages, and import old data.", no_args_is_help=True)
migrate_app.command("print")(print_migrations)
migrate_app.command("apply")(apply_migrations)
migrate_app.command()(from_motia)
