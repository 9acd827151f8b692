"""Plugins on disk, as ``pip install`` leaves them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a distribution with one plugin module on the path, as ``pip install`` would."""
    before = set(sys.modules)

    def put(distribution: str, code: str, *, name: str = "it", module: str | None = None, target: str = "") -> None:
        module = module or f"plugin_of_{distribution.replace('-', '_')}"
        (tmp_path / f"{module}.py").write_text("from motia_core.hookspecs import hookimpl\n" + code)
        info = tmp_path / f"{distribution.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[motia.adapters]\n{name} = {module}{target}\n")

    monkeypatch.syspath_prepend(tmp_path)
    yield put
    for module in set(sys.modules) - before:
        if module.startswith("plugin_of_"):
            del sys.modules[module]
