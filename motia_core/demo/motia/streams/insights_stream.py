"""What a step finds out about the documents: group "shared", one item for each document."""

from motia_core import StreamConfig

default = StreamConfig(
    name="insights",
    schema={
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "words": {"type": "integer"},
            "minutes": {"type": "integer", "description": "To read it, at 220 words a minute."},
            "edits": {"type": "integer", "description": "Changes that were counted."},
            "position": {"type": "string", "description": "Of the last change that was counted."},
        },
        "required": ["id", "words", "minutes", "edits", "position"],
        "additionalProperties": False,
    },
)
