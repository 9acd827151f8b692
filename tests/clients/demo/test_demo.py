"""The demo: its shared text, its page in a real browser, and that it stands alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from motia_core.demo import PAGE, PROJECT

HERE = Path(__file__).parent


def run(command: list[str], **environment: str) -> None:
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_the_shared_text_agrees_and_loses_nothing(node_command: list[str], tmp_path: Path) -> None:
    # Browsers know that it is a module; Node goes by the name.
    module = tmp_path / "text.mjs"
    shutil.copy(PAGE / "text.js", module)
    run([*node_command, "--test", str(HERE / "text.test.mjs")], TEXT_MODULE=module.as_uri())


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
    assert streams >= {f"{name}_stream.py" for name in ("documents", "presence", "insights", "metrics")}
    names = ("edit_document", "notify", "open_document", "presence", "insight", "update_metrics")
    assert steps >= {f"{name}_step.py" for name in names}


@pytest.fixture
def demo_url(tmp_path: Path) -> Iterator[str]:
    """The address of a demo that runs."""
    command = [sys.executable, "-m", "motia_core.cli", "demo", "--no-open", "--port", "0", "--data", str(tmp_path)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as demo:
        assert demo.stderr is not None
        said = demo.stderr.readline()
        found = re.search(r"http://\S+", said)
        try:
            assert found, said
            yield found[0].rstrip("/") + "/"
        finally:
            demo.terminate()
            demo.wait(timeout=20)


def test_who_has_not_seen_the_newest_text_does_not_undo_it(demo_url: str) -> None:
    with httpx.Client(base_url=demo_url) as client:
        assert client.post("docs/x/open").status_code == 201
        first = {"content": "first", "editorId": "a"}
        assert client.patch("docs/x", json=first).status_code == 200
        assert client.patch("docs/x", json={"content": "mine", "base": "first", "editorId": "a"}).status_code == 200
        late = client.patch("docs/x", json={"content": "late", "base": "first", "editorId": "b"})
        assert (late.status_code, "somebody else was first" in late.text) == (409, True)
        assert client.patch("docs/x", json={"content": "late", "base": "mine", "editorId": "b"}).status_code == 200


def test_two_tabs(demo_url: str, node_command: list[str], node_modules: Path) -> None:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip("no Chromium is installed")
    playwright = str(node_modules / "playwright-core" / "index.mjs")
    run([*node_command, str(HERE / "two_tabs.mjs"), demo_url, browser, playwright])
