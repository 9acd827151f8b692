"""Who is connecting, by Supabase's own tokens; and what row level security lets them see.

In ``motia/auth.py``::

    authenticate = SupabaseAuth("https://xyzcompany.supabase.co", anon_key=os.environ["SUPABASE_ANON_KEY"])

and in a stream's definition::

    async def on_join(subscription, ctx, auth_context):
        return await authenticate.may_read(subscription, auth_context)
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import Any

import httpx
import jwt
from pydantic import SecretStr

from motia_core.errors import AccessDenied, BackendError, BackendUnavailable, ConfigError

ALGORITHMS = ("ES256", "RS256", "EdDSA")
"""Signatures by the project's signing keys."""
KEYS_LIVE = 600.0
"""Seconds for which the project's keys are kept."""
KEYS_STALE = 3600.0
"""Seconds for which they go on beyond that while new ones cannot be fetched: then nobody gets in any more."""
KEYS_REST = 10.0
"""Seconds between two looks for a key that is not known, at least."""


class SupabaseAuth:
    """A ready-made ``authenticate``: checks a token's signature, expiry and audience.

    ``jwt_secret`` is for projects that still sign with a shared secret (HS256); without it the
    project's public keys are fetched, kept, and fetched again when a token names an unknown
    one. A visitor without a token is anonymous (``None``), or refused with ``required=True``.

    The context is ``{"userId": sub, "role": ..., "email": ..., "claims": {...}, "accessToken":
    SecretStr}``; admission ends when the token does. Raises `AccessDenied`.
    """

    def __init__(
        self,
        project_url: str,
        *,
        anon_key: str | None = None,
        jwt_secret: str | None = None,
        audience: str = "authenticated",
        issuer: str | None = None,
        required: bool = False,
        leeway: float = 5.0,
        timeout: float = 5.0,
        schema: str = "motia",
        namespace: str = "motia",
    ) -> None:
        if not project_url.startswith(("http://", "https://")):
            raise ConfigError("SupabaseAuth: project_url must begin with https://")
        if jwt_secret is not None and len(jwt_secret) < 32:
            raise ConfigError("SupabaseAuth: jwt_secret must have 32 characters at least, as Supabase's has")
        self._url = project_url.rstrip("/")
        self._anon_key = anon_key
        self._secret = jwt_secret
        self._audience = audience
        self._issuer = issuer
        self._required = required
        self._leeway = leeway
        self._timeout = timeout
        self._schema = schema
        self._namespace = namespace
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched = float("-inf")
        self._told = float("-inf")
        self._fetching = asyncio.Lock()

    async def __call__(self, request: Any) -> Any:
        """``authenticate(request)``."""
        from motia_core import Auth

        token = request.token
        if not token:
            if self._required:
                raise AccessDenied("a token is needed", reason="no token")
            return None
        claims = await self.verify(token)
        context = {
            "userId": claims.get("sub"),
            "role": claims.get("role"),
            "email": claims.get("email"),
            "claims": claims,
            "accessToken": SecretStr(token),
        }
        return Auth(context, expires_at=float(claims["exp"]))

    async def verify(self, token: str) -> dict[str, Any]:
        """A token's claims. Raises `AccessDenied`."""
        try:
            header = jwt.get_unverified_header(token)
            algorithm = header.get("alg")
            key: Any
            # The kind of key decides which algorithms count, never the token: a public key is no secret.
            if self._secret is not None and algorithm == "HS256":
                key, allowed = self._secret, ["HS256"]
            elif algorithm in ALGORITHMS:
                found = await self._key(str(header.get("kid", "")))
                key, allowed = found.key, [found.algorithm_name]
            else:
                raise AccessDenied("the token is not valid", reason=f"its algorithm is {str(algorithm)[:20]!r}")
            return dict(
                jwt.decode(
                    token,
                    key,
                    algorithms=allowed,
                    audience=self._audience,
                    issuer=self._issuer,
                    leeway=self._leeway,
                    options={"require": ["exp", "sub"]},
                )
            )
        except jwt.ExpiredSignatureError as error:
            raise AccessDenied("the token has expired", reason="expired") from error
        except (jwt.PyJWTError, UnicodeEncodeError) as error:
            raise AccessDenied("the token is not valid", reason=type(error).__name__) from error

    async def may_read(self, subscription: Any, auth_context: Mapping[str, Any] | None) -> dict[str, Any]:
        """An answer of ``on_join``: whether the user's own rights show anything of the group, or the item.

        Asks `motia.readable` with the user's token, so that row level security decides. Raises
        `BackendUnavailable`, or `BackendError`: either keeps the client out.
        """
        arguments = {
            "p_namespace": self._namespace,
            "p_stream": subscription.stream_name,
            "p_group": subscription.group_id,
            "p_id": subscription.id,
        }
        return await self._ask("readable", arguments, auth_context)

    async def may_read_rows(
        self, subscription: Any, auth_context: Mapping[str, Any] | None, table: str
    ) -> dict[str, Any]:
        """As `may_read`, of a mapped ``table``: its own grants and policies decide."""
        schema, dot, name = table.rpartition(".")
        arguments = {
            "p_schema": schema if dot else "public",
            "p_table": name,
            "p_group": subscription.group_id,
            "p_id": subscription.id,
        }
        return await self._ask("readable_rows", arguments, auth_context)

    async def _ask(
        self, function: str, arguments: Mapping[str, Any], auth_context: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        if self._anon_key is None:
            raise ConfigError("SupabaseAuth: anon_key is needed to ask with a user's token")
        token = (auth_context or {}).get("accessToken")
        if not isinstance(token, SecretStr):
            return {"authorized": False}
        headers = {
            "apikey": self._anon_key,
            "Authorization": f"Bearer {token.get_secret_value()}",
            "Content-Profile": self._schema,
        }
        try:
            async with httpx.AsyncClient(timeout=self._timeout) as client:
                answer = await client.post(f"{self._url}/rest/v1/rpc/{function}", json=dict(arguments), headers=headers)
        except httpx.HTTPError as error:
            raise BackendUnavailable(f"supabase: cannot ask {self._url}: {type(error).__name__}") from error
        if answer.status_code in (401, 403):
            return {"authorized": False}
        if answer.status_code != 200:
            kind = BackendUnavailable if answer.status_code >= 500 else BackendError
            raise kind(f"supabase: {self._url} answered {answer.status_code} to {function}")
        return {"authorized": answer.content.strip() == b"true"}

    async def _key(self, kid: str) -> jwt.PyJWK:
        async with self._fetching:
            age = time.monotonic() - self._fetched
            if age > KEYS_LIVE or (kid not in self._keys and age > KEYS_REST):
                await self._fetch()
        if kid not in self._keys:
            raise AccessDenied("the token is not valid", reason="it names a key that the project does not have")
        return self._keys[kid]

    async def _fetch(self) -> None:
        address = f"{self._url}/auth/v1/.well-known/jwks.json"
        try:
            async with httpx.AsyncClient(timeout=self._timeout) as client:
                answer = await client.get(address)
            answer.raise_for_status()
            found = answer.json()["keys"]
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            now = time.monotonic()
            if self._keys and now < self._told + KEYS_LIVE + KEYS_STALE:  # the keys that we have go on, for now
                self._fetched = now - KEYS_LIVE + KEYS_REST
                return
            raise BackendUnavailable(f"supabase: no keys at {address}: {type(error).__name__}") from error
        keys: dict[str, jwt.PyJWK] = {}
        for key in found:
            if isinstance(key, dict) and key.get("kty") != "oct" and key.get("alg") in ALGORITHMS and "kid" in key:
                with contextlib.suppress(jwt.PyJWTError):  # one that we do not understand locks nobody else out
                    keys[str(key["kid"])] = jwt.PyJWK(key)
        self._keys = keys
        self._fetched = self._told = time.monotonic()
