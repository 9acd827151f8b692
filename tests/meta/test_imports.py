"""``import motia_core`` stays light: what an application does not use is not loaded."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = (
    *("starlette", "fastapi", "uvicorn", "websockets", "httptools", "uvloop", "httpx", "typer", "rich", "watchfiles"),
    *("redis", "pymongo", "motor", "bson", "psycopg", "asyncpg", "supabase", "firebase_admin", "google", "sqlite3"),
    *("pytest", "hypothesis", "motia_adapters", "importlib.metadata", "motia_core.plugins"),
)


def loaded_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter has after ``statement``, beside those it starts with."""
    after = "import json; print(json.dumps(sorted(set(sys.modules) - before)))"
    code = f"import sys; before = set(sys.modules); {statement}; {after}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_the_package_alone_loads_nothing_but_itself() -> None:
    loaded = loaded_by("import motia_core")
    assert {name for name in loaded if name.startswith("motia")} == {"motia_core"}
    assert loaded.isdisjoint({*HEAVY, "pydantic", "pluggy", "asyncio"})


@pytest.mark.parametrize(
    "statement",
    [
        "from motia_core import StreamConfig, step, http, stream, queue, cron, state, hookimpl",
        "from motia_core import Conflict, MotiaError",
        "import motia_core.adapter, motia_core.memory",
    ],
)
def test_declaring_streams_and_steps_loads_no_driver_and_no_plugin(statement: str) -> None:
    assert loaded_by(statement).isdisjoint({*HEAVY} - {"importlib.metadata"})


def test_an_application_loads_no_web_framework_and_no_foreign_driver() -> None:
    statement = "from motia_core import Motia; Motia(storage={'default': 'memory://'})"
    assert loaded_by(statement).isdisjoint({*HEAVY} - {"importlib.metadata", "motia_core.plugins", "motia_adapters"})
