"""``motia-core migrate print`` and ``apply``: what a project's storages need in their databases."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from motia_core.adapter import Adapter
from motia_core.cli.data import Project
from motia_core.cli.output import run, say
from motia_core.config import Settings
from motia_core.errors import ConfigError

Storages = Annotated[
    list[str] | None, typer.Option("--storage", "-s", help="A [storage.NAME]; may be given again.", show_default="all")
]
_NUMBER = re.compile(r"\A\d+_")


def print_migrations(
    storage: Storages = None,
    folder: Annotated[
        Path | None,
        typer.Option(help="Write files as the Supabase CLI names them, as in supabase/migrations; those there stay."),
    ] = None,
    project: Project = Path(),
) -> None:
    """Print all migrations, or write them to a folder. Nothing is opened."""
    now = datetime.now(UTC)
    number = 0
    printed: set[tuple[str, str]] = set()
    for name, adapter in _chosen(project, storage):
        for migration in adapter.migrations():
            if folder is None:
                if (adapter.address, migration.text) in printed:  # two storages in one database need it once
                    typer.echo(f"-- storage {name!r}: {migration.name}, as above")
                    continue
                printed.add((adapter.address, migration.text))
                typer.echo(f"-- storage {name!r}: {migration.name}\n{migration.text}")
                continue
            rest = _NUMBER.sub("", migration.name)
            if any(folder.glob(f"*_{rest}.sql")):
                continue
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{now + timedelta(seconds=number):%Y%m%d%H%M%S}_{rest}.sql"
            path.write_text(migration.text, encoding="utf-8")
            number += 1
            say(f"wrote {path}")


def apply_migrations(storage: Storages = None, project: Project = Path()) -> None:
    """Apply what is missing; run it again as often as you like."""

    async def work() -> None:
        for name, adapter in _chosen(project, storage):
            if not adapter.migrations():
                continue
            done = await adapter.migrate()
            for migration in done:
                say(f"storage {name!r}: applied {migration}")
            if not done:
                say(f"storage {name!r}: nothing to do")

    run(work())


def _chosen(project: Path, names: list[str] | None) -> Iterator[tuple[str, Adapter]]:
    """The storages that are meant, built and not open. Raises `ConfigError` for a name that there is not."""
    entries = Settings.load(project).storage
    for name in names or entries:
        if name not in entries:
            known = ", ".join(sorted(entries))
            raise ConfigError(f"storage {name!r} is not defined; there are: {known}")
        yield name, entries[name].build()
