"""Shared documents: group "shared", one item for each document."""

from motia_core import StreamConfig

default = StreamConfig(
    name="documents",
    schema={
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "title": {"type": "string", "maxLength": 200},
            "content": {"type": "string", "maxLength": 100_000},
            "editorId": {"type": ["string", "null"], "description": "Whose change was the last."},
            "updatedAt": {"type": "integer", "description": "Milliseconds since the epoch."},
        },
        "required": ["id", "title", "content", "editorId", "updatedAt"],
        "additionalProperties": False,
    },
)
