"""One watch: the log is read whenever the bell rings; small writes come with the news."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from motia_adapters.postgresql.bells import Bells, rung
from motia_adapters.postgresql.reads import Reads
from motia_core.model import Batch


async def watched(reads: Reads, bells: Bells, after: str) -> AsyncGenerator[Batch, None]:
    """Yield what follows ``after``, until the database is closed. Raises `PositionExpired`."""
    begun = False
    pause: float | None = None
    with bells.listen(reads.namespace, reads.name, after) as bell:
        while reads.is_open:
            bell.event.clear()
            more = bool(bell.offered)
            offered = reads.offered(after, bell.offered.popleft()) if more and not bell.look else None
            if offered is not None:
                more, batch = bool(bell.offered), offered
            elif more or bell.look or pause is not None:
                bell.look = False
                bell.offered.clear()
                batch, more = await reads.changes(after)
                bell.look = bell.look or more
            else:
                batch = Batch((), after)
            if batch.changes or not begun:
                begun = True
                bell.position = after = batch.position
                pause = reads.eager
                yield batch
            if not more:
                await rung(bell, pause)
                pause = None if pause is None or pause > 1 else pause * 2
