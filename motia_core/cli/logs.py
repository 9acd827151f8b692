"""Where the log of a command goes."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

Level = Annotated[str, typer.Option("--log-level", envvar="MOTIA_LOG_LEVEL", help="debug, info, warning or error.")]


def log_to_stderr(level: str) -> None:
    """Log from ``level`` on. Raises ``BadParameter`` for a name that is no level."""
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise typer.BadParameter(f"{level!r} is no level; use debug, info, warning or error", param_hint="--log-level")
    logging.basicConfig(level=number, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    if number > logging.DEBUG:
        # At INFO it has a line for each request that a storage makes, several times a second.
        logging.getLogger("httpx").setLevel(max(number, logging.WARNING))
