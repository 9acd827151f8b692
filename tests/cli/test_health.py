"""``plugins`` and ``doctor`` say what there is, what is wrong, and what to do about it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]

PLUGIN = """
from dataclasses import replace
from motia_core.hookspecs import hookimpl
from motia_core.memory import MEMORY

def missing():
    import no_such_driver_anywhere

@hookimpl
def motia_register_adapters():
    return [
        replace(MEMORY, name="net", schemes=("net",)),
        replace(MEMORY, name="driverless", schemes=("driverless",), load=missing, install="motia-core[driverless]"),
    ]
"""


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that has two more plugins, one of them broken."""
    site = tmp_path / "site"
    for name, module, code in (("motia-net", "net_plugin", PLUGIN), ("motia-odd", "odd_plugin", "1 / 0")):
        info = site / f"{name.replace('-', '_')}-2.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.0\n")
        (info / "entry_points.txt").write_text(f"[motia.adapters]\nit = {module}\n")
        (site / f"{module}.py").write_text(code)
    return {"PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}


def test_plugins_are_listed_with_where_they_come_from(cli: Cli, installed: dict[str, str]) -> None:
    done = cli("plugins", **installed)
    assert done.returncode == 0
    assert "loaded   it (motia-net 2.0): adapter net, adapter driverless, motia_register_adapters" in done.stdout
    assert "failed   it (motia-odd 2.0): -\n         cannot be imported: ZeroDivisionError: division" in done.stdout
    records = [json.loads(line) for line in cli("plugins", "--json", **installed).stdout.splitlines()]
    assert {(record["distribution"], record["status"]) for record in records} >= {
        ("motia-net", "loaded"),
        ("motia-odd", "failed"),
        ("motia-core", "loaded"),
    }
    assert cli("plugins", MOTIA_BLOCK_PLUGINS="motia-net", **installed).stdout.count("blocked  it (motia-net 2.0)") == 1


def reports(done: Any) -> dict[str, tuple[str, str, str]]:
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {report["about"]: (report["level"], report["message"], report["remedy"]) for report in found}


def test_a_healthy_project(cli: Cli) -> None:
    done = cli("doctor")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "ok       project: 2 streams, 1 steps"
    assert "warning  storage 'inside': memory at memory: memory: nothing survives a restart" in lines
    assert not any(line.startswith("error") for line in lines)


def test_what_is_wrong_makes_the_exit_code_1(cli: Cli, project: Path, installed: dict[str, str]) -> None:
    storage = '[storage]\ninside = "memory://"\nother = "driverless://"\n'
    (project / "motia.toml").write_text(f'{storage}[storage.default]\nadapter = "sqlite"\npath = "motia"\n')
    done = cli("doctor", "--json", **installed)
    assert done.returncode == 1
    found = reports(done)
    assert found["project"][0] == "ok"
    assert found["plugin 'it' of motia-odd 2.0"][:2] == (
        "warning",
        "cannot be imported: ZeroDivisionError: division by zero",
    )
    level, message, _ = found["storage 'other'"]
    assert level == "error"
    assert message.endswith('install it with: pip install "motia-core[driverless]"')
    assert found["storage 'default'"][0] == "error"
    assert str(project / "motia") in found["storage 'default'"][1]


def test_a_project_that_does_not_load(cli: Cli, project: Path) -> None:
    (project / "motia.toml").write_text("[server]\nprot = 1\n")
    done = cli("doctor")
    assert done.returncode == 1
    assert done.stdout.startswith("error    project: motia.toml: server.prot: unknown key; did you mean 'port'?")
    assert done.stderr == ""


def test_state_on_one_machine_while_streams_are_networked(cli: Cli, project: Path, installed: dict[str, str]) -> None:
    (project / "motia.toml").write_text('[storage]\ninside = "net://"\n[queue]\nstorage = "inside"\n')
    found = reports(cli("doctor", "--json", **installed))
    assert found["[state]"] == (
        "warning",
        "lives in storage 'default' (sqlite), on this machine alone, while streams are in inside: every machine has its"
        " own state",
        'put it beside them: [state] storage = "inside"',
    )
    assert "[cron]" in found
    assert "[queue]" not in found


STEP = """
from motia_core import queue, step, stream

async def handler(input, ctx):
    pass

work = step({"name": "work", "triggers": [stream("documents"), queue("topic")]}, handler)
"""


def test_a_trigger_that_falls_behind_what_is_kept(cli: Cli, start: Callable[..., Any], project: Path) -> None:
    (project / "motia/steps/work_step.py").write_text(STEP)
    toml = (project / "motia.toml").read_text()
    (project / "motia.toml").write_text(f'{toml}[storage.default]\nadapter = "sqlite"\nretention = {{ count = 10 }}\n')
    worker = start("worker")
    worker.wait_for("^Running 2 triggers$")
    about = "trigger 'work/stream/documents'"
    found = reports(cli("doctor", "--json"))
    assert found[about] == ("ok", "0 changes wait, 1 processes run it", "")
    assert found["trigger 'work/queue/topic'"][0] == "ok"
    assert worker.end() == 0
    for number in range(3):
        cli("set", "documents", "g", f"{number}", "{}")
    assert reports(cli("doctor", "--json"))[about] == (
        "warning", "3 changes wait, and no process runs it", "motia-core worker",
    )  # fmt: skip
    for number in range(3, 6):
        cli("set", "documents", "g", f"{number}", "{}")
    text = cli("doctor").stdout
    assert f"warning  {about}: 5 changes or more wait for it, and only 10 are kept\n" in text
    assert "retention = { count = ... }" in text
    for _ in range(30):  # until the log is trimmed
        for number in range(10):
            cli("set", "documents", "g", f"{number}", "{}")
        done = cli("doctor", "--json")
        if reports(done)[about][0] == "error":
            break
    assert done.returncode == 1
    assert "it will report the gap" in reports(done)[about][1]
