"""``python -m tests.standins``: PostgreSQL, PostgREST and the stand-ins, until they are ended by SIGTERM or Control-C.

They are told of as the Supabase CLI tells of its own: ``supabase status -o env``.
"""

from __future__ import annotations

import asyncio
import signal
import sys

from motia_adapters.postgresql.testing import Psql

from motia_core.testing.servers import PostgreSQL
from tests.standins.supabase import SECRET, SET_UP, Supabase, key

DAY = 86_400


async def main() -> None:
    """Start them, tell of them, wait, stop them."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    server = PostgreSQL("-c", "fsync=off")
    try:
        await server.start()
        await Psql(server.url).run(SET_UP)
        standin = Supabase(server.url)
        try:
            await standin.start()
            known = {
                "API_URL": standin.url,
                "DB_URL": server.url,
                "ANON_KEY": key("anon", lifetime=DAY),
                "SERVICE_ROLE_KEY": key(lifetime=DAY),
                "JWT_SECRET": SECRET,
            }
            sys.stdout.writelines(f'{name}="{value}"\n' for name, value in known.items())
            sys.stdout.flush()
            await ended.wait()
        finally:
            await standin.stop()
    finally:
        await server.stop()


if __name__ == "__main__":
    asyncio.run(main())
