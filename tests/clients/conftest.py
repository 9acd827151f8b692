"""A server, a scripted peer, and the two clients behind one interface."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

import motia_core.client

from .followers import Clients, Node, PythonClients
from .scripted import Scripted
from .serving import Server

HERE = Path(__file__).parent
CLIENT_JS = Path(motia_core.client.__file__).with_name("client.js")


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    """The real server, on SQLite."""
    running = Server(tmp_path, monkeypatch)
    await running.open()
    yield running
    await running.aclose()


@pytest.fixture
async def scripted() -> AsyncIterator[Scripted]:
    peer = Scripted()
    await peer.start()
    yield peer
    await peer.aclose()


@pytest.fixture(scope="session")
def node_command() -> list[str]:
    """Node with a global WebSocket: from 22 on, and behind a flag since 20.10."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    major, minor = (int(part) for part in version.strip().lstrip("v").split(".")[:2])
    if (major, minor) < (20, 10):
        pytest.skip(f"node {version.strip()} has no WebSocket; 20.10 or later does")
    return [node] if major >= 22 else [node, "--experimental-websocket", "--no-warnings"]


def install(wanted: Path) -> Path:
    """The ``node_modules`` of a package.json, installed once for each version of it, outside the project."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    folder = Path(tempfile.gettempdir()) / f"motia-core-npm-{hashlib.sha256(wanted.read_bytes()).hexdigest()[:16]}"
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True) as fresh:
            shutil.copy(wanted, fresh)
            options = ["--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--loglevel=error"]
            done = subprocess.run([npm, "install", *options], cwd=fresh, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                # A machine without a network may go on without; where all must run, this is a failure.
                (pytest.fail if os.environ.get("CI") else pytest.skip)(f"npm install failed: {done.stderr[-500:]}")
            with suppress(OSError):  # Another process was first.
                Path(fresh).rename(folder)
    return folder / "node_modules"


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """What the tests of client.js need of npm."""
    return install(HERE / "package.json")


@pytest.fixture(scope="session")
def published_modules() -> Path:
    """The published Motia client."""
    return install(HERE / "published" / "package.json")


@pytest.fixture
async def start_node(node_command: list[str]) -> AsyncIterator[Callable[..., Any]]:
    """Start a Node process with the client; arguments go to the driver."""
    async with AsyncExitStack() as stack:

        async def start(*arguments: str, client: Path = CLIENT_JS) -> Node:
            process = await asyncio.create_subprocess_exec(
                *node_command,
                str(HERE / "js" / "driver.mjs"),
                str(client),
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=2**24,
            )
            node = Node(process)
            stack.push_async_callback(node.aclose)
            return node

        yield start


@pytest.fixture
async def node(start_node: Callable[..., Any]) -> Node:
    started: Node = await start_node()
    return started


@pytest.fixture
async def python() -> AsyncIterator[PythonClients]:
    clients = PythonClients()
    yield clients
    await clients.aclose()


@pytest.fixture(params=["python", "javascript"])
def clients(request: pytest.FixtureRequest) -> Clients:
    """Each client in turn: what a test asks of one, it asks of both."""
    chosen: Clients = request.getfixturevalue("python" if request.param == "python" else "node")
    return chosen
