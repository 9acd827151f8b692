"""All commands, as one application."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from motia_core.cli import data, health, migrate, scaffold, serving, triggers

app = typer.Typer(
    name="motia-core",
    help="Live streams in the database you already run.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command()(serving.demo)
app.command()(serving.dev)
app.command()(serving.serve)
app.command()(triggers.worker)
app.add_typer(triggers.triggers_app, name="triggers")
app.add_typer(triggers.dead_letters_app, name="dead-letters")
app.command()(data.tail)
app.command()(data.get)
app.command("set")(data.set_item)
app.command("list")(data.list_items)
app.command()(data.groups)
app.command()(health.plugins)
app.command()(health.doctor)
app.add_typer(migrate.migrate_app, name="migrate")
app.command()(scaffold.new_adapter)


def _version(wanted: bool) -> None:
    if wanted:
        try:
            typer.echo(version("motia-core"))
        except PackageNotFoundError:
            typer.echo("unknown (not installed)")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Live streams in the database you already run."""
