"""What a row of the bench is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

Measured = Callable[[], Awaitable[float]]
"""Measures once and returns the figure."""


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison. ``subjects`` are measured in turn; ``ours`` names the one that is ours."""

    name: str
    unit: str
    subjects: Mapping[str, Measured]
    ours: str
    floor: str
    goal: str
    more_is_better: bool = True
    rounds: int | None = None


def document(size: int) -> dict[str, object]:
    """An ordinary document of about so many bytes as JSON."""
    base: dict[str, object] = {
        "id": "doc-123",
        "title": "Proposal",
        "authorId": "user-42",
        "updatedAt": 1_790_000_000_000,
        "tags": ["draft", "shared", "2026"],
        "meta": {"views": 12, "rating": 4.5, "public": True, "parent": None},
    }
    base["content"] = "x" * max(0, size - 190)
    return base
