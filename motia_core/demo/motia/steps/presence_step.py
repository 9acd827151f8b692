"""Come, stay, and go: an open tab says every few seconds that it is there."""

from time import time
from typing import Any

from motia_core import http, step

TTL = 12.0
"""Seconds without a heartbeat until somebody is gone; the page sends one every four."""

BODY = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 40},
        "hue": {"type": "integer", "minimum": 0, "maximum": 360},
    },
    "required": ["name", "hue"],
    "additionalProperties": False,
}


async def be_here(input: Any, ctx: Any) -> dict[str, Any]:
    room, person = input.request.path_params["room"], input.request.path_params["id"]
    item = {"id": person, **input.request.body, "seenAt": int(time() * 1000)}
    await ctx.streams["presence"].set(room, person, item, ttl=TTL)
    return {"status": 200, "body": {"ttl": TTL}}


async def leave(input: Any, ctx: Any) -> dict[str, Any]:
    room, person = input.request.path_params["room"], input.request.path_params["id"]
    gone = await ctx.streams["presence"].delete(room, person)
    return {"status": 200, "body": {"gone": gone is not None}}


heartbeat_step = step(
    {"name": "presence-heartbeat", "triggers": [http("POST", "/presence/{room}/{id}", body_schema=BODY)]}, be_here
)
# A page that is being closed can only send a beacon, and a beacon is a POST.
leave_step = step({"name": "presence-leave", "triggers": [http("POST", "/presence/{room}/{id}/leave")]}, leave)
