"""The code of the page on triggers runs, and does what the page says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from motia_core import Motia
from motia_core.testing.harness import eventually

from .blocks import write_files

STREAMS = """
from motia_core import StreamConfig

documents = StreamConfig(name="documents")
orders = StreamConfig(name="orders")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_files("how-to/triggers.md", tmp_path)
    (tmp_path / "motia" / "streams").mkdir()
    (tmp_path / "motia" / "streams" / "all_stream.py").write_text(STREAMS)
    (tmp_path / "motia.toml").write_text('[storage.default]\nadapter = "sqlite"\n')
    return tmp_path


async def test_the_steps_do_what_they_say(project: Path) -> None:
    async with Motia.from_project(project) as motia:
        documents, state = motia.streams["documents"], motia.state
        await documents.set("workspace-1", "doc-1", {"title": "Plan"})
        await documents.set("workspace-2", "doc-2", {"title": "elsewhere"})
        await documents.set("workspace-1", "doc-1", {"title": "Plan B"})

        async def counted() -> bool:
            counts = [await state.get("counts", how) for how in ("create", "update")]
            return counts == [1, 1] and await state.get("titles", "doc-1") == "Plan B"

        await eventually(counted, "the documents to be indexed and counted")
        assert await state.get("titles", "doc-2") is None

        async def ticked() -> bool:
            return bool(await state.get("clock", "seen") and await state.get("clock", "last"))

        await eventually(ticked, "a tick, and the state trigger behind it")
        await motia.streams["orders"].set("shop", "order-1", {"amount": -1})
        runner = motia.durable_steps.runners["default"]

        async def dead() -> bool:
            letters = await (await runner.dead_letters(("charge", "stream", "orders", "0"))).list()
            return [letter.attempts for letter in letters] == [3]

        await eventually(dead, "the order to be a dead letter after three attempts")


def test_the_test_passes(project: Path) -> None:
    (project / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_index.py"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=120, check=False)
    assert "1 passed" in done.stdout, done.stdout + done.stderr
