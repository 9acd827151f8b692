"""The way to the server: which node of a Cluster has a stream, and what errors mean."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from hiredis import ReplyError

from motia_adapters.redis.failures import closed, code_of, refused, unreachable
from motia_adapters.redis.keys import Keys, keys_of
from motia_adapters.redis.link import Argument, Lost
from motia_adapters.redis.node import Node, parse_info
from motia_adapters.redis.options import RedisOptions
from motia_adapters.redis.scripts import ALL, Script
from motia_core.errors import BackendError, BackendUnavailable, OutcomeUnknown

REDIRECTIONS = 5
"""MOVED and NOSCRIPT replies to one command, at most."""
_RUN_ID = 8  # where the write script's call holds the run id of the node


class Connection:
    """The server that was configured, and the others of its Cluster as they are needed.

    Every command of a stream goes to one node, as all its keys are in one slot.
    """

    def __init__(self, options: RedisOptions, timeout: float) -> None:
        self._options = options
        self._timeout = timeout
        self._seed = Node(options, timeout, options.host, options.port)
        self._nodes = {(options.host, options.port): self._seed}
        self._confirming: dict[Node, Node] = {}
        """The same servers, by connections of their own: WAIT keeps all that is sent behind it waiting."""
        self._routes: dict[str, Node] = {}
        self._open = False

    @property
    def address(self) -> str:
        """The configured server's URL, without secrets."""
        return self._seed.address

    @property
    def is_open(self) -> bool:
        """Whether it may be used."""
        return self._open

    @property
    def seed(self) -> Node:
        """The configured server."""
        return self._seed

    async def open(self) -> None:
        """Connect. Raises `BackendUnavailable`, or `BackendError` for a server that must not be used."""
        await self._seed.link()
        self._open = True
        if self._options.replicas:
            try:
                await self.read(keys_of("", ""), ("WAIT", 0, 1))  # of none: only whether it is allowed
            except BaseException:
                await self.close()
                raise

    async def close(self) -> None:
        """End all connections."""
        self._open = False
        await asyncio.gather(*(node.close() for node in (*self._nodes.values(), *self._confirming.values())))

    def check_open(self) -> None:
        """Raise `BackendUnavailable` unless it is open."""
        if not self._open:
            raise closed(self.address)

    async def read(self, keys: Keys, *commands: Sequence[Argument]) -> list[Any]:
        """The replies to commands that change nothing that is seen: they may be sent again.

        Raises `BackendUnavailable`, or `BackendError` for an error reply.
        """
        for again in (True, False):
            try:
                return await self._send(keys, commands)
            except Lost as lost:
                # A connection that died unnoticed while nobody used it is no outage yet.
                if not again or "no reply" in str(lost):
                    raise unreachable(lost, self.address, "read") from lost
        raise AssertionError

    async def run(self, keys: Keys, script: Script, *arguments: Argument) -> Any:
        """The reply of a script that only reads, or that may run again."""
        (reply,) = await self.read(keys, _evalsha(keys, script, arguments))
        return reply

    def post(self, keys: Keys, script: Script, arguments: Sequence[Argument]) -> asyncio.Future[Any] | None:
        """As `write`, but sent at once and with the driver's own errors; ``None``, nothing sent: use `write`."""
        node = self._routes.get(keys.prefix, self._seed)
        link = node.connected
        if link is None or self._options.replicas or not self._open:
            return None
        prefix, _, *rest = arguments
        return link.send(*_evalsha(keys, script, (prefix, node.run_id, *rest)))

    async def write(self, keys: Keys, script: Script, arguments: Sequence[Argument], *, confirmed: bool = True) -> Any:
        """The reply of the write script, which is never sent again once it may have run.

        Each node's run id is put in the place of argument 1. Raises `OutcomeUnknown` if no reply came, or
        (if it has to be ``confirmed``) too few replicas have it.
        """
        commands = [_evalsha(keys, script, arguments)]
        wanted = self._options.replicas if confirmed else 0
        if wanted:
            commands.append(("WAIT", wanted, max(1, int(self._timeout * 500))))  # ends before the timeout does
        try:
            reply, *having = await self._send(keys, commands, is_write=True)
        except Lost as lost:
            raise self.unknown(keys, lost) from lost
        if wanted and having[0] < wanted:
            raise OutcomeUnknown(
                f"redis: a write is stored at {self.address}, but {having[0]} of {wanted} replicas confirmed it in"
                " time: a failover may lose it (bring the replicas back, or ask for fewer: replicas = ...)"
            )
        return reply

    def refusal(self, keys: Keys, error: ReplyError) -> BackendError | None:
        """The error for a reply to `post`; ``None``: the script did not run, and `write` finds the way."""
        if code_of(str(error)) in ("NOSCRIPT", "MOVED"):
            return None
        node = self._routes.get(keys.prefix, self._seed)
        _leave_replica(node, error)
        return refused(error, node.address, "use the stream")

    def unknown(self, keys: Keys, lost: Lost) -> OutcomeUnknown:
        """The error of a write whose reply was lost; the next one looks for the stream's node again."""
        self._routes.pop(keys.prefix, None)
        return OutcomeUnknown(
            f"redis: a write was sent to {self.address} and no reply came ({lost}): it may have happened"
        )

    async def _send(self, keys: Keys, commands: Sequence[Sequence[Argument]], *, is_write: bool = False) -> list[Any]:
        """Send to the node that has the stream, going where it redirects us."""
        problem: ReplyError | None = None
        for _ in range(REDIRECTIONS):
            self.check_open()
            route = self._routes.get(keys.prefix, self._seed)
            node = route if len(commands) == 1 or not is_write else self._confirmer(route)
            try:
                link = await node.link()
            except BackendUnavailable:
                self._routes.pop(keys.prefix, None)
                raise
            if is_write:
                command, *more = commands
                commands = [[*command[:_RUN_ID], node.run_id, *command[_RUN_ID + 1 :]], *more]
            futures = [link.send(*command) for command in commands]
            try:
                return [await future for future in futures]
            except Lost:
                self._routes.pop(keys.prefix, None)
                raise
            except ReplyError as error:
                if is_write and futures[0].exception() is None:  # WAIT failed, and the script had run
                    raise OutcomeUnknown(
                        f"redis: a write is stored at {node.address}, but not known to be on replicas: {error}"
                    ) from error
                problem = error
            code = code_of(str(problem))
            if code == "NOSCRIPT":
                await self._load_scripts(node)
            elif code == "MOVED":
                self._routes[keys.prefix] = self._node(str(problem).split(" ")[2], node)
            else:
                _leave_replica(node, problem)
                _leave_replica(route, problem)
                raise refused(problem, node.address, "use the stream") from problem
        raise BackendError(f"redis: {self.address} redirects too often: {problem}") from problem

    async def describe(self) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """What INFO and, where it is allowed, CONFIG GET say of the configured server."""
        keys = keys_of("", "")
        (info,) = await self.read(keys, ("INFO",))
        config: dict[str, str] = {}
        with contextlib.suppress(BackendError):
            for name in ("appendfsync", "save"):
                (pair,) = await self.read(keys, ("CONFIG", "GET", name))
                config.update(zip(*[iter(part.decode() for part in pair)] * 2, strict=True))
        return parse_info(info), config

    def _node(self, where: str, asked: Node) -> Node:
        host, _, port = where.rpartition(":")
        found = (host or asked.host, int(port))
        if found not in self._nodes:
            self._nodes[found] = Node(self._options, self._timeout, *found)
        return self._nodes[found]

    def _confirmer(self, node: Node) -> Node:
        if node not in self._confirming:
            self._confirming[node] = Node(self._options, self._timeout, node.host, node.port)
        return self._confirming[node]

    async def _load_scripts(self, node: Node) -> None:
        link = await node.link()
        try:
            for sent in [link.send("SCRIPT", "LOAD", script.source) for script in ALL]:
                await sent
        except Lost as lost:  # what the scripts were for was refused before
            raise unreachable(lost, node.address, "load the scripts") from lost
        except ReplyError as error:
            raise refused(error, node.address, "load the scripts") from error


def _leave_replica(node: Node, error: ReplyError) -> None:
    """After a primary became a replica: look again who is one."""
    if code_of(str(error)) == "READONLY" and node.connected is not None:
        node.connected.abort("the server is a replica now")


def _evalsha(keys: Keys, script: Script, arguments: Sequence[Argument]) -> Sequence[Argument]:
    return ["EVALSHA", script.sha, 4, *keys.fixed, *arguments]
