"""Positions, and the identity of the history they belong to.

Every change takes the next number of one sequence that the whole file shares. Each time
a process opens the file it begins a new *epoch* with a random name: that name belongs to
all numbers from there on, whoever takes them, until the next epoch. A position is
``NUMBER-EPOCH``. A file that was restored from a copy comes back without the epochs (or
the numbers) of the lost history, and what is written next belongs to a new one, so a
position of the lost history no longer fits. A mere restart changes no earlier epoch.
"""

from __future__ import annotations

import re
import secrets
import sqlite3
from bisect import bisect_right

from motia_core.errors import PositionExpired

_POSITION = re.compile(r"([0-9a-f]{16})-([0-9a-f]{12})\Z")


def new_epoch() -> str:
    """A name that no other epoch has."""
    return secrets.token_hex(6)


def format_position(seq: int, epoch: str) -> str:
    """The position of sequence number ``seq``: 29 characters that compare as the numbers do."""
    return f"{seq:016x}-{epoch}"


class History:
    """What one connection knows of the file's clock and epochs.

    ``seq`` is the last number taken, ``ts`` its timestamp (ms), ``epoch`` the newest epoch.
    ``lost`` tells that `read` found an older copy in the place of what was there, until a
    writer has begun a new epoch for it.
    """

    __slots__ = ("_firsts", "_names", "_newest_first", "epoch", "lost", "seq", "ts")

    def __init__(self) -> None:
        self.seq = -1
        self.ts = 0.0
        self.epoch = ""
        self.lost = False
        self._firsts: list[int] = []
        self._names: list[str] = []
        self._newest_first = 0

    def read(self, connection: sqlite3.Connection) -> bool:
        """Read the clock, inside a transaction. Whether anything but the clock has changed.

        After ``True`` all that was kept from before (stream numbers, say) must be read anew.
        """
        seq, ts, epoch = connection.execute("SELECT seq, ts, epoch FROM motia_clock").fetchone()
        if epoch == self.epoch and seq >= self.seq:
            self.seq = seq
            self.ts = ts
            return False
        known = self.head if self._firsts else None
        rows = connection.execute("SELECT first_seq, epoch FROM motia_epochs ORDER BY first_seq").fetchall()
        self._firsts = [first for first, _ in rows]
        self._names = [name for _, name in rows]
        self._newest_first = self._firsts[-1]
        self.seq, self.ts, self.epoch = seq, ts, epoch
        self.lost = self.lost or (known is not None and not self.holds(known))
        return True

    def begin_epoch(self, connection: sqlite3.Connection) -> None:
        """Start a new epoch after the last number, inside a write transaction."""
        epoch = new_epoch()
        connection.execute("INSERT OR REPLACE INTO motia_epochs VALUES (?, ?)", (self.seq + 1, epoch))
        connection.execute("UPDATE motia_clock SET epoch = ?", (epoch,))
        self.read(connection)

    def position(self, seq: int) -> str:
        """The position of a number that is in the past."""
        if seq >= self._newest_first:
            return f"{seq:016x}-{self.epoch}"
        return f"{seq:016x}-{self._names[max(bisect_right(self._firsts, seq) - 1, 0)]}"

    @property
    def head(self) -> str:
        """The position of the last number taken."""
        return self.position(self.seq)

    def holds(self, position: str) -> bool:
        """Whether ``position`` is a place in this history."""
        match = _POSITION.match(position)
        if match is None:
            return False
        seq = int(match[1], 16)
        return seq <= self.seq and self.position(seq) == position

    def number(self, position: str, floor: int) -> int:
        """The sequence number of ``position``; history up to number ``floor`` is gone.

        Raises `PositionExpired` if the changes after it cannot be told.
        """
        if not self.holds(position):
            reason = "is not a place in this store's history (restored, replaced, or never its own)"
        elif (seq := int(position[:16], 16)) < floor:
            reason = "is older than the history that is kept"
        else:
            return seq
        raise PositionExpired(
            f"sqlite: position {position[:64]!r} {reason}", position=position, floor=self.position(floor)
        )
