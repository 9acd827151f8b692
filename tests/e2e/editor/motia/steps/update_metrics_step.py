"""The dashboard: one item, refreshed by the clock."""

import os
from typing import Any

from motia_core import cron, step

EVERY = os.environ.get("METRICS_EVERY", "*/30 * * * * *")


async def update_metrics(input: Any, ctx: Any) -> None:
    groups = await ctx.streams["documents"].list_groups()
    await ctx.streams["metrics"].set(
        "live", "current", {"id": "current", "workspaces": len(groups), "timestamp": input.timestamp}
    )


default = step({"name": "update-metrics", "triggers": [cron(EVERY)]}, update_metrics)
