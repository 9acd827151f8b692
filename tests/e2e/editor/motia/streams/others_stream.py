"""The streams that anybody may listen to."""

from motia_core import StreamConfig

metrics = StreamConfig(name="metrics")
users = StreamConfig(name="users")
presence = StreamConfig(name="presence")
