"""Commands that serve a project: ``serve``, ``dev`` and ``demo``."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from motia_core.app import Motia
from motia_core.cli.data import Project
from motia_core.cli.logs import Level, log_to_stderr
from motia_core.cli.output import fail, run, say
from motia_core.cli.reloading import supervise
from motia_core.config import Settings
from motia_core.discovery import find
from motia_core.errors import ConfigError
from motia_core.plugins import Plugins

BACKLOG = 2048
"""Connections that the operating system may hold until they are accepted."""

Host = Annotated[str | None, typer.Option(help="Address to listen on.", show_default="that of motia.toml")]
Port = Annotated[
    int | None, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.", show_default="that of motia.toml")
]


def serve(
    project: Project = Path(),
    host: Host = None,
    port: Port = None,
    no_triggers: Annotated[bool, typer.Option("--no-triggers", help="Leave triggers to `motia-core worker`.")] = False,
    log_level: Level = "info",
) -> None:
    """Serve the project's streams and HTTP steps, and run its triggers, until stopped."""
    log_to_stderr(log_level)
    run(_serve(Motia.from_project(project, run_triggers=not no_triggers), host, port))


def dev(project: Project = Path(), host: Host = None, port: Port = None, log_level: Level = "info") -> None:
    """Serve the project, and start afresh whenever one of its files changes.

    A mistake in a file is reported, and the next change tried.
    """
    if not project.is_dir():
        raise ConfigError(f"{project}: there is no such project folder")
    command = [sys.executable, "-m", "motia_core.cli", "serve", "--project", str(project), "--log-level", log_level]
    command += [] if host is None else ["--host", host]
    command += [] if port is None else ["--port", str(port)]
    run(supervise(command, project))


def demo(
    host: Host = None,
    port: Port = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the demo's data.", show_default="your user's data folder")
    ] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open a browser.")] = False,
    log_level: Level = "warning",
) -> None:
    """Show what it is: a bundled project in your browser, with nothing to install."""
    from motia_core.demo import PAGE, PROJECT

    log_to_stderr(log_level)
    storage = ((data or _data_folder()) / "streams.db").absolute()
    environ = {"MOTIA_STORAGE__DEFAULT__ADAPTER": "sqlite", "MOTIA_STORAGE__DEFAULT__PATH": str(storage)}
    plugins = Plugins.load()
    project = find(PROJECT)
    motia = Motia(
        streams=project.streams,
        steps=project.steps,
        authenticate=project.authenticate,
        plugins=plugins,
        settings=Settings.load(PROJECT, environ={**os.environ, **environ}, plugins=plugins),
    )

    def show(url: str) -> None:
        say(f"The demo is at {url} (open it in two tabs); its data is in {storage}. Ctrl-C ends it.")
        if not no_open:
            asyncio.get_running_loop().run_in_executor(None, webbrowser.open, url)

    run(_serve(motia, host, port, page=PAGE, ready=show))


async def _serve(
    motia: Motia,
    host: str | None,
    port: int | None,
    *,
    page: Path | None = None,
    ready: Callable[[str], None] = lambda url: say(f"Serving on {url}"),
) -> None:
    from motia_core.cli.pages import with_page
    from motia_core.server import asgi_app, make_server

    settings = motia.settings.server
    # The demo, which nobody configured, makes do with another port.
    any_port = page is not None and port is None
    listening = _listen(host or settings.host, settings.port if port is None else port, any_port)
    url = _url(listening)
    with contextlib.closing(listening):
        # uvicorn repeats the signal that stopped it: by then it must find a handler, or
        # it would end the process before the storages are closed.
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError):
                loop.add_signal_handler(number, lambda: None)
        async with motia:
            app = asgi_app(motia)
            server = make_server(motia, app=app if page is None else with_page(app, page))
            logging.getLogger("uvicorn.error").setLevel(logging.getLogger().level)
            serving = asyncio.create_task(server.serve(sockets=[listening]))
            while not server.started and not serving.done():  # noqa: ASYNC110  (uvicorn has nothing to wait for)
                await asyncio.sleep(0.01)
            if server.started:
                ready(url)
            await serving


def _listen(host: str, port: int, any_port: bool) -> socket.socket:
    """A bound socket; with ``any_port`` on another port if that one is taken."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise fail(f"cannot listen on {host}: {error.strerror}") from None
    try:
        if os.name == "posix":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)  # of two that bind at once, only this tells who was first
    except OSError as error:
        listening.close()
        if any_port and port:
            return _listen(host, 0, False)
        raise fail(f"cannot listen on {host}, port {port}: {error.strerror}") from None
    return listening


def _url(listening: socket.socket) -> str:
    address: tuple[str, int] = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address[0], address[0])
    return f"http://[{host}]:{address[1]}" if ":" in host else f"http://{host}:{address[1]}"


def _data_folder() -> Path:
    """Where this user's programs keep data, or a temporary folder if that cannot be written."""
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    folder = base / "motia-core" / "demo"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return Path(tempfile.mkdtemp(prefix="motia-demo-"))
