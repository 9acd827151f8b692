"""Add a point to the dashboard every two seconds: once, however many servers there are."""

from typing import Any

from motia_core import cron, step

EVERY = 2
KEPT = 60


async def handler(input: Any, ctx: Any) -> None:
    metrics, presence = ctx.streams["metrics"], ctx.streams["presence"]
    current = await metrics.get("live", "current") or {"total": None, "points": []}
    total = sum(insight["edits"] for insight in await ctx.streams["insights"].list("shared"))
    point = {
        "at": input.timestamp,
        "edits": max(0, total - current["total"]) if current["total"] is not None else 0,
        "people": sum([len(await presence.list(room)) for room in await presence.list_groups()]),
    }
    points = [known for known in current["points"] if known["at"] < point["at"]]
    item = {"id": "current", "every": EVERY, "total": total, "points": [*points, point][-KEPT:]}
    await metrics.set("live", "current", item)


default = step({"name": "update-metrics", "triggers": [cron(f"*/{EVERY} * * * * *", catch_up="none")]}, handler)
