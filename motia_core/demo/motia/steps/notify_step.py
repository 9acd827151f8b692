"""Tell everybody at a document something that is not worth keeping: a wave, a moved caret."""

from typing import Any

from motia_core import http, step

BODY = {
    "type": "object",
    "properties": {
        "type": {"enum": ["wave", "caret"]},
        "data": {"type": "object", "maxProperties": 10},
    },
    "required": ["type", "data"],
    "additionalProperties": False,
}


async def handler(input: Any, ctx: Any) -> dict[str, Any]:
    target = {"groupId": "shared", "id": input.request.path_params["id"]}
    await ctx.streams["documents"].send(
        target, {"type": input.request.body["type"], "data": input.request.body["data"]}
    )
    return {"status": 202, "body": {"sent": True}}


default = step({"name": "notify", "triggers": [http("POST", "/docs/{id}/notify", body_schema=BODY)]}, handler)
