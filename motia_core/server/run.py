"""Running the application under uvicorn, with the settings that it needs."""

from __future__ import annotations

import logging
import re

import uvicorn
from starlette.types import ASGIApp

from motia_core.app import Motia
from motia_core.server.asgi import asgi_app
from motia_core.server.protocol import TransportProtocol

_TOKEN = re.compile(r"(authToken=)[^&\s\"]+")


class HideTokens(logging.Filter):
    """Takes tokens out of the request lines that uvicorn logs."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Never drops a record."""
        if isinstance(record.args, tuple):
            record.args = tuple(_TOKEN.sub(r"\1***", arg) if isinstance(arg, str) else arg for arg in record.args)
        return True


def make_server(
    motia: Motia, *, host: str | None = None, port: int | None = None, app: ASGIApp | None = None
) -> uvicorn.Server:
    """A uvicorn server for ``motia``; its ``serve()`` runs it in the current event loop.

    ``app`` is an application that contains ``asgi_app(motia)``, if it is not that alone.
    """
    settings = motia.settings.server
    for name in ("uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        if not any(isinstance(known, HideTokens) for known in logger.filters):
            logger.addFilter(HideTokens())
    config = uvicorn.Config(
        asgi_app(motia) if app is None else app,
        host=settings.host if host is None else host,
        port=settings.port if port is None else port,
        ws=TransportProtocol,
        ws_ping_interval=settings.ping_interval,
        ws_ping_timeout=settings.ping_interval,
        # Larger frames get an error and the socket lives; far larger ones are not even read.
        ws_max_size=max(16 * settings.max_frame_bytes, 1_048_576),
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=max(1, int(settings.shutdown_timeout)),
        log_level="info",
        access_log=False,
    )
    return uvicorn.Server(config)


def run(motia: Motia, *, host: str | None = None, port: int | None = None) -> None:
    """Serve until a signal says stop; then tell the clients, finish what is in hand, and close."""
    make_server(motia, host=host, port=port).run()
