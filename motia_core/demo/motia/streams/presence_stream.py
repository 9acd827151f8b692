"""Who is there: one group for each document, one item for each open tab, gone when its heartbeat stops."""

from motia_core import StreamConfig

default = StreamConfig(
    name="presence",
    schema={
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "name": {"type": "string", "minLength": 1, "maxLength": 40},
            "hue": {"type": "integer", "minimum": 0, "maximum": 360, "description": "The colour of this person."},
            "seenAt": {"type": "integer", "description": "Milliseconds since the epoch."},
        },
        "required": ["id", "name", "hue", "seenAt"],
        "additionalProperties": False,
    },
)
