"""The server: WebSocket streams and HTTP steps as one ASGI application."""

from motia_core.server.asgi import asgi_app
from motia_core.server.run import make_server, run

__all__ = ["asgi_app", "make_server", "run"]
