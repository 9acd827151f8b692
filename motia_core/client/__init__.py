"""The stream clients: `connect_stream` for Python, and ``client.js`` for browsers and Node.

Needs the extra ``client`` (``pip install "motia-core[client]"``).
"""

from __future__ import annotations

from importlib.resources import files

from motia_core.client._client import StreamConnection, connect_stream
from motia_core.client._errors import AccessDenied, ServerUnavailable, StreamError
from motia_core.client._wire import Status, StreamChange

__all__ = [
    "AccessDenied",
    "ServerUnavailable",
    "Status",
    "StreamChange",
    "StreamConnection",
    "StreamError",
    "connect_stream",
    "javascript",
]


def javascript(name: str = "client.js") -> bytes:
    """The JavaScript client as it is served: ``client.js``, or its types, ``client.d.ts``."""
    if name not in ("client.js", "client.d.ts"):
        raise ValueError(f"no file {name!r} in the client: 'client.js' or 'client.d.ts'")
    return files(__name__).joinpath(name).read_bytes()
