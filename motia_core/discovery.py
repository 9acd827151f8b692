"""Finding what a project declares, in files that are found by their names.

``motia/streams/*_stream.py`` hold `StreamConfig` objects, ``motia/steps/*_step.py`` steps,
subfolders included: as ``default``, or as any other module attribute. ``motia/auth.py``
holds the function ``authenticate``. Other files are for these to import; one that declares
a stream or step and is imported by nobody has a wrong name, and is refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from motia_core.access import Authenticate
from motia_core.config import FILE
from motia_core.definitions import StreamConfig
from motia_core.errors import ConfigError
from motia_core.misnamed_files import is_hidden, refuse_unread
from motia_core.project_modules import PACKAGE, ProjectModules
from motia_core.steps import Step

T = TypeVar("T", StreamConfig, Step)


@dataclass(frozen=True, slots=True)
class Project:
    """What a project's files declare."""

    path: Path
    """The project's folder, absolute."""
    streams: tuple[StreamConfig, ...] = ()
    steps: tuple[Step, ...] = ()
    authenticate: Authenticate | None = None


def find(path: str | os.PathLike[str] = ".", *, fresh: bool = False) -> Project:
    """Import a project's files and collect what they declare, in the order of their names.

    Files that are imported already are not run again, unless ``fresh``. The project's
    folder is put on ``sys.path`` and stays there.

    Raises `ConfigError` that names the file (and line) for a file that cannot be
    imported or declares nothing, or declares something where nobody reads it, and both
    files for a name that is declared twice.
    """
    folder = Path(path).absolute()
    if not (folder / PACKAGE).is_dir() and not (folder / FILE).is_file():
        raise ConfigError(f"{folder}: is no project: it has neither a folder {PACKAGE!r} nor a file {FILE!r}")
    modules = ProjectModules(folder)
    modules.open(fresh=fresh)
    project = Project(
        folder,
        streams=_collect(modules, folder / PACKAGE / "streams", "*_stream.py", StreamConfig),
        steps=_collect(modules, folder / PACKAGE / "steps", "*_step.py", Step),
        authenticate=_authenticate(modules, folder / PACKAGE / "auth.py"),
    )
    refuse_unread(modules, folder / PACKAGE)
    return project


def _collect(modules: ProjectModules, folder: Path, pattern: str, kind: type[T]) -> tuple[T, ...]:
    found: dict[str, tuple[T, Path]] = {}
    for file in sorted(folder.rglob(pattern)):
        if is_hidden(file, folder):
            continue
        for declared in _declared(modules, file, modules.load(file), kind):
            first, where = found.setdefault(declared.name, (declared, file))
            if first is not declared:
                what = "stream" if kind is StreamConfig else "step"
                files = f"{modules.shown(where)} and {modules.shown(file)}" if where != file else modules.shown(file)
                raise ConfigError(f"two {what}s are called {declared.name!r}: in {files}")
    return tuple(declared for declared, _ in found.values())


def _declared(modules: ProjectModules, file: Path, module: ModuleType, kind: type[T]) -> Iterator[T]:
    example = "StreamConfig(name=...)" if kind is StreamConfig else "step({...}, handler)"
    default: Any = getattr(module, "default", None)
    if default is not None and not isinstance(default, kind):
        raise ConfigError(f"{modules.shown(file)}: 'default' is of type {type(default).__name__}, not {example}")
    declared = [value for value in vars(module).values() if isinstance(value, kind)]
    # `base = step({...})` beside `default = base.handle(fn)` is one step, not two.
    handled = {value.name for value in declared if isinstance(value, Step) and value.handler is not None}
    declared = [value for value in declared if value.name not in handled or getattr(value, "handler", None)]
    for value in declared:
        if isinstance(value, Step) and value.handler is None:
            raise ConfigError(f"{modules.shown(file)}: step {value.name!r} has no handler")
    if not declared:
        raise ConfigError(f"{modules.shown(file)}: declares no {kind.__name__}; write default = {example}")
    yield from declared


def _authenticate(modules: ProjectModules, file: Path) -> Authenticate | None:
    if not file.is_file():
        return None
    function = getattr(modules.load(file), "authenticate", None)
    if not callable(function):
        raise ConfigError(f"{modules.shown(file)}: defines no function 'authenticate'")
    return function  # type: ignore[no-any-return]
