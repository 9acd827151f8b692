"""Importing a project's files, which live in its folder ``motia/``.

They are ordinary modules of a package called ``motia``: ``from motia.lib import x`` and
``from ..lib import x`` mean the same module. The package is made here, so that the
project's folder wins over an installed distribution that has the same name. Only if that
one was imported first does the project's package get a name of its own; relative imports
then work, absolute ones are refused by a clear error.
"""

from __future__ import annotations

import importlib
import itertools
import sys
import traceback
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from motia_core.errors import ConfigError
from motia_core.masking import mask_urls

PACKAGE = "motia"
"""The folder of a project's code, and the name it is imported by."""

_numbers = itertools.count(1)
_made: list[ModuleType] = []
_on_path: list[str] = []


class ProjectModules:
    """Imports the files of one project. Folders are absolute."""

    def __init__(self, project: Path) -> None:
        self._project = project
        self._folder = project / PACKAGE
        self._name = ""

    def open(self, *, fresh: bool) -> None:
        """Make the project's package importable, also for imports that run later.

        A process has one project at a time: the modules of another are forgotten, and
        with ``fresh`` those of this one too. Raises `ConfigError` if ``__init__.py`` fails.
        """
        importlib.invalidate_caches()
        self._put_on_path()
        for package in (*_made, sys.modules.get(PACKAGE)):
            if package is None or sys.modules.get(package.__name__) is not package:
                continue
            if self._is_package_of(package) and not fresh:
                self._name = package.__name__
                return
            if self._is_package_of(package) or package in _made:
                _forget(package.__name__)
        self._name = PACKAGE if PACKAGE not in sys.modules else f"_{PACKAGE}_project_{next(_numbers)}"
        self._make_package()

    def load(self, file: Path) -> ModuleType:
        """Import one file of the package. Raises `ConfigError` that names the file and line at fault."""
        parts = file.relative_to(self._folder).with_suffix("").parts
        if any("." in part for part in parts):
            raise ConfigError(f"{self.shown(file)}: a dot in a file's or folder's name keeps it from being imported")
        try:
            return importlib.import_module(".".join((self._name, *parts)))
        except (Exception, SystemExit) as error:
            raise ConfigError(self._explained(error, file)) from error

    def is_loaded(self, file: Path) -> bool:
        """Whether this file of the package was imported, by whomever."""
        parts = file.relative_to(self._folder).with_suffix("").parts
        package = parts[:-1] if parts[-1] == "__init__" else parts
        return ".".join((self._name, *package)) in sys.modules

    def shown(self, file: Path) -> str:
        """The file's name as messages show it: from the project's folder on."""
        return str(file.relative_to(self._project)) if file.is_relative_to(self._project) else str(file)

    def _put_on_path(self) -> None:
        entry = str(self._project)
        for other in _on_path:
            if other != entry and other in sys.path:
                sys.path.remove(other)
        _on_path[:] = [entry] if entry in _on_path or entry not in sys.path else []
        if entry not in sys.path:
            sys.path.insert(0, entry)

    def _is_package_of(self, package: ModuleType) -> bool:
        return str(self._folder) in [str(Path(entry).absolute()) for entry in getattr(package, "__path__", ())]

    def _make_package(self) -> None:
        init = self._folder / "__init__.py"
        if init.is_file():
            spec = spec_from_file_location(self._name, init, submodule_search_locations=[str(self._folder)])
            assert spec is not None
        else:
            spec = ModuleSpec(self._name, None, is_package=True)
            spec.submodule_search_locations = [str(self._folder)]
        package = module_from_spec(spec)
        _made[:] = [package]
        sys.modules[self._name] = package
        if spec.loader is not None:
            try:
                spec.loader.exec_module(package)
            except (Exception, SystemExit) as error:
                _forget(self._name)
                raise ConfigError(self._explained(error, init)) from error

    def _explained(self, error: BaseException, file: Path) -> str:
        found, line = self._place(error, file)
        through = f" (imported by {self.shown(file)})" if found != file else ""
        said = error.msg if isinstance(error, SyntaxError) else str(error)
        message = f"{self.shown(found)}, line {line}{through}: {type(error).__name__}: {mask_urls(said)}"
        return message + self._hint(error)

    def _place(self, error: BaseException, file: Path) -> tuple[Path, int]:
        """Where in the project it happened: the innermost line of one of its files."""
        if isinstance(error, SyntaxError) and error.filename and Path(error.filename).is_relative_to(self._project):
            return Path(error.filename), error.lineno or 1
        frames = traceback.extract_tb(error.__traceback__)
        inside = [frame for frame in frames if Path(frame.filename).is_relative_to(self._project)]
        return (Path(inside[-1].filename), inside[-1].lineno or 1) if inside else (file, 1)

    def _hint(self, error: BaseException) -> str:
        name = getattr(error, "name", None) if isinstance(error, ImportError) else None
        if name is None or name.split(".")[0] != PACKAGE:
            return ""
        foreign = sys.modules.get(PACKAGE)
        if foreign is not None and not self._is_package_of(foreign):
            where = getattr(foreign, "__file__", None) or "elsewhere"
            return (
                f"\n  an installed package called {PACKAGE!r} ({where}) was imported before this project: uninstall it,"
                " or use relative imports (from ..lib import x)"
            )
        return f"\n  {PACKAGE!r} is the project's own folder; step, http, StreamConfig and the like are in 'motia_core'"


def _forget(package: str) -> None:
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        del sys.modules[name]
