"""Supabase's tokens as ``authenticate``, and joins that row level security decides (E1)."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from types import SimpleNamespace
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from motia_adapters.postgresql.options import MappedOptions
from motia_adapters.supabase.access import SupabaseAuth
from starlette.responses import HTMLResponse, JSONResponse

from motia_core import Auth
from motia_core.errors import AccessDenied, BackendUnavailable, ConfigError
from motia_core.model import StreamSpec, Write
from motia_core.testing.servers import free_port
from tests.adapters.supabase.conftest import Project
from tests.standins.supabase import SECRET, key

SPEC = StreamSpec("documents")


def visitor(token: str | None) -> Any:
    return SimpleNamespace(token=token)


ANN = "00000000-0000-4000-8000-0000000a4400"
"""A user's id; Supabase's are UUIDs."""


def user(sub: str = ANN, **claims: Any) -> str:
    return key("authenticated", sub=sub, aud="authenticated", **claims)


async def admitted(auth: SupabaseAuth, token: str) -> Any:
    found = await auth(visitor(token))
    assert isinstance(found, Auth)
    return found


async def test_a_token_becomes_a_context_and_its_expiry_ends_the_admission() -> None:
    auth = SupabaseAuth("https://x.supabase.co", jwt_secret=SECRET)
    found = await admitted(auth, user(email="ann@example.com", lifetime=100))
    assert found.context is not None
    assert (found.context["userId"], found.context["email"]) == (ANN, "ann@example.com")
    assert found.expires_at is not None
    assert 90 < found.expires_at - time.time() <= 100
    assert "eyJ" not in repr(found)
    assert await auth(visitor(None)) is None


def unsigned() -> str:
    return jwt.encode({"sub": "ann", "aud": "authenticated", "exp": time.time() + 60}, "", algorithm="none")


@pytest.mark.parametrize(
    "token",
    [
        "nonsense",
        "",
        user(lifetime=-60),
        key("authenticated", sub="ann", aud="other"),
        key("authenticated", sub="ann"),
        key("authenticated", aud="authenticated"),
        key("authenticated", secret="another secret of 32 bytes, at least", sub="ann", aud="authenticated"),
        unsigned(),
        user() + "x",
        user() + "\ud800",
    ],
    ids=range(10),
)
async def test_tokens_that_do_not_hold_keep_their_bearer_out(token: str) -> None:
    auth = SupabaseAuth("https://x.supabase.co", jwt_secret=SECRET, required=True)
    with pytest.raises(AccessDenied) as caught:
        await auth(visitor(token))
    assert not token or token not in f"{caught.value} {caught.value.reason}"


def signed_with(secret: bytes, claims: dict[str, Any]) -> str:
    """HS256, with a secret that no library would take."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
             for part in ({"alg": "HS256", "typ": "JWT", "kid": "new"}, claims)]  # fmt: skip
    signature = hmac.digest(secret, b".".join(parts), "sha256")
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


class Jwks:
    """The project's public keys, served as Supabase does; they can be changed."""

    def __init__(self) -> None:
        self.port = free_port()
        self.keys: dict[str, ec.EllipticCurvePrivateKey] = {}
        self.more: list[Any] = []
        self.asked = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        keys = []
        for kid, private in self.keys.items():
            public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(private.public_key()))
            keys.append({**public, "kid": kid, "alg": "ES256", "use": "sig"})
        body = json.dumps({"keys": [*self.more, *keys]}).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        writer.write(head.encode() + b"Connection: close\r\n\r\n" + body)
        await writer.drain()
        writer.close()

    def token(self, kid: str, **headers: Any) -> str:
        claims = {"sub": "ann", "aud": "authenticated", "exp": time.time() + 60}
        return jwt.encode(claims, self.keys[kid], algorithm="ES256", headers={"kid": kid, **headers})


async def test_keys_that_rotate_are_fetched_and_no_flood_of_unknown_ones_is(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Jwks()
    keys.keys["old"] = ec.generate_private_key(ec.SECP256R1())
    async with await asyncio.start_server(keys.serve, "127.0.0.1", keys.port):
        auth = SupabaseAuth(f"http://127.0.0.1:{keys.port}")
        for _ in range(3):
            await admitted(auth, keys.token("old"))
        assert keys.asked == 1
        old = keys.token("old")
        keys.keys = {"new": ec.generate_private_key(ec.SECP256R1())}
        with pytest.raises(AccessDenied):  # not so soon again
            await admitted(auth, keys.token("new"))
        assert keys.asked == 1
        monkeypatch.setattr("motia_adapters.supabase.access.KEYS_REST", 0.0)
        await admitted(auth, keys.token("new"))
        assert keys.asked == 2
        with pytest.raises(AccessDenied):
            await admitted(auth, old)


async def test_a_token_does_not_choose_how_it_is_checked() -> None:
    """Not by its algorithm: a public key is no secret to sign with, and one kind of key is not another."""
    keys = Jwks()
    keys.keys["new"] = ec.generate_private_key(ec.SECP256R1())
    keys.more = ["nonsense", {"kty": "EC", "alg": "ES256", "kid": "broken", "crv": "P-256", "x": "?", "y": "?"}]
    public = keys.keys["new"].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    other = rsa.generate_private_key(65537, 2048)
    claims = {"sub": "ann", "aud": "authenticated", "exp": time.time() + 60}
    async with await asyncio.start_server(keys.serve, "127.0.0.1", keys.port):
        for secret in (None, SECRET):
            auth = SupabaseAuth(f"http://127.0.0.1:{keys.port}", jwt_secret=secret)
            await admitted(auth, keys.token("new"))  # keys that nobody understands lock nobody out
            forged = [
                signed_with(public, claims),
                jwt.encode(claims, "", algorithm="none", headers={"kid": "new"}),
                jwt.encode(claims, other, algorithm="RS256", headers={"kid": "new"}),
                jwt.encode(claims, ec.generate_private_key(ec.SECP256R1()), algorithm="ES256", headers={"kid": "new"}),
                jwt.encode(claims, keys.keys["new"], algorithm="ES256", headers={"kid": "broken"}),
                jwt.encode(claims, keys.keys["new"], algorithm="ES256", headers={"kid": "missing"}),
                keys.token("new")[:-4] + "AAAA",
            ]
            for token in forged:
                with pytest.raises(AccessDenied):
                    await auth(visitor(token))


async def test_keys_that_cannot_be_fetched_keep_everybody_out() -> None:
    keys = Jwks()
    keys.keys["old"] = ec.generate_private_key(ec.SECP256R1())
    auth = SupabaseAuth(f"http://127.0.0.1:{keys.port}", timeout=1)
    with pytest.raises(BackendUnavailable):
        await auth(visitor(keys.token("old")))


async def test_known_keys_go_on_for_a_while_when_their_server_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Jwks()
    keys.keys["old"] = ec.generate_private_key(ec.SECP256R1())
    auth = SupabaseAuth(f"http://127.0.0.1:{keys.port}", timeout=1)
    async with await asyncio.start_server(keys.serve, "127.0.0.1", keys.port):
        await admitted(auth, keys.token("old"))
    for name in ("KEYS_LIVE", "KEYS_REST"):
        monkeypatch.setattr(f"motia_adapters.supabase.access.{name}", 0.0)
    await admitted(auth, keys.token("old"))
    keys.keys["new"] = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(AccessDenied):
        await auth(visitor(keys.token("new")))
    monkeypatch.setattr("motia_adapters.supabase.access.KEYS_STALE", 0.0)
    with pytest.raises(BackendUnavailable):
        await auth(visitor(keys.token("old")))
    async with await asyncio.start_server(keys.serve, "127.0.0.1", keys.port):
        await admitted(auth, keys.token("old"))
        await admitted(auth, keys.token("new"))


@pytest.mark.parametrize("options", [{"project_url": "x"}, {"project_url": "https://x", "jwt_secret": "short"}])
def test_what_cannot_work_is_refused_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        SupabaseAuth(**options)


async def test_row_level_security_decides_who_may_join(project: Project, namespace: str) -> None:
    async with project.opened(namespace) as adapter:
        await adapter.prepare(SPEC)
        await adapter.write(SPEC, [Write("set", f"{ANN}s", "x", b"{}"), Write("set", "bobs", "y", b"{}")])
    await project.psql.run(
        "DROP POLICY IF EXISTS owners ON motia.item; CREATE POLICY owners ON motia.item FOR SELECT TO authenticated"
        f" USING (stream = motia.stream_id('{namespace}', 'documents') AND grp = auth.uid()::text || 's')"
    )
    auth = SupabaseAuth(project.url, jwt_secret=project.jwt_secret, anon_key=project.anon_key, namespace=namespace)
    own = project.key("authenticated", sub=ANN, aud="authenticated")
    ann = (await admitted(auth, own)).context

    async def ask(group: str, id: str | None, context: Any) -> bool:
        subscription = SimpleNamespace(stream_name="documents", group_id=group, id=id)
        return bool((await auth.may_read(subscription, context))["authorized"])

    assert await ask(f"{ANN}s", None, ann)
    assert await ask(f"{ANN}s", "x", ann)
    assert not await ask(f"{ANN}s", "z", ann)
    assert not await ask("bobs", None, ann)
    assert not await ask("bobs", "y", ann)
    assert not await ask(f"{ANN}s", None, None)
    assert not await ask(f"{ANN}s", None, {"accessToken": "plain text"})
    late = project.key("authenticated", sub=ANN, aud="authenticated", lifetime=-60)
    expired = {"accessToken": ann["accessToken"].__class__(late)}
    assert not await ask(f"{ANN}s", None, expired)


async def test_a_mapped_tables_own_policies_decide(project: Project) -> None:
    mapped = MappedOptions(table="notes", group_field="owner", id_field="id")
    await project.psql.run(
        "DROP TABLE IF EXISTS notes; CREATE TABLE notes (owner text, id text, text text, PRIMARY KEY (owner, id));"
        " ALTER TABLE notes ENABLE ROW LEVEL SECURITY; GRANT SELECT ON notes TO authenticated;"
        " CREATE POLICY mine ON notes FOR SELECT TO authenticated USING (owner = auth.uid()::text);"
        f" INSERT INTO notes VALUES ('{ANN}', '1', 'hers'), ('bob', '2', 'his')"
    )
    assert await project.adapter(mapped=mapped, database_url=project.psql.url).migrate() == ["motia_map_public_notes"]
    auth = SupabaseAuth(project.url, jwt_secret=project.jwt_secret, anon_key=project.anon_key)
    own = project.key("authenticated", sub=ANN, aud="authenticated")
    ann = (await admitted(auth, own)).context
    for group, expected in ((ANN, True), ("bob", False)):
        subscription = SimpleNamespace(stream_name="notes", group_id=group, id=None)
        answer = await auth.may_read_rows(subscription, ann, "notes")
        assert answer == {"authorized": expected}


async def test_policies_may_call_what_needs_the_users_search_path(project: Project, namespace: str) -> None:
    mapped = MappedOptions(table="shared", group_field="room", id_field="id")
    await project.psql.run(
        "DROP TABLE IF EXISTS shared, members CASCADE; CREATE TABLE members (room text, member text);"
        " GRANT SELECT ON members TO authenticated;"
        " CREATE OR REPLACE FUNCTION public.in_room(p_room text) RETURNS boolean LANGUAGE sql STABLE AS"
        " 'SELECT EXISTS (SELECT FROM members WHERE room = p_room AND member = auth.uid()::text)';"
        " CREATE TABLE shared (room text, id text, PRIMARY KEY (room, id));"
        " ALTER TABLE shared ENABLE ROW LEVEL SECURITY; GRANT SELECT ON shared TO authenticated;"
        " CREATE POLICY mine ON shared FOR SELECT TO authenticated USING (in_room(room));"
        " DROP POLICY IF EXISTS owners ON motia.item;"
        " CREATE POLICY owners ON motia.item FOR SELECT TO authenticated USING (in_room(grp));"
        f" INSERT INTO members VALUES ('r', '{ANN}'); INSERT INTO shared VALUES ('r', '1'), ('s', '2')"
    )
    await project.adapter(mapped=mapped, database_url=project.psql.url).migrate()
    async with project.opened(namespace) as adapter:
        await adapter.prepare(SPEC)
        await adapter.write(SPEC, [Write("set", "r", "x", b"{}"), Write("set", "s", "y", b"{}")])
    auth = SupabaseAuth(project.url, jwt_secret=project.jwt_secret, anon_key=project.anon_key, namespace=namespace)
    ann = (await admitted(auth, project.key("authenticated", sub=ANN, aud="authenticated"))).context
    for group, expected in (("r", True), ("s", False)):
        subscription = SimpleNamespace(stream_name="documents", group_id=group, id=None)
        assert await auth.may_read_rows(subscription, ann, "shared") == {"authorized": expected}
        assert await auth.may_read(subscription, ann) == {"authorized": expected}


async def test_users_may_call_nothing_else(project: Project, namespace: str) -> None:
    """The service's functions, and the log, are closed to users and to everybody."""
    import httpx

    async with httpx.AsyncClient(base_url=project.url) as client:
        for token in (project.key("anon"), project.key("authenticated", sub=ANN)):
            headers = {"apikey": project.anon_key, "Authorization": f"Bearer {token}", "Content-Profile": "motia"}
            arguments = {"p_namespace": namespace, "p_stream": "documents", "p_group": "g", "p_id": "x"}
            answer = await client.post("/rest/v1/rpc/get", json=arguments, headers=headers)
            assert (answer.status_code, answer.json()["code"]) in ((401, "42501"), (403, "42501"))
    async with project.psql.connection() as connection:
        for role in ("anon", "authenticated"):
            for table in ("log", "inbox", "mapping", "server", "row_version"):
                sql = "SELECT has_table_privilege($1, $2, 'SELECT')"
                assert not await connection.fetchval(sql, role, f"motia.{table}"), (role, table)


async def test_an_api_that_does_not_answer_keeps_everybody_out(project: Project) -> None:
    auth = SupabaseAuth(project.url, jwt_secret=project.jwt_secret, anon_key=project.anon_key)
    own = project.key("authenticated", sub=ANN, aud="authenticated")
    ann = (await admitted(auth, own)).context
    subscription = SimpleNamespace(stream_name="documents", group_id="g", id=None)
    project.standin.instead = JSONResponse({"code": "PGRST000", "message": "Database connection error"}, 503)
    with pytest.raises(BackendUnavailable, match="answered 503 to readable"):
        await auth.may_read(subscription, ann)
    project.standin.instead = HTMLResponse("<html>down for maintenance</html>")
    assert await auth.may_read(subscription, ann) == {"authorized": False}
