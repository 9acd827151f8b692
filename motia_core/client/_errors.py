"""What can go wrong for a client.

    MotiaError
    ├── StreamError            the server reported an error, with its code
    │   ├── AccessDenied       the token or the subscription was refused
    │   └── ServerUnavailable  the server could not be reached in time
    └── AccessDenied           the core's: the client's is one of these too

No message holds a token.
"""

from __future__ import annotations

from typing import Any

import motia_core.errors
from motia_core.errors import MotiaError


class StreamError(MotiaError):
    """The server reported an error that ends the subscription, or that will pass.

    ``code`` is stable and meant for programs; ``data`` is all that the server said.
    """

    def __init__(self, code: str, message: str = "", *, data: Any = None) -> None:
        super().__init__(f"{message or 'the server reported an error'} [{code}]")
        self.code = code
        self.data = data


class AccessDenied(StreamError, motia_core.errors.AccessDenied):
    """The server refused the token, or this subscription."""


class ServerUnavailable(StreamError):
    """The server could not be reached, or did not answer, in the time that was given."""
