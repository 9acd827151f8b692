"""Change the title or the text of a document."""

from time import time
from typing import Any

from motia_core import http, step

BODY = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 200},
        "content": {"type": "string", "maxLength": 100_000},
        "editorId": {"type": "string", "minLength": 1, "maxLength": 64},
    },
    "required": ["editorId"],
    "additionalProperties": False,
    "minProperties": 2,
}


async def handler(input: Any, ctx: Any) -> dict[str, Any]:
    document_id = input.request.path_params["id"]
    documents = ctx.streams["documents"]
    if await documents.get("shared", document_id) is None:
        return {"status": 404, "body": {"error": f"no document {document_id!r}"}}
    changed = {**input.request.body, "updatedAt": int(time() * 1000)}
    # Only the fields that were sent: the title and the text can be edited at the same time.
    result = await documents.update(
        "shared", document_id, [{"type": "set", "path": field, "value": value} for field, value in changed.items()]
    )
    return {"status": 200, "body": {"version": result.version, "position": result.position}}


default = step({"name": "edit-document", "triggers": [http("PATCH", "/docs/{id}", body_schema=BODY)]}, handler)
