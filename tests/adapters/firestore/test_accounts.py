"""Credentials as users have them, from a key's file to the token in the call: what Google would see over TLS.

The endpoint is the gateway, with a certificate of its own; Google's token service is a small server beside it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from motia_core.testing.harness import DEADLINE
from motia_core.testing.servers import Firestore, free_port
from tests.adapters.firestore.gateway import Gateway, gateway

TOKEN = "token-of-the-test"
CLIENT = """
import asyncio, json, os, sys
from motia_core import BackendError, BackendUnavailable, Motia, StreamConfig

async def main(options):
    if "app" in options:
        import firebase_admin
        firebase_admin.initialize_app(firebase_admin.credentials.Certificate(options.pop("key")), name=options["app"])
    storage = {"default": {"adapter": "firestore", "timeout": 5, **options}}
    try:
        async with Motia(streams=[StreamConfig(name="docs")], storage=storage) as motia:
            docs = motia.streams["docs"]
            await docs.set("g", "x", {"n": 1})
            print(json.dumps(await docs.get("g", "x")), docs.hub.adapter.address)
    except BackendError as error:
        print(type(error).__name__, error)

asyncio.run(main(json.loads(sys.argv[1])))
"""


class Google:
    """The gateway over TLS, its certificate, a key, and who hands out tokens for it."""

    def __init__(self, made: Gateway, path: Path, pem: str) -> None:
        self.gateway = made
        self.roots = path / "roots.pem"
        self.key = path / "key.json"
        self._pem = pem

    def write_key(self, token_port: int) -> None:
        self.key.write_text(
            json.dumps(
                {
                    "type": "service_account",
                    "project_id": "demo-motia",
                    "private_key_id": "1",
                    "private_key": self._pem,
                    "client_email": "tests@demo-motia.iam.gserviceaccount.com",
                    "token_uri": f"http://127.0.0.1:{token_port}/token",
                }
            )
        )

    async def run(self, environment: dict[str, str] | None = None, **options: Any) -> str:
        """What a program with these options says, in an environment without other credentials."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("GOOGLE_", "FIRESTORE_"))}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-W", "ignore::FutureWarning", "-c", CLIENT),
            json.dumps({"endpoint": f"localhost:{self.gateway.port}", **options}),
            env={**kept, "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(self.roots), **(environment or {})},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(DEADLINE):
            said, _ = await process.communicate()
        return said.decode()


@asynccontextmanager
async def _google(emulator: Firestore, path: Path) -> AsyncGenerator[Google, None]:
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    tls = grpc.ssl_server_credentials([(pem, certificate)])
    async with gateway(emulator.url.removeprefix("http://"), tls) as made:
        google = Google(made, path, pem.decode())
        google.roots.write_bytes(certificate)
        yield google


@contextmanager
def _tokens(status: int, answer: dict[str, Any]) -> Iterator[int]:
    """A token service that answers thus; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


_GRANTED = {"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"}


@pytest.mark.parametrize("way", ["option", "variable", "app"])
async def test_a_service_account_is_used_however_it_is_given(emulator: Firestore, tmp_path: Path, way: str) -> None:
    async with _google(emulator, tmp_path) as google:
        with _tokens(200, _GRANTED) as port:
            google.write_key(port)
            key = str(google.key)
            if way == "option":
                said = await google.run(credentials=key)
            elif way == "variable":
                said = await google.run({"GOOGLE_APPLICATION_CREDENTIALS": key})
            else:
                said = await google.run(app="mine", key=key)
        assert said == '{"n": 1} firestore://demo-motia/(default)\n'
        assert set(google.gateway.authorized) == {f"Bearer {TOKEN}"}


async def test_a_key_that_is_refused_is_said_with_the_remedy(emulator: Firestore, tmp_path: Path) -> None:
    async with _google(emulator, tmp_path) as google:
        with _tokens(400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}) as port:
            google.write_key(port)
            said = await google.run(credentials=str(google.key))
        assert said.startswith("BackendError firestore: cannot read documents at firestore://demo-motia/(default): ")
        assert "Invalid JWT Signature" in said
        assert "check the credentials" in said
        assert "PRIVATE KEY" not in said
        assert not google.gateway.authorized


async def test_no_way_to_the_token_service_is_said_in_time(emulator: Firestore, tmp_path: Path) -> None:
    async with _google(emulator, tmp_path) as google:
        google.write_key(free_port())
        said = await google.run(credentials=str(google.key))
        assert said.startswith("BackendUnavailable firestore: ")
        assert "access token" in said
        assert not google.gateway.authorized
