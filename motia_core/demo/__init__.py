"""The bundled example: two tabs edit one document, see each other, and resume after a cut.

A project like any other: ``motia/streams`` and ``motia/steps`` are found by themselves,
``page`` is what its server shows at ``/``.
"""

from __future__ import annotations

from pathlib import Path

PROJECT = Path(__file__).parent
"""The project's folder."""

PAGE = PROJECT / "page"
"""The static files; ``index.html`` is the page."""
