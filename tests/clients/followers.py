"""Both clients behind one interface: open a stream, and wait for what it sees."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Callable
from typing import Any

from motia_core.client import StreamChange, StreamConnection, StreamError, connect_stream

DEADLINE = 10.0
"""Seconds until a wait is given up."""

Record = dict[str, Any]


class Follower:
    """A stream and what it has seen, whichever client is behind."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._news = asyncio.Event()

    def add(self, record: Record) -> None:
        self.records.append(record)
        self._news.set()

    async def until(self, wanted: Callable[[Record], bool], since: int = 0) -> Record:
        """The first record that is wanted; waits for it."""
        try:
            async with asyncio.timeout(DEADLINE):
                while True:
                    for record in self.records[since:]:
                        if wanted(record):
                            return record
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"not seen within {DEADLINE} s; seen: {self.records[since:]}") from None

    async def named(self, name: str, since: int = 0) -> Record:
        return await self.until(lambda record: record["name"] == name, since)

    async def status(self, status: str, since: int = 0) -> Record:
        return await self.until(lambda record: record["name"] == "status" and record["status"] == status, since)

    async def at(self, position: str) -> Record:
        """The delivery with this position."""
        return await self.until(lambda record: bool(record.get("change")) and record["change"]["position"] == position)

    def deliveries(self) -> list[tuple[str, Any]]:
        """Names and data of all deliveries, in order."""
        return [(record["name"], record["data"]) for record in self.records if "change" in record]

    async def close(self) -> None:
        raise NotImplementedError


class Clients:
    """Opens followers of one client."""

    async def open(self, stream: str, **options: Any) -> Follower:
        raise NotImplementedError


class PythonFollower(Follower):
    def __init__(self, stream: StreamConnection, custom: tuple[str, ...]) -> None:
        super().__init__()
        self.stream = stream
        self.task: asyncio.Task[None] | None = None
        for name in ("sync", "create", "update", "delete", "event", *custom):
            stream.on(name, lambda change, name=name: self.add(self._record(name, change)))
        stream.on("status", lambda status, detail: self.add({"name": "status", "status": status, "detail": detail}))
        stream.on("error", self._failed)

    def _record(self, name: str, change: StreamChange) -> Record:
        told = {field: getattr(change, field) for field in change.__dataclass_fields__}
        data = {"type": change.event_type, "data": change.data} if name == "event" else change.data
        return {"name": name, "data": data, "change": told}

    def _failed(self, error: StreamError) -> None:
        self.add({"name": "error", "code": error.code, "message": str(error), "kind": type(error).__name__})

    async def run(self) -> None:
        try:
            async with self.stream:
                await self.stream.run()
        except StreamError as error:
            self._failed(error)

    async def close(self) -> None:
        await self.stream.close()
        assert self.task is not None
        await self.task


class PythonClients(Clients):
    def __init__(self) -> None:
        self._followers: list[PythonFollower] = []

    async def open(self, stream: str, *, custom: tuple[str, ...] = (), **options: Any) -> PythonFollower:
        if "tokens" in options:
            tokens = list(options.pop("tokens"))

            async def token() -> str:
                return str(tokens.pop(0) if len(tokens) > 1 else tokens[0])

            options["token"] = token
        follower = PythonFollower(connect_stream(stream, **options), custom)
        follower.task = asyncio.create_task(follower.run())
        self._followers.append(follower)
        return follower

    async def aclose(self) -> None:
        for follower in self._followers:
            await follower.close()


class NodeFollower(Follower):
    def __init__(self, node: Node, name: str) -> None:
        super().__init__()
        self.node = node
        self.name = name

    async def command(self, what: str, **rest: Any) -> None:
        await self.node.command({"do": what, "as": self.name, **rest})

    async def look(self) -> Record:
        """State, status and position as they are now."""
        before = len(self.records)
        await self.command("look")
        return await self.named("look", before)

    async def close(self) -> None:
        before = len(self.records)
        await self.command("close")
        await self.status("closed", before)


class Process:
    """A Node process that takes commands and gives records, as JSON lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.console = Follower()
        self.followers: dict[str, Follower] = {}
        self._reader = asyncio.create_task(self._read())

    async def command(self, command: Record) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        await self.process.stdin.drain()

    async def ended(self) -> int:
        """Wait for the end of the process; its exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            async with asyncio.timeout(DEADLINE):
                code = await self.process.wait()
                await self._reader
        finally:
            if self.process.returncode is None:
                self.process.kill()
                await self.process.wait()
            self._reader.cancel()
        return code

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            record = json.loads(line)
            change = record.get("change")
            if change is not None:
                record["change"] = {_snake(key): value for key, value in change.items()}
            self.followers.get(record.pop("as", ""), self.console).add(record)


class Node(Process, Clients):
    """One Node process with client.js."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        super().__init__(process)
        self._names = itertools.count(1)

    async def open(self, stream: str, *, custom: tuple[str, ...] = (), **options: Any) -> NodeFollower:
        follower = NodeFollower(self, f"stream-{next(self._names)}")
        self.followers[follower.name] = follower
        command: Record = {"stream": stream, "custom": custom}
        if "tokens" in options:
            command["tokens"] = options.pop("tokens")
        if "token" in options:
            options["auth"] = {"token": options.pop("token")}
        renamed = {"groupId" if key == "group_id" else key: value for key, value in options.items()}
        await follower.command("open", options=renamed, **command)
        return follower

    async def aclose(self) -> None:
        """Close every stream; a client that leaves nothing behind lets the process end by itself."""
        for follower in self.followers.values():
            if not any(r["name"] == "threw" or r.get("status") == "closed" for r in follower.records):
                await follower.close()
        assert await self.ended() == 0


def _snake(name: str) -> str:
    return re.sub(r"[A-Z]", lambda match: f"_{match[0].lower()}", name)
