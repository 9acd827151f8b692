"""A token is the name of its user."""

from typing import Any


async def authenticate(request: Any) -> dict[str, Any] | None:
    return {"userId": request.token} if request.token else None
