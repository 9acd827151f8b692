"""Count words whenever a document changes, whoever changed it and by whatever way."""

from typing import Any

from motia_core import step, stream

PACE = 220


async def handler(input: Any, ctx: Any) -> None:
    insights = ctx.streams["insights"]
    known = await insights.get("shared", input.id)
    if input.event.type == "delete":
        await insights.delete("shared", input.id)
        return
    if known is not None and known["position"] >= ctx.trigger.position:
        return  # this change was counted already, by a run that did not live to say so
    words = len(f"{input.event.data['title']} {input.event.data['content']}".split())
    insight = {
        "id": input.id,
        "words": words,
        "minutes": max(1, round(words / PACE)),
        "edits": (known["edits"] if known else 0) + (input.event.type == "update"),
        "position": ctx.trigger.position,
    }
    await insights.set("shared", input.id, insight)


default = step({"name": "count-words", "triggers": [stream("documents", group_id="shared")]}, handler)
