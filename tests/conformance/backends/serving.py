"""The servers of one test session: each is started when a test first needs it."""

from __future__ import annotations

import asyncio

from motia_core.testing.servers import SERVERS, Server, start_or_skip
from tests.stack.supabase import SupabaseStack

KINDS: dict[str, type[Server]] = {**SERVERS, SupabaseStack.name: SupabaseStack}
SERVING: dict[str, Server] = {}
"""The servers of this session: started when a test first needs one."""


async def served(name: str) -> Server:
    """The session's server of this kind; skips the test where there is none, unless it is required."""
    if name not in SERVING:
        server = KINDS[name]()
        await start_or_skip(server)
        SERVING[name] = server
    return SERVING[name]


def stop_all() -> None:
    """Stop them, each by its own process id."""
    for server in SERVING.values():
        asyncio.run(server.stop())
