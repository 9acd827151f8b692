"""The live dashboard: group "live", item "current", with the points of the last two minutes."""

from motia_core import StreamConfig

default = StreamConfig(
    name="metrics",
    schema={
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "every": {"type": "number", "description": "Seconds between two points."},
            "total": {"type": "integer", "description": "Edits ever counted."},
            "points": {
                "type": "array",
                "maxItems": 60,
                "items": {
                    "type": "object",
                    "properties": {
                        "at": {"type": "integer", "description": "Milliseconds since the epoch."},
                        "edits": {"type": "integer", "description": "Since the point before."},
                        "people": {"type": "integer", "description": "Tabs that are open."},
                    },
                    "required": ["at", "edits", "people"],
                    "additionalProperties": False,
                },
            },
        },
        "required": ["id", "every", "total", "points"],
        "additionalProperties": False,
    },
)
