"""A real PgBouncer that pools transactions: LISTEN is lost behind it, looking is what remains, and doctor says so."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from motia_core.errors import BackendError, MotiaError
from motia_core.model import StreamSpec, Write
from motia_core.testing.harness import Reader
from motia_core.testing.servers import free_port, required
from tests.adapters.postgresql.conftest import Database

SPEC = StreamSpec("documents")
IGNORED = "ignore_startup_parameters = statement_timeout,default_transaction_isolation,jit,extra_float_digits"


class Pooler:
    """PgBouncer before one server."""

    def __init__(self, program: str, database: Database, *settings: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="motia-pgbouncer-"))
        self.port = free_port()
        base, self.name = database.url.rsplit("/", 1)
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/{self.name}"
        lines = [
            "[databases]",
            f"* = host=127.0.0.1 port={base.rsplit(':', 1)[1]} user=postgres",
            "[pgbouncer]",
            "listen_addr = 127.0.0.1",
            f"listen_port = {self.port}",
            "unix_socket_dir =",
            "auth_type = any",
            "pool_mode = transaction",
            "default_pool_size = 4",
            *settings,
        ]
        (self.folder / "ini").write_text("\n".join([*lines, ""]))
        self.folder.chmod(0o755)
        self.command = [program, "-q", str(self.folder / "ini")]
        if os.geteuid() == 0:
            self.command[1:1] = ["-u", "nobody"]
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    async def start(self) -> None:
        self.process = self.launch()
        async with asyncio.timeout(10):
            while True:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                        return
                assert self.process.poll() is None, "PgBouncer has ended"
                await asyncio.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(10)
            self.process = None


@asynccontextmanager
async def pooled(database: Database, *settings: str) -> AsyncIterator[Pooler]:
    """A pooler before a database, or the reason why the test is skipped."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        assert "postgres" not in required(), "PgBouncer is needed: apt-get install pgbouncer"
        pytest.skip("no program 'pgbouncer'")
    pooler = Pooler(program, database, *settings)
    try:
        await pooler.start()
        yield pooler
    finally:
        pooler.stop()
        shutil.rmtree(pooler.folder)


@pytest.fixture
async def pooler(database: Database) -> AsyncGenerator[Pooler, None]:
    async with pooled(database) as pooler:
        yield pooler


async def test_a_pooler_that_takes_none_of_our_settings_is_named(database: Database, pooler: Pooler) -> None:
    with pytest.raises(BackendError, match=r"unsupported startup parameter.*set pooler = true") as caught:
        await database.adapter(pooler.url).open()
    assert "is the server running" not in str(caught.value)


async def test_doctor_says_that_nothing_is_heard_behind_a_pooler(database: Database) -> None:
    """One that swallows our settings: it accepts LISTEN, too."""
    async with pooled(database, IGNORED) as pooler:
        adapter = database.adapter(pooler.url, timeout=2.0)
        try:
            await adapter.open()
            findings = await adapter.diagnose()
        finally:
            await adapter.close()
        (deaf,) = [finding for finding in findings if "no news comes in" in finding.message]
        assert deaf.level == "warning"
        assert "set pooler = true" in deaf.remedy


async def test_behind_a_pooler_looking_tells_everything(database: Database, pooler: Pooler) -> None:
    """Also while the pooler is killed and started again."""
    adapters = [database.adapter(pooler.url, pooler=True) for _ in range(2)]
    writer, adapter = adapters
    for each in adapters:
        await each.open()
    try:
        await writer.prepare(SPEC)
        findings = [finding.message for finding in await adapter.diagnose()]
        assert any("pooler = true" in message for message in findings), findings
        position = await adapter.head(SPEC)
        told: list[int] = []

        async def write(numbers: range) -> None:
            """All at once, and to be seen by a watch from where the last one ended."""
            nonlocal position
            reader = Reader(adapter.watch(SPEC, position))
            await reader.count(1)
            await asyncio.gather(*(writer.write(SPEC, [Write("set", "g", f"{number}", b"{}")]) for number in numbers))
            await reader.until(lambda batches: sum(len(batch.changes) for batch in batches) == len(numbers))
            await reader.stop()
            position = reader.seen[-1].position
            told.extend(int(change.id or "") for batch in reader.seen for change in batch.changes)

        await write(range(40))
        pooler.stop(signal.SIGKILL)
        with pytest.raises(MotiaError):
            await writer.get(SPEC, "g", "0")
        await pooler.start()
        await write(range(40, 80))
        assert sorted(told) == list(range(80))
    finally:
        for each in adapters:
            await each.close()
