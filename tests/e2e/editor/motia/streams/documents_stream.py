"""Documents: only members of a workspace may listen."""

from typing import Any

from motia_core import StreamConfig


async def on_join(subscription: Any, ctx: Any, auth_context: Any) -> dict[str, Any]:
    workspace = await ctx.state.get("workspaces", subscription.group_id)
    user = auth_context.get("userId") if auth_context else None
    if not workspace or user not in workspace.get("members", []):
        return {"authorized": False}
    return {"authorized": True, "context": {"userId": user, "workspaceId": subscription.group_id}}


async def on_leave(subscription: Any, ctx: Any, auth_context: Any) -> None:
    ctx.logger.info("left", extra={"userId": (auth_context or {}).get("userId"), "groupId": subscription.group_id})


default = StreamConfig(
    name="documents",
    schema={
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "title": {"type": "string"},
            "content": {"type": "string"},
            "updatedAt": {"type": "number"},
            "authorId": {"type": "string"},
        },
    },
    base_config={"storageType": "default"},
    on_join=on_join,
    on_leave=on_leave,
)
