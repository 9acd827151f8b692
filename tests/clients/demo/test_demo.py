"""The demo: its shared text, its page in a real browser, and that it stands alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from motia_core.demo import PAGE, PROJECT

HERE = Path(__file__).parent


def run(command: list[str], **environment: str) -> None:
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_the_shared_text_agrees_and_loses_nothing(node_command: list[str]) -> None:
    script = str(HERE / "text.test.mjs")
    run([*node_command, "--test", script], TEXT_MODULE=(PAGE / "text.js").as_uri())


def test_the_page_needs_nothing_from_elsewhere() -> None:
    """No address but the page's own; every file it names is there, or is the client."""
    for path in PAGE.iterdir():
        content = path.read_text(encoding="utf-8")
        assert set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[\w./]*", content)) <= {"http://www.w3.org/2000/svg"}, (
            path.name
        )
        for name in re.findall(r"""(?:from |href=|src=|import )"\.?/?([\w-]+\.\w+)\"""", content):
            assert (PAGE / name).is_file() or name == "client.js", f"{path.name} names {name}"


def test_the_project_has_its_streams_and_steps() -> None:
    streams = {path.name for path in (PROJECT / "motia" / "streams").glob("*_stream.py")}
    steps = {path.name for path in (PROJECT / "motia" / "steps").glob("*_step.py")}
    assert streams >= {"documents_stream.py", "presence_stream.py"}
    assert steps >= {"edit_document_step.py", "notify_step.py", "open_document_step.py", "presence_step.py"}


@pytest.fixture
def demo_url() -> str:
    """The address of a running demo."""
    url = os.environ.get("MOTIA_DEMO_URL")
    if url is None:
        pytest.skip("no demo is running: set MOTIA_DEMO_URL to the address of one")
    return url


def test_two_tabs(demo_url: str, node_command: list[str], node_modules: Path) -> None:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip("no Chromium is installed")
    playwright = str(node_modules / "playwright-core" / "index.mjs")
    run([*node_command, str(HERE / "two_tabs.mjs"), demo_url, browser, playwright])
