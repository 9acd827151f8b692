"""The real servers start, answer, survive a kill, and lose their data when they are wiped."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from motia_core.testing.proxy import Proxy
from motia_core.testing.servers import SERVERS, Missing, Server, free_port, start_or_skip


@pytest.mark.parametrize("name", sorted(SERVERS))
async def test_a_server_starts_is_killed_paused_and_wiped(name: str) -> None:
    server: Server = SERVERS[name]()
    await start_or_skip(server)
    try:
        if not server.ours:
            return
        port = server.port
        await server.kill()
        with pytest.raises(OSError, match=r"."):
            await asyncio.open_connection("127.0.0.1", port)
        await server.start()
        await server.restart()
        server.pause()
        server.resume()
        await server.wipe()
        assert server.port == port
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
    finally:
        await server.stop()
    assert not server.folder.is_absolute()


async def test_a_missing_server_says_what_was_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Missing, match="no program 'redis-server' on PATH; and no Docker engine answers"):
        await SERVERS["redis"]().start()


async def test_an_address_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTIA_TEST_REDIS_URL", "redis://127.0.0.1:1")
    server = SERVERS["redis"]()
    await server.start()
    assert (server.url, server.ours) == ("redis://127.0.0.1:1", False)
    await server.stop()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(100):
        writer.write(data)
    writer.close()


async def test_the_proxy_passes_stalls_swallows_cuts_and_refuses() -> None:
    echo = await asyncio.start_server(_echo, "127.0.0.1", 0)
    async with echo, asyncio.timeout(20), Proxy(echo.sockets[0].getsockname()[1]) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"one")
        assert await reader.readexactly(3) == b"one"
        proxy.mode = "stall"
        writer.write(b"two")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readexactly(1), 0.1)
        proxy.mode = "pass"
        assert await reader.readexactly(3) == b"two"
        proxy.mode = "hole"
        writer.write(b"lost")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readexactly(1), 0.1)
        proxy.mode = "pass"
        writer.write(b"four")
        assert await reader.readexactly(4) == b"four"
        proxy.cut()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        proxy.mode = "refuse"
        reader, refused = await asyncio.open_connection("127.0.0.1", proxy.port)
        assert await reader.read() == b""
        refused.close()
        writer.close()
        assert proxy.connections == 2


def test_a_port_is_given_to_one_process_and_never_to_an_outgoing_connection() -> None:
    ports = [free_port() for _ in range(100)]
    assert len(set(ports)) == 100
    assert all(10_000 <= port < 32_768 for port in ports)
    drawn = f"iter({[*ports, ports[0]]} + list(range(10_000, 32_768)))"
    script = (
        f"import random; drawn = {drawn}; random.SystemRandom.randrange = lambda *_: next(drawn)\n"
        "from motia_core.testing.servers import free_port; print(free_port())"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(said.stdout) not in ports
