"""Presence follows the users."""

from time import time
from typing import Any

from motia_core import step, stream


async def track(input: Any, ctx: Any) -> None:
    event, id = input.event, input.id
    if event.type == "update" and event.data.get("status"):
        await ctx.streams.presence.set(
            "global", id, {"id": id, "userId": id, "status": event.data["status"], "lastSeen": int(time() * 1000)}
        )


default = step({"name": "track-presence", "triggers": [stream("users")]}, track)
