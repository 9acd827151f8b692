"""What ``doctor`` says about the server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from motia_core.adapter import Finding


async def diagnose(ask: Callable[..., Awaitable[Any]], schema: str) -> list[Finding]:
    """Findings; ``ask`` runs one SQL statement and returns its first value."""
    return []
