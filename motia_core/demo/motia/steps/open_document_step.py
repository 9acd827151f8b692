"""Make sure that a document is there before anybody edits it."""

from time import time
from typing import Any

from motia_core import http, step
from motia_core.errors import Conflict

TITLE = "Read me in two tabs"
CONTENT = """\
Open this page a second time, side by side, and type in either one.

Each pause in your typing is one small PATCH. A step writes it to the stream, in one \
atomic act with its event, and every tab that listens gets the change, in the same \
order, with a position.

Now press “Unplug” in one tab, go on writing in the other, and plug it in again. \
It asks for what came after its last position, and gets exactly that.
"""


async def handler(input: Any, ctx: Any) -> dict[str, Any]:
    document_id = input.request.path_params["id"]
    document = {
        "id": document_id,
        "title": TITLE,
        "content": CONTENT,
        "editorId": None,
        "updatedAt": int(time() * 1000),
    }
    try:
        await ctx.streams["documents"].set("shared", document_id, document, expect="absent")
    except Conflict:
        return {"status": 200, "body": {"created": False}}
    return {"status": 201, "body": {"created": True}}


default = step({"name": "open-document", "triggers": [http("POST", "/docs/{id}/open")]}, handler)
