"""A folder of static files in front of an application."""

from __future__ import annotations

from pathlib import Path

from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send


def with_page(app: ASGIApp, folder: Path) -> ASGIApp:
    """``app``, with ``folder`` at its root: the files there are now, ``index.html`` as ``/``."""
    files = StaticFiles(directory=folder, html=True)
    paths = {"/", *(f"/{file.relative_to(folder).as_posix()}" for file in folder.rglob("*") if file.is_file())}

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        ours = scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and scope["path"] in paths
        await (files if ours else app)(scope, receive, send)

    return serve
