"""The connection under a stream: opened, joined, and opened again whenever it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from motia_core.client._errors import AccessDenied, StreamError
from motia_core.client._wire import FORBIDDEN, RESTARTING, UNAUTHENTICATED, Backoff, Status, host_of, with_token

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

logger = logging.getLogger("motia_core.client")

Token = str | Callable[[], str | Awaitable[str | None] | None] | None
"""Text, or a function (plain or async) that is asked for it at each connect."""

PING_EVERY, PING_WAIT = 10.0, 5.0
"""Seconds: a connection that is dead without knowing it is noticed within their sum."""

_STATUS_CODES = {401: UNAUTHENTICATED, 403: FORBIDDEN}
_LOST = 1006


class Link:
    """Gives frames, one at a time, for as long as it takes.

    ``join`` makes the data of the join message from where the stream stands; ``status``
    and ``problem`` are told what happens. Only what no new connection could mend is
    raised.
    """

    def __init__(
        self,
        url: str,
        token: Token,
        max_frame_bytes: int,
        *,
        join: Callable[[], dict[str, Any]],
        status: Callable[[Status, dict[str, Any]], Awaitable[None]],
        problem: Callable[[StreamError], Awaitable[None]],
    ) -> None:
        self.failure: Exception | None = None
        """Why the last attempt, or the last connection, came to an end."""
        self._url = url
        self._token = token
        self._max_frame_bytes = max_frame_bytes
        self._join = join
        self._status = status
        self._problem = problem
        self._socket: ClientConnection | None = None
        self._closed = asyncio.Event()
        self._backoff = Backoff()
        self._wait = 0.0
        self._was_live = False
        self._renewed = False
        self._reason: StreamError | None = None

    def live(self) -> None:
        """The server has answered the join: later failures begin with short delays again."""
        self._backoff.reset()
        self._was_live = True
        self._renewed = False

    def ends_with(self, error: StreamError) -> None:
        """Keep an error that the server sent ahead of closing the connection."""
        self._reason = error

    async def frame(self) -> dict[str, Any] | None:
        """The next frame; ``None``: closed by us. Cancelling it loses no frame."""
        from websockets.exceptions import ConnectionClosed

        while not self._closed.is_set():
            if self._socket is None and not await self._open():
                continue
            socket = self._socket
            assert socket is not None
            try:
                frame = json.loads(await socket.recv())
            except ConnectionClosed as closed:
                if self._closed.is_set():
                    break
                self._socket = None
                if closed.sent is not None and closed.sent.code == 1009 and not closed.rcvd_then_sent:
                    limit = f"a frame is larger than max_frame_bytes ({self._max_frame_bytes})"
                    raise StreamError("FRAME_TOO_LARGE", limit) from closed
                await self._lost(closed, closed.rcvd.code if closed.rcvd else _LOST)
            except ValueError as error:
                logger.warning("%s sent a frame that is not JSON: %s", host_of(self._url), error)
            else:
                if isinstance(frame, dict):
                    return frame
        return None

    async def join_again(self) -> None:
        """Ask for the subscription again on the same connection, after a delay."""
        if await self._pause(self._backoff.next()) or self._socket is None:
            return
        await self._send_join(self._socket)

    async def close(self) -> None:
        """Close the connection; whoever waits in `frame` gets ``None``."""
        self._closed.set()
        socket, self._socket = self._socket, None
        if socket is not None:
            await socket.close()

    async def _open(self) -> bool:
        from websockets.asyncio.client import connect
        from websockets.exceptions import InvalidHandshake, InvalidStatus

        if await self._pause(self._wait):
            return False
        try:
            token = await self._current_token()
        except Exception as error:
            said = StreamError("TOKEN_FAILED", "the token function failed")
            said.__cause__ = error
            await self._problem(said)
            await self._lost(error, _LOST)
            return False
        url, headers = with_token(self._url, token)
        try:
            socket = await connect(
                url,
                additional_headers=headers,
                compression=None,
                max_size=self._max_frame_bytes,
                ping_interval=PING_EVERY,
                ping_timeout=PING_WAIT,
                close_timeout=2,
            )
        except (OSError, InvalidHandshake) as error:
            status = error.response.status_code if isinstance(error, InvalidStatus) else 0
            await self._lost(error, _STATUS_CODES.get(status, _LOST))
            return False
        if self._closed.is_set():
            await socket.close()
            return False
        self._reason = None
        try:
            await self._status("open", {})
            await self._send_join(socket)
        except BaseException:
            socket.transport.abort()
            raise
        self._socket = socket
        return True

    async def _send_join(self, socket: ClientConnection) -> None:
        from websockets.exceptions import ConnectionClosed

        with contextlib.suppress(ConnectionClosed):  # The next recv tells, with the close code.
            await socket.send(json.dumps({"type": "join", "data": self._join()}))

    async def _current_token(self) -> str | None:
        token = self._token() if callable(self._token) else self._token
        if inspect.isawaitable(token):
            token = await token
        if token is not None and not isinstance(token, str):
            raise TypeError(f"a token must be text or None, not {type(token).__name__}")
        return token

    async def _lost(self, failure: Exception, code: int) -> None:
        self.failure = failure
        if code == UNAUTHENTICATED and callable(self._token) and not self._renewed:
            self._renewed = True
            self._wait = 0.0
        elif code in (UNAUTHENTICATED, FORBIDDEN):
            said = "UNAUTHENTICATED" if code == UNAUTHENTICATED else "FORBIDDEN"
            raise self._reason or AccessDenied(said, f"{host_of(self._url)} refused the connection") from failure
        else:
            self._wait = self._backoff.next(soon=code in RESTARTING)
        detail = {"code": code, "attempt": self._backoff.attempt, "delay": self._wait}
        await self._status("reconnecting" if self._was_live else "connecting", detail)

    async def _pause(self, seconds: float) -> bool:
        """Wait; whether the link was closed meanwhile."""
        if seconds <= 0:
            return self._closed.is_set()
        try:
            async with asyncio.timeout(seconds):
                await self._closed.wait()
        except TimeoutError:
            return False
        return True
