"""``nox -s bench``: every claim of speed, as a ratio to a baseline of the same run.

Rounds are interleaved (ours, baseline, ours, ...), medians are compared, and all figures
go to ``bench-results/`` as JSON. ``python -m benchmarks NAME ...`` runs some rows only.
"""

from __future__ import annotations

import asyncio
import json
import platform
import statistics
import sys
import time
from pathlib import Path

from benchmarks import (
    durable,
    firestore_mapped,
    firestore_server,
    inprocess,
    mongodb_server,
    postgres_server,
    redis_server,
    sockets,
    storage,
)
from benchmarks.rows import Measured, Row

ROUNDS = 5
ROWS: list[Row] = [
    *storage.ROWS,
    *redis_server.ROWS,
    *mongodb_server.ROWS,
    *firestore_server.ROWS,
    *firestore_mapped.ROWS,
    *postgres_server.ROWS,
    *inprocess.ROWS,
    *sockets.ROWS,
    *durable.ROWS,
]


async def measure(row: Row) -> dict[str, object]:
    """Run a row's subjects in turn and compare their medians."""
    figures: dict[str, list[float]] = {name: [] for name in row.subjects}
    for _ in range(row.rounds or ROUNDS):
        for name, subject in row.subjects.items():
            figures[name].append(await subject())
    medians = {name: statistics.median(values) for name, values in figures.items()}
    print(f"\n{row.name}  [{row.unit}, {'more' if row.more_is_better else 'less'} is better]")
    ours = medians[row.ours]
    ratios = {}
    for name, median in medians.items():
        spread = f"{min(figures[name]):,.4g} .. {max(figures[name]):,.4g}"
        note = ""
        if name != row.ours:
            ratios[name] = ours / median
            note = f"   ours / this = {ratios[name]:.2f}"
        print(f"  {name:<44} {median:>14,.4g}   ({spread}){note}")
    print(f"  floor {row.floor}; goal {row.goal}")
    return {
        "row": row.name,
        "unit": row.unit,
        "medians": medians,
        "all": figures,
        "ratios": ratios,
        "floor": row.floor,
        "goal": row.goal,
    }


async def main(names: list[str]) -> None:
    """Measure the rows whose names hold one of ``names``, or all."""
    results = []
    for row in ROWS:
        if not names or any(name in row.name for name in names):
            results.append(await measure(row))
    folder = Path("bench-results")
    folder.mkdir(exist_ok=True)
    file = folder / time.strftime("%Y%m%d-%H%M%S.json")
    about = {"python": sys.version, "machine": platform.platform(), "rounds": ROUNDS}
    file.write_text(json.dumps({"about": about, "rows": results}, indent=2))
    print(f"\nAll figures: {file}")


__all__ = ["Measured", "main", "measure"]

if __name__ == "__main__":
    try:
        import uvloop

        uvloop.run(main(sys.argv[1:]))
    except ImportError:
        asyncio.run(main(sys.argv[1:]))
