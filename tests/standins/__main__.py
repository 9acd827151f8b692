"""``python -m tests.standins``: a database and the stand-ins of Supabase, until they are ended by SIGTERM or Control-C.

They are told of as the Supabase CLI tells of its own: ``supabase status -o env``.
"""

from __future__ import annotations

import asyncio
import signal
import sys

import asyncpg

from motia_core.testing.servers import PostgreSQL
from tests.standins.supabase import SECRET, SET_UP, Supabase, key

DAY = 86_400


async def set_up(url: str) -> None:
    """What a Supabase database has."""
    connection = await asyncpg.connect(url)
    await connection.execute(SET_UP)
    await connection.close()


def main() -> None:
    """Start them, tell of them, wait, stop them."""
    server = PostgreSQL("-c", "fsync=off")
    asyncio.run(server.start())
    try:
        asyncio.run(set_up(server.url))
        signals = [signal.SIGTERM, signal.SIGINT]
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        standin = Supabase(server.url)
        standin.start()
        known = {
            "API_URL": standin.url,
            "DB_URL": server.url,
            "ANON_KEY": key("anon", lifetime=DAY),
            "SERVICE_ROLE_KEY": key(lifetime=DAY),
            "JWT_SECRET": SECRET,
        }
        sys.stdout.writelines(f'{name}="{value}"\n' for name, value in known.items())
        sys.stdout.flush()
        signal.sigwait(signals)
        standin.stop()
    finally:
        asyncio.run(server.stop())


if __name__ == "__main__":
    main()
