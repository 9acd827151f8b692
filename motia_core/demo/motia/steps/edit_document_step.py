"""Change the title or the text of a document."""

from time import time
from typing import Any

from motia_core import http, step
from motia_core.errors import Conflict

BODY = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 200},
        "content": {"type": "string", "maxLength": 100_000},
        "base": {"type": "string", "maxLength": 100_000, "description": "The text that what is sent was made of."},
        "editorId": {"type": "string", "minLength": 1, "maxLength": 64},
    },
    "required": ["editorId"],
    "additionalProperties": False,
    "minProperties": 2,
}


async def handler(input: Any, ctx: Any) -> dict[str, Any]:
    document_id = input.request.path_params["id"]
    documents = ctx.streams["documents"]
    version = await documents.version("shared", document_id)
    document = await documents.get("shared", document_id)
    if document is None:
        return {"status": 404, "body": {"error": f"no document {document_id!r}"}}
    changed = {**input.request.body, "updatedAt": int(time() * 1000)}
    base = changed.pop("base", None)
    texts = [document[field] for field in ("title", "content") if field in changed]
    newer = {"status": 409, "body": {"error": "somebody else was first: the stream has the newer text"}}
    if base is not None and texts != [base]:
        return newer
    # Only the fields that were sent; and only if nobody undoes a change that they have not seen.
    operations = [{"type": "set", "path": field, "value": value} for field, value in changed.items()]
    try:
        result = await documents.update("shared", document_id, operations, expect=version)
    except Conflict:
        return newer
    return {"status": 200, "body": {"version": result.version, "position": result.position}}


default = step({"name": "edit-document", "triggers": [http("PATCH", "/docs/{id}", body_schema=BODY)]}, handler)
