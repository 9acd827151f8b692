"""One server (or node of a Cluster): connecting, logging in, refusing what would lose data."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Mapping
from typing import Any

from hiredis import ReplyError

from motia_adapters.redis import scripts
from motia_adapters.redis.failures import refused, unreachable
from motia_adapters.redis.link import Argument, Link, Lost
from motia_adapters.redis.options import RedisOptions

OLDEST = (6, 2)
"""The oldest version of Redis whose commands are enough."""


class Node:
    """Where one server is, and the connection to it, made anew whenever it is needed and gone."""

    def __init__(self, options: RedisOptions, timeout: float, host: str, port: int) -> None:
        self.run_id = ""
        """The run of the server at the other end of the connection."""
        self.facts: Mapping[str, str] = {}
        """What INFO said when it was connected."""
        self.host, self.port = host, port
        self.address = options.model_copy(update={"host": host, "port": port}).address
        self._options = options
        self._timeout = timeout
        self._tls: ssl.SSLContext | None = None
        self._link: Link | None = None
        self._connecting: asyncio.Task[Link] | None = None

    @property
    def connected(self) -> Link | None:
        """The connection, if it is there."""
        return self._link if self._link is not None and self._link.closed is None else None

    async def link(self) -> Link:
        """The connection. Raises `BackendUnavailable` or `BackendError` within the timeout."""
        if (link := self.connected) is not None:
            return link
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._connect(), name="motia-redis-connect")
        # Whoever is cancelled leaves the connection to the others.
        return await asyncio.shield(self._connecting)

    async def listen(self, heard: Callable[[Any], None], lost: Callable[[], None]) -> Link:
        """A connection of its own for Pub/Sub, logged in; replies go to ``heard``."""
        hear = _Switch()
        link = await self._open(hear, lost)
        try:
            async with asyncio.timeout(self._timeout):
                for command in self._greeting():
                    reply = await hear.ask(link, *command)
                    if isinstance(reply, ReplyError):
                        raise refused(reply, self.address, "log in")
        except TimeoutError as error:
            link.abort("no reply")
            raise unreachable(error, self.address, "connect") from error
        except BaseException:
            link.abort("not logged in")
            raise
        hear.to = heard
        return link

    async def close(self) -> None:
        """End the connection."""
        if self._connecting is not None:
            self._connecting.cancel()
            with contextlib.suppress(BaseException):
                await asyncio.gather(self._connecting, return_exceptions=True)
        if self._link is not None:
            await self._link.end()
            self._link = None

    async def dial(self) -> Link:
        """A connection that is logged in and nobody else's. Raises as `link` does, but takes any server."""
        link, _ = await self._dial()
        return link

    async def _connect(self) -> Link:
        link, (*_, info) = await self._dial(*(("SCRIPT", "LOAD", script.source) for script in scripts.ALL), ("INFO",))
        facts = parse_info(info)
        try:
            self._judge(facts)
        except BaseException:
            link.abort("refused")
            raise
        self.facts, self.run_id, self._link = facts, facts.get("run_id", ""), link
        return link

    async def _dial(self, *commands: tuple[Argument, ...]) -> tuple[Link, list[Any]]:
        """A connection that is logged in, and the replies to what else is sent at once."""
        link = await self._open()
        try:
            async with asyncio.timeout(self._timeout):
                sent = [link.send(*command) for command in (*self._greeting(), *commands)]
                return link, [await reply for reply in sent]
        except (Lost, TimeoutError) as error:
            link.abort("no reply")
            raise unreachable(error, self.address, "connect") from error
        except ReplyError as error:
            link.abort("refused")
            raise refused(error, self.address, "connect") from error
        except BaseException:
            link.abort("not connected")
            raise

    async def _open(self, hear: Callable[[Any], None] | None = None, lost: Callable[[], None] | None = None) -> Link:
        loop = asyncio.get_running_loop()
        link: Link | None = None
        try:
            if self._options.tls and self._tls is None:
                self._tls = self._options.ssl_context()

            def make() -> Link:
                nonlocal link
                link = Link(loop, self._timeout, hear, lost)
                return link

            async with asyncio.timeout(self._timeout):
                _, made = await loop.create_connection(make, self.host, self.port, ssl=self._tls)
            return made
        except (OSError, TimeoutError) as error:
            if link is not None:
                link.abort("not connected")
            raise unreachable(error, self.address, "connect") from error

    def _greeting(self) -> list[tuple[Argument, ...]]:
        options = self._options
        commands: list[tuple[Argument, ...]] = []
        if options.password is not None:
            user = () if options.username is None else (options.username,)
            commands.append(("AUTH", *user, options.password.get_secret_value()))
        if options.db:
            commands.append(("SELECT", options.db))
        commands.append(("CLIENT", "SETNAME", "motia-core"))
        return commands

    def _judge(self, facts: Mapping[str, str]) -> None:
        """Refuse servers that could not keep their word."""
        version = facts.get("redis_version", "0")
        numbers = tuple(int(part) if part.isdecimal() else 0 for part in version.split(".")[:2])
        if numbers < OLDEST:
            raise refused(f"UNKVERSION the server is Redis {version}", self.address, "connect")
        policy = facts.get("maxmemory_policy", "")
        if policy.startswith("allkeys-"):
            raise refused(
                f"EVICTION its maxmemory-policy is {policy}: it removes data in silence", self.address, "connect"
            )
        if facts.get("role") == "slave":
            raise refused("READONLY the server is a replica", self.address, "connect")


class _Switch:
    """Where the replies of a listening connection go: to who asks while it logs in, then to ``to``."""

    def __init__(self) -> None:
        self.to: Callable[[Any], None] | None = None
        self._asked: asyncio.Future[Any] | None = None

    async def ask(self, link: Link, *command: Argument) -> Any:
        self._asked = asyncio.get_running_loop().create_future()
        link.push(*command)
        return await self._asked

    def __call__(self, reply: Any) -> None:
        if self.to is not None:
            self.to(reply)
        elif self._asked is not None and not self._asked.done():
            self._asked.set_result(reply)


def parse_info(info: bytes) -> dict[str, str]:
    """The reply to INFO, by name."""
    lines = info.decode("utf-8", "replace").splitlines()
    return {key: value for key, colon, value in (line.partition(":") for line in lines) if colon}
