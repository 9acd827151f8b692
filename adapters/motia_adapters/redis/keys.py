"""The keys of a stream. All carry the hash tag ``{namespace:stream}``: one slot of a Cluster.

| key | type | what |
|---|---|---|
| ``…:m`` | hash | ``e`` epoch, ``s`` sequence number, ``t`` timestamp of the last change (µs), ``i`` the server |
| ``…:l`` | stream | the log |
| ``…:g`` | sorted set | groups that have items, in the order of their bytes |
| ``…:t`` | sorted set | deadlines (µs): group, NUL, id |
| ``…:h:GROUP`` | hash | the group's items: version, deadline, JSON |
| ``…:z:GROUP`` | sorted set | the group's ids, in the order of their bytes |
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keys:
    """One stream's keys, and the channel on which its changes are announced."""

    prefix: str
    meta: str
    log: str
    groups: str
    deadlines: str
    channel: str

    def items(self, group: str) -> str:
        """The hash of a group's items."""
        return f"{self.prefix}h:{group}"

    @property
    def fixed(self) -> tuple[str, str, str, str]:
        """The keys that every script gets."""
        return (self.meta, self.log, self.groups, self.deadlines)


def keys_of(namespace: str, stream: str, db: int = 0) -> Keys:
    """The keys of a stream; neither name holds a brace (SEMANTICS A9).

    Channels belong to the server, not to a database: they carry its number, or a copy of the
    keys in another database would announce its changes here.
    """
    prefix = f"{{{namespace}:{stream}}}:"
    return Keys(prefix, f"{prefix}m", f"{prefix}l", f"{prefix}g", f"{prefix}t", f"{prefix}b{db or ''}")
