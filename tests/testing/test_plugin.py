"""The fixture `motia` in an application's own tests, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

STREAM = """\
from motia_core import StreamConfig

default = StreamConfig(name="documents", base_config={"storageType": "orders"})
"""

STEP = """\
from motia_core import step, stream


async def handler(input, ctx):
    await ctx.state.set("seen", input.id, input.event.data["title"])


default = step({"name": "see", "triggers": [stream("documents")]}, handler)
"""

TESTS = """\
import asyncio


async def test_a_step_sees_what_is_written(motia):
    assert await motia.streams["documents"].list("g") == []
    await motia.streams["documents"].set("g", "x", {"title": "Plan"})
    async with asyncio.timeout(20):
        while await motia.state.get("seen", "x") != "Plan":
            await asyncio.sleep(0.01)


async def test_each_test_begins_with_nothing(motia):
    assert await motia.streams["documents"].list("g") == []
    assert await motia.state.get("seen", "x") is None
"""


def run(folder: Path, ini: str = "") -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text(
        f"[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n{ini}"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def write(project: Path) -> None:
    for folder, name, text in (("streams", "documents_stream.py", STREAM), ("steps", "see_step.py", STEP)):
        (project / "motia" / folder).mkdir(parents=True)
        (project / "motia" / folder / name).write_text(text)
    (project / "motia.toml").write_text('[storage.orders]\nadapter = "sqlite"\npath = "${NOT_SET_IN_TESTS}"\n')


def test_the_project_is_opened_in_memory_with_its_triggers(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "test_project.py").write_text(TESTS)
    done = run(tmp_path)
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    assert not list(tmp_path.glob("**/*.db"))


def test_the_project_may_be_elsewhere(tmp_path: Path) -> None:
    write(tmp_path / "app")
    (tmp_path / "test_project.py").write_text(TESTS)
    done = run(tmp_path, "motia_project = app\n")
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_no_project_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "test_project.py").write_text(TESTS)
    done = run(tmp_path)
    assert done.returncode == 1
    assert f"{tmp_path}: is no project" in done.stdout


def test_it_needs_nothing_that_an_application_may_not_have() -> None:
    """pytest loads it wherever motia-core is installed, with or without the suite's own needs."""
    code = "import sys, motia_core.pytest_plugin; print({'hypothesis', 'motia_core.app'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "set()\n"
