"""Read, write, change and announce documents over HTTP."""

from time import time
from typing import Any

from motia_core import http, step


async def read(input: Any, ctx: Any) -> dict[str, Any]:
    path = input.request.path_params
    document = await ctx.streams["documents"].get(path["workspaceId"], path["docId"])
    if not document:
        return {"status": 404, "body": {"error": "Document not found"}}
    return {"status": 200, "body": document}


async def write(input: Any, ctx: Any) -> dict[str, Any]:
    path = input.request.path_params
    result = await ctx.streams.documents.set(path["workspaceId"], path["docId"], {"id": path["docId"], **input.body})
    return {"status": 200, "body": {"type": result.type}}


async def edit(input: Any, ctx: Any) -> dict[str, Any]:
    operations = [
        {"type": "set", "path": "content", "value": input.request.body["content"]},
        {"type": "set", "path": "updatedAt", "value": int(time() * 1000)},
    ]
    await ctx.streams["documents"].update("shared", input.request.path_params["id"], operations)
    return {"status": 200, "body": {"updated": True}}


async def remove(input: Any, ctx: Any) -> dict[str, Any]:
    path = input.request.path_params
    await ctx.streams["documents"].delete(path["workspaceId"], path["docId"])
    return {"status": 200, "body": {"deleted": True}}


async def notify(input: Any, ctx: Any) -> dict[str, Any]:
    data = {"message": input.request.body["message"], "timestamp": int(time() * 1000)}
    target = {"groupId": "workspace-1", "id": input.request.path_params["docId"]}
    await ctx.streams["documents"].send(target, {"type": "notification", "data": data})
    return {"status": 200, "body": {"sent": True}}


DOCUMENT = "/workspaces/{workspaceId}/documents/{docId}"

read_step = step({"name": "get-document", "triggers": [http("GET", DOCUMENT)]}, read)
write_step = step({"name": "put-document", "triggers": [http("PUT", DOCUMENT)]}, write)
remove_step = step({"name": "remove-document", "triggers": [http("DELETE", DOCUMENT)]}, remove)
edit_step = step({"name": "edit-document", "triggers": [http("PATCH", "/docs/:id")]}, edit)
notify_step = step({"name": "notify-collaborators", "triggers": [http("POST", "/documents/{docId}/notify")]}, notify)
