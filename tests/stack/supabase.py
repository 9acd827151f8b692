"""A real Supabase for tests: one that is already there, or the official images in containers (``compose.yaml``).

One that is there is told by what ``supabase status -o env`` prints, each name behind
``MOTIA_TEST_SUPABASE_``: ``API_URL``, ``DB_URL``, ``SERVICE_ROLE_KEY`` (or ``SECRET_KEY``),
and for tests of users' rights ``ANON_KEY`` (or ``PUBLISHABLE_KEY``) and ``JWT_SECRET``. Its API
must expose the schema ``motia``, which the tests drop and make again.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from motia_adapters.postgresql.testing import Psql

from motia_core.testing.servers import Missing, Server, docker_answers, free_port, required

PREFIX = "MOTIA_TEST_SUPABASE_"
COMPOSE = Path(__file__).parent / "compose.yaml"
PULLING = 900.0
"""Seconds that the containers may take to be there: the images may have to be fetched."""
SEEING = 60.0
"""Seconds within which the API has to see new functions."""


def told(*names: str) -> str | None:
    """What the environment says of the first of these names."""
    return next((value for name in names if (value := os.environ.get(PREFIX + name))), None)


class SupabaseStack(Server):
    """A Supabase project. ``url`` is its database's address, ``api_url`` its API's."""

    name = "supabase"

    def __init__(self) -> None:
        super().__init__()
        self._given = told("DB_URL")
        self._api_port = 0
        self._secrets = {"password": secrets.token_hex(16), "jwt": secrets.token_hex(32)}

    @property
    def api_url(self) -> str:
        """Where supabase-py finds it."""
        return told("API_URL") or f"http://127.0.0.1:{self._api_port}"

    @property
    def service_key(self) -> str:
        """The service role's key."""
        if self.ours:
            return self.token("service_role", iss="supabase")
        return self._needed("SERVICE_ROLE_KEY", "SECRET_KEY")

    @property
    def anon_key(self) -> str:
        """The key that everybody may have."""
        return self.token("anon", iss="supabase") if self.ours else self._needed("ANON_KEY", "PUBLISHABLE_KEY")

    @property
    def jwt_secret(self) -> str:
        """What users' tokens are signed with."""
        return self._secrets["jwt"] if self.ours else self._needed("JWT_SECRET")

    def token(self, role: str, lifetime: float = 3600, **claims: Any) -> str:
        """A user's token, or a key."""
        return jwt.encode({"role": role, "exp": int(time.time() + lifetime), **claims}, self.jwt_secret, "HS256")

    async def start(self) -> None:
        """Start the containers, or see that enough is told of the project that is there. Raises `Missing`."""
        if self._given is None and told("API_URL") is None:
            await asyncio.to_thread(self._up)
            return
        for names in (("API_URL",), ("DB_URL",), ("SERVICE_ROLE_KEY", "SECRET_KEY")):
            self._needed(*names)

    async def stop(self) -> None:
        """Remove the containers, and what they kept."""
        if self.ours and self._api_port:
            await asyncio.to_thread(self._compose, "down", "--volumes", "--timeout", "5")
            self._api_port = 0

    async def kill(self) -> None:
        """The database goes, as by a power cut; `start` brings it back."""
        await asyncio.to_thread(self._compose, "kill", "db")

    async def restart(self) -> None:
        """Restart the database."""
        await asyncio.to_thread(self._compose, "restart", "db")
        await asyncio.to_thread(self._compose, "up", "--detach", "--wait")

    def _needed(self, *names: str) -> str:
        value = told(*names)
        if value is None:
            raise Missing(f"supabase: {' or '.join(PREFIX + name for name in names)} is not set")
        return value

    def _up(self) -> None:
        if not docker_answers():
            raise Missing(f"supabase: {PREFIX}API_URL does not tell of one that is there, and no Docker engine answers")
        if not self._api_port:
            self.port, self._api_port = free_port(), free_port()
        self._compose("up", "--detach", "--wait", "--wait-timeout", f"{PULLING:.0f}")

    def _compose(self, *arguments: str) -> None:
        command = ["docker", "compose", "--project-name", f"motia-test-{self._api_port}", "--file", str(COMPOSE)]
        variables = {
            "MOTIA_STACK_PORT": f"{self._api_port}",
            "MOTIA_STACK_DB_PORT": f"{self.port}",
            "MOTIA_STACK_PASSWORD": self._secrets["password"],
            "MOTIA_STACK_JWT_SECRET": self._secrets["jwt"],
        }
        done = subprocess.run(
            [*command, *arguments], env={**os.environ, **variables}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"supabase: docker compose {arguments[0]} failed: {done.stderr[-2000:]}")

    def _url(self) -> str:
        return f"postgresql://postgres:{self._secrets['password']}@127.0.0.1:{self.port}/postgres"

    def _command(self) -> Sequence[str]:
        raise Missing("supabase: it is no single program")

    def _answers(self) -> bool:
        return True


async def seen(psql: Psql, api_url: str, service_key: str) -> None:
    """Wait until the API sees the functions that there are now.

    The database tells it of each change, and it reads everything anew a little later, more than once
    after several: so it is asked for a function that is newer than all others.
    """
    newest = f"seen_{secrets.token_hex(6)}"
    await psql.run(f"CREATE FUNCTION motia.{newest}() RETURNS integer LANGUAGE sql AS 'SELECT 1'")
    headers = {"apikey": service_key, "authorization": f"Bearer {service_key}", "content-profile": "motia"}
    async with httpx.AsyncClient(base_url=api_url, headers=headers, verify=False) as client:
        deadline = time.monotonic() + SEEING
        while (answer := await client.post(f"/rest/v1/rpc/{newest}", json={})).status_code != 200:
            if time.monotonic() > deadline or "PGRST106" in answer.text:
                raise RuntimeError(f"the API at {api_url} does not serve schema motia: {answer.text[:500]}")
            await asyncio.sleep(0.1)
    await psql.run(f"DROP FUNCTION motia.{newest}()")


def wanted() -> bool:
    """Whether there is a Supabase to be tested, or must be."""
    return told("API_URL") is not None or SupabaseStack.name in required() or docker_answers()


def let_one_say_so(config: pytest.Config, items: list[pytest.Item], name: str) -> None:
    """Without any Supabase, one of the tests with this name in their ids stays, and is skipped with the reason."""
    stacked = [item for item in items if f"[{name}" in item.nodeid]
    if stacked and not wanted():
        config.hook.pytest_deselected(items=stacked[1:])
        items[:] = [item for item in items if item not in stacked[1:]]
