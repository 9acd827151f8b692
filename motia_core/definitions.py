"""What a project declares: its streams, and who may listen to them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from motia_core.errors import ConfigError
from motia_core.names import check_stream_name

AuthContext = dict[str, Any] | None
"""Who a client is, as ``authenticate`` said; ``None``: an anonymous visitor."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a client asks to listen to: a group, or one item of it."""

    stream_name: str
    group_id: str
    id: str | None = None
    subscription_id: str | None = None
    context: Mapping[str, Any] | None = field(default=None, repr=False)
    """What ``on_join`` returned as its context; there for ``on_leave``."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is known of a client that connects, for ``authenticate``."""

    token: str | None = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    """Names in lower case."""
    query_params: Mapping[str, str] = field(repr=False)
    path: str
    addr: tuple[str, int] | None
    """The client's host and port, where the transport has them."""


@dataclass(frozen=True, slots=True)
class Auth:
    """An ``authenticate`` answer with an expiry: ``expires_at`` in seconds since the epoch."""

    context: AuthContext
    expires_at: float | None = None


JoinHook = Callable[[Subscription, Any, AuthContext], Awaitable[Any] | Any]
"""``on_join(subscription, ctx, auth_context)``, plain or async: see `StreamConfig.on_join`."""


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """Declares one stream.

    Raises `ConfigError` or `InvalidName` at once when the declaration makes no sense.
    """

    name: str
    schema: type[BaseModel] | Mapping[str, Any] | None = None
    """A Pydantic model or a JSON Schema; every value written is checked against it (A8)."""
    base_config: Mapping[str, Any] = field(default_factory=dict)
    """``{"storageType": NAME}`` chooses a ``[storage.NAME]``; "default" if left out."""
    on_join: JoinHook | None = None
    """Says who may listen: ``{"authorized": True, "context": ...}`` or ``{"authorized":
    False}``. Anything it does not say clearly, any error and any delay past the limit is
    a no. Without it the stream is open to whoever ``authenticate`` let in."""
    on_leave: JoinHook | None = None
    """Runs once for each join that was allowed, however the connection ends."""

    def __post_init__(self) -> None:
        check_stream_name(self.name)
        unknown = set(self.base_config) - {"storageType"}
        if unknown:
            raise ConfigError(
                f"stream {self.name!r}: unknown base_config key {sorted(unknown)[0]!r}; allowed: 'storageType'"
            )
        if not isinstance(self.storage_type, str):
            raise ConfigError(f"stream {self.name!r}: storageType must be text")
        for hook in ("on_join", "on_leave"):
            if getattr(self, hook) is not None and not callable(getattr(self, hook)):
                raise ConfigError(f"stream {self.name!r}: {hook} must be a function")

    @property
    def storage_type(self) -> str:
        """The storage type this stream lives in."""
        return self.base_config.get("storageType", "default")  # type: ignore[no-any-return]
