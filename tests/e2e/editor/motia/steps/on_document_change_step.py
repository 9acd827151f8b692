"""Keep an index of one group's documents, and tell others by a queue what was done."""

from typing import Any

from motia_core import queue, step, stream


async def index(input: Any, ctx: Any) -> None:
    event, group_id, item_id = input["event"], input["groupId"], input["id"]
    if event["type"] == "delete":
        await ctx.state.delete("index", item_id)
    else:
        await ctx.state.set("index", item_id, {"title": event["data"]["title"], "by": event["type"]})
    ctx.logger.info("indexed", extra={"id": item_id, "data": event["data"]})
    data = {"groupId": group_id, "id": item_id, "type": event["type"]}
    await ctx.enqueue({"topic": "document-indexed", "data": data})


async def indexed(input: Any, ctx: Any) -> None:
    await ctx.state.update("indexed", input.id, [{"type": "append", "path": [], "value": input["type"]}])


index_step = step(
    {
        "name": "on-document-change",
        "triggers": [stream("documents", group_id="workspace-123")],
        "enqueues": ["document-indexed"],
    },
    index,
)
indexed_step = step({"name": "document-indexed", "triggers": [queue("document-indexed")]}, indexed)
