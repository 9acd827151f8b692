"""``serve``, ``dev`` and ``demo`` as processes: they answer, they end well, they say what is wrong."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

Start = Callable[..., Any]
Cli = Callable[..., Any]

SERVING = r"^Serving on (http://127\.0\.0\.1:\d+)$"


def fetched(url: str) -> Any:
    """The JSON at a URL."""
    with urlopen(url, timeout=30) as answer:
        return json.loads(answer.read())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_answers_and_ends_cleanly(start: Start, project: Path, number: int) -> None:
    running = start("serve")
    url = running.wait_for(SERVING)[1]
    assert fetched(f"{url}/answer") == {"answer": 1}
    assert fetched(f"{url}/healthz")["storages"] == {"default": "ok", "inside": "ok"}
    assert running.end(number) == 0
    assert "Traceback" not in "".join(running.err)
    # SQLite removes its log when the last connection is closed in order.
    assert [file.name for file in (project / "data").iterdir() if file.name.endswith("-wal")] == []


def test_the_command_line_has_the_last_word_about_the_address(start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        free = taken.getsockname()[1]
    running = start("serve", "--host", "127.0.0.1", "--port", str(free))
    assert running.wait_for(SERVING)[1] == f"http://127.0.0.1:{free}"
    running.end()


def test_a_taken_port_is_an_error_that_says_so(cli: Cli) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = cli("serve", "--port", str(port))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: cannot listen on 127.0.0.1, port {port}: Address already in use\n"


def test_what_keeps_a_project_from_being_served_is_one_line(cli: Cli, project: Path) -> None:
    (project / "motia.toml").write_text('[storage.default]\nadapter = "sqlite"\npath = "motia"\n')
    done = cli("serve", "--port", "0")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    (project / "motia.toml").write_text("[server]\nprot = 1\n")
    error = f"error: {project}/motia.toml: server.prot: unknown key; did you mean 'port'?"
    assert cli("serve").stderr.startswith(error)
    words = cli("serve", "--log-level", "loud").stderr.replace("│", " ").split()
    assert "'loud' is no level; use debug, info, warning or error" in " ".join(words)


@pytest.mark.parametrize(("level", "told"), [("info", False), ("debug", True)])
def test_a_line_for_each_request_of_a_storage_is_only_for_debugging(
    start: Start, project: Path, level: str, told: bool
) -> None:
    step = project / "motia/steps/answer_step.py"
    said = (
        'import logging\nlogging.getLogger("httpx").info("a request")\nlogging.getLogger("httpx").warning("trouble")\n'
    )
    step.write_text(said + step.read_text())
    running = start("serve", "--log-level", level)
    running.wait_for(SERVING)
    running.end()
    assert "WARNING httpx: trouble" in "".join(running.err)
    assert ("INFO httpx: a request" in "".join(running.err)) is told


def test_dev_starts_again_at_every_change_and_outlives_mistakes(start: Start, project: Path) -> None:
    step = project / "motia/steps/answer_step.py"
    good = step.read_text()
    running = start("dev")
    assert fetched(f"{running.wait_for(SERVING)[1]}/answer") == {"answer": 1}

    step.write_text(good.replace('"answer": 1', '"answer": 2'))
    running.wait_for(r"^changed: motia/steps/answer_step\.py; starting again$")
    assert fetched(f"{running.wait_for(SERVING, times=2)[1]}/answer") == {"answer": 2}

    step.write_text("1 / 0")
    running.wait_for(r"^error: motia/steps/answer_step\.py, line 1: ZeroDivisionError: division by zero$")
    running.wait_for(r"^the server ended \(exit code 1\); waiting for a change")

    step.write_text(good)
    url = running.wait_for(SERVING, times=3)[1]
    assert fetched(f"{url}/answer") == {"answer": 1}

    assert running.end() == 0
    with pytest.raises(OSError, match="refused"):
        fetched(f"{url}/answer")
    assert "Traceback" not in "".join(running.err)


def test_dev_needs_a_folder(cli: Cli) -> None:
    assert cli("dev", "-p", "nowhere").stderr == "error: nowhere: there is no such project folder\n"


def test_the_demo_needs_nothing_and_keeps_its_data(start: Start, tmp_path: Path) -> None:
    pytest.importorskip("motia_core.demo", reason="this checkout has no demo")
    address = r"^The demo is at (http://127\.0\.0\.1:\d+) \(open it in two tabs\); its data is in "
    first = start("demo", "--no-open", "--data", str(tmp_path / "data"))
    second = start("demo", "--no-open", "--data", str(tmp_path / "data"))
    urls = {running.wait_for(address)[1] for running in (first, second)}
    assert len(urls) == 2
    for url in urls:
        with urlopen(f"{url}/", timeout=30) as page:
            assert page.headers["content-type"].startswith("text/html")
            assert b"<!doctype html>" in page.read().lower()
        with urlopen(f"{url}/client.js", timeout=30) as script:
            assert b"connectStream" in script.read()
    assert (tmp_path / "data/streams.db").is_file()
    assert first.end(signal.SIGINT) == second.end() == 0


def test_without_its_libraries_the_command_says_what_to_install() -> None:
    code = "import sys; sys.modules['typer'] = None; from motia_core.cli import main; main(['plugins'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == 'error: this command needs typer; install it with: pip install "motia-core[cli]"\n'


def test_help_and_version(cli: Cli) -> None:
    assert cli("--version").stdout.strip()
    for arguments in (
        ["--help"],
        *([command, "--help"] for command in ("serve", "dev", "demo", "tail", "set", "list")),
    ):
        done = cli(*arguments)
        assert done.returncode == 0, done.stderr
        assert "Usage: motia-core" in done.stdout
    assert "Usage: motia-core" in cli().stdout
