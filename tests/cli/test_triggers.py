"""``worker``, ``triggers`` and ``dead-letters`` as processes, on a project whose step fails until it is mended."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]
Start = Callable[..., Any]

STEP = """
from pathlib import Path
from motia_core import queue, step, stream

HERE = Path(__file__).parent

async def handler(input, ctx):
    if input.id == "bad" and not (HERE / "mended").exists():
        raise ValueError("cannot read this")
    await ctx.streams["documents"].set("done", input.id, {"of": input.event.data["n"]})

work = step(
    {"name": "work", "triggers": [stream("documents", group_id="todo")], "attempts": 2, "backoff": 0.01}, handler
)

async def listener(input, ctx):
    pass

listen = step({"name": "listen", "triggers": [queue("topic")]}, listener)
"""
TRIGGER = "work/stream/documents"


@pytest.fixture
def working(project: Path) -> Path:
    (project / "motia" / "steps" / "work_step.py").write_text(STEP)
    return project


def lines(done: Any) -> list[Any]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def wait_for(cli: Cli, *command: str, until: Callable[[list[Any]], bool]) -> list[Any]:
    for _ in range(60):
        found = lines(cli(*command))
        if until(found):
            return found
    raise AssertionError(f"{command}: {found}")


def test_a_poison_message_ends_in_dead_letters_and_comes_back_by_command(cli: Cli, start: Start, working: Path) -> None:
    running = start("worker")
    running.wait_for(r"^Running 2 triggers$")
    for id, n in (("bad", 1), ("good", 2)):
        assert cli("set", "documents", "todo", id, json.dumps({"n": n})).returncode == 0
    wait_for(cli, "list", "documents", "done", until=lambda found: [item["id"] for item in found] == ["good"])
    (letter,) = wait_for(cli, "dead-letters", "list", "--json", until=bool)
    assert (letter["trigger"], letter["attempts"], letter["change"]["data"]) == (TRIGGER, 2, {"n": 1})
    assert "cannot read this" in letter["error"]
    shown = cli("dead-letters", "list", TRIGGER)
    assert f"{TRIGGER}  {letter['id']}" in shown.stdout
    assert "create of todo/bad, 2 attempts, last error: " in shown.stdout
    (same,) = lines(cli("dead-letters", "show", TRIGGER, letter["id"]))
    assert same == letter

    assert "last error: " in cli("triggers").stdout
    (working / "motia" / "steps" / "mended").touch()
    again = cli("dead-letters", "retry", TRIGGER, letter["id"])
    assert (again.returncode, again.stderr) == (0, "asked for 1 to be tried again; a running worker does it\n")
    wait_for(cli, "list", "documents", "done", until=lambda found: len(found) == 2)
    wait_for(cli, "dead-letters", "list", "--json", until=lambda found: not found)
    assert running.end(signal.SIGTERM) == 0


def test_triggers_are_listed_with_their_partitions_and_owners(cli: Cli, start: Start, working: Path) -> None:
    running = start("worker")
    running.wait_for(r"^Running 2 triggers$")
    owned = wait_for(
        cli,
        *("triggers", "--json"),
        until=lambda found: all(partition["owner"] for status in found for partition in status["partitions"]),
    )
    assert sorted(status["name"] for status in owned) == ["listen/queue/topic", TRIGGER]
    assert all(status["declared"] and len(status["workers"]) == 1 for status in owned)
    text = cli("triggers").stdout
    assert f"{TRIGGER}\n    storage default, 1 worker, 16 of 16 partitions owned\n" in text
    running.end()
    for id, group in (("a", "todo"), ("b", "todo"), ("c", "elsewhere")):
        assert cli("set", "documents", group, id, '{"n": 1}').returncode == 0
    assert "    2 changes to be handled, 0 to be tried again\n" in cli("triggers").stdout
    released = lines(cli("triggers", "--json"))
    assert {status["name"]: status["behind"] for status in released} == {"listen/queue/topic": 0, TRIGGER: 2}
    assert all(partition["owner"] is None for status in released for partition in status["partitions"])


def test_a_trigger_without_a_step_is_shown_and_can_be_dropped(cli: Cli, start: Start, working: Path) -> None:
    running = start("worker")
    running.wait_for(r"^Running 2 triggers$")
    refused = cli("triggers", "drop", TRIGGER)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "has a step: remove that first" in refused.stderr
    running.end()
    (working / "motia" / "steps" / "work_step.py").unlink()
    assert f"{TRIGGER}  (no step declares it: motia-core triggers drop)" in cli("triggers").stdout
    assert cli("triggers", "drop", TRIGGER).returncode == 0
    assert TRIGGER not in cli("triggers").stdout


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("dead-letters", "show", "work/stream/document", "x"), "there is no trigger 'work/stream/document'"),
        (("dead-letters", "retry", TRIGGER, "nope"), "there is no dead letter 'nope'"),
        (("dead-letters", "drop", TRIGGER), "name the dead letters, or say --all"),
        (("triggers", "resize", TRIGGER, "0"), "Invalid value for"),
    ],
)
def test_mistakes_are_one_clear_line(
    cli: Cli, start: Start, working: Path, command: tuple[str, ...], said: str
) -> None:
    running = start("worker")
    running.wait_for(r"^Running 2 triggers$")
    running.end()
    done = cli(*command)
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_project_without_triggers_needs_no_worker(cli: Cli, project: Path) -> None:
    done = cli("worker")
    assert done.returncode == 1
    assert "no step has a stream, state, queue or cron trigger" in done.stderr


def test_serve_runs_the_triggers_too(cli: Cli, start: Start, working: Path) -> None:
    running = start("serve", "--port", "0")
    running.wait_for(r"^Serving on ")
    assert cli("set", "documents", "todo", "good", '{"n": 1}').returncode == 0
    wait_for(cli, "list", "documents", "done", until=bool)
    running.end()
