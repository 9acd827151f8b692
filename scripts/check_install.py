"""Checks an installed motia-core from outside its source: run it with ``python -I``.

``--wheel FILE`` instead checks that a wheel holds every file of the packages' folders.
"""

from __future__ import annotations

import sys
import zipfile
from importlib import metadata, resources
from pathlib import Path

PACKAGES = {"motia_core": "motia_core", "adapters/motia_adapters": "motia_adapters"}
HEAVY = (
    *("starlette", "fastapi", "uvicorn", "websockets", "httptools", "uvloop", "httpx", "typer", "rich", "watchfiles"),
    *("redis", "pymongo", "motor", "bson", "psycopg", "asyncpg", "supabase", "firebase_admin", "google", "sqlite3"),
    "motia_adapters",
)


def check_imports() -> None:
    """``import motia_core`` brings in no driver, no framework, no plugin."""
    import motia_core
    from motia_core import StreamConfig, hookimpl, step  # noqa: F401

    loaded = sorted(name for name in HEAVY if name in sys.modules)
    assert not loaded, f"import motia_core loaded {loaded}"
    assert "motia_core.plugins" not in sys.modules, "import motia_core loaded the plugin host"
    print(f"import motia_core: {Path(motia_core.__file__).parent}")


def check_entry_points() -> None:
    """Every adapter's entry point loads without its driver; the command is there."""
    points = metadata.entry_points(group="motia.adapters")
    assert points, "no entry point in group motia.adapters"
    for point in points:
        point.load()
        print(f"entry point {point.name}: {point.value}")
    assert metadata.entry_points(group="console_scripts", name="motia-core"), "no command motia-core"


def check_typed() -> None:
    """Type checkers will look inside."""
    for package in PACKAGES.values():
        assert resources.files(package).joinpath("py.typed").is_file(), f"{package} has no py.typed"
    print("py.typed: in both packages")


def check_wheel(wheel: Path) -> None:
    """The wheel holds all that the packages' folders hold: client, demo, SQL and the like."""
    root = Path(__file__).parent.parent
    held = set(zipfile.ZipFile(wheel).namelist())
    for folder, package in PACKAGES.items():
        files = [file for file in (root / folder).rglob("*") if file.is_file() and "__pycache__" not in file.parts]
        names = {f"{package}/{file.relative_to(root / folder).as_posix()}" for file in files}
        assert names <= held, f"the wheel lacks {sorted(names - held)}"
        print(f"{wheel.name}: {len(names)} files of {package}")
    strays = {name.split("/")[0] for name in held} - set(PACKAGES.values())
    strays = {name for name in strays if not name.endswith(".dist-info")}
    assert not strays, f"the wheel holds strays: {sorted(strays)}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--wheel"]:
        check_wheel(Path(sys.argv[2]))
    else:
        check_imports()
        check_entry_points()
        check_typed()
