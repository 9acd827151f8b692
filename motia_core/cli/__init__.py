"""The command ``motia-core``.

Data goes to standard output as JSON, everything else to standard error. Exit codes: 0,
1 for an error of the project or its storages, 2 for a wrong command line. Needs the extra
``cli`` (``pip install "motia-core[cli]"``).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from motia_core.errors import MotiaError
from motia_core.masking import mask_urls

_EXTRA = ("typer", "rich", "uvicorn", "starlette", "watchfiles", "websockets", "httptools")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line ``arguments`` (those of the process if left out); raises ``SystemExit``."""
    try:
        from motia_core.cli.commands import app
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _EXTRA:
            raise
        sys.exit(f'error: this command needs {error.name}; install it with: pip install "motia-core[cli]"')
    try:
        app(arguments, prog_name="motia-core")
    except MotiaError as error:
        if os.environ.get("MOTIA_TRACEBACK", "") not in ("", "0"):
            raise
        sys.exit(f"error: {mask_urls(str(error))}")
