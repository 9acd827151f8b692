"""Files that declare a stream or a step where nobody reads it: a wrong name must not be silence."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from motia_core.errors import ConfigError
from motia_core.project_modules import ProjectModules

_MAKERS = {"StreamConfig": "stream", "step": "step"}
"""What is called to declare something, and what that is."""


def refuse_unread(modules: ProjectModules, folder: Path) -> None:
    """Look at the files that nothing imported, without running them.

    Raises `ConfigError` for the first that declares something, and says how to name it.
    """
    for file in sorted(folder.rglob("*.py")):
        if is_hidden(file, folder) or modules.is_loaded(file):
            continue
        kind = next(_declared(file), None)
        if kind is not None:
            home = folder / f"{kind}s"
            meant = file.parent if file.stem == "__init__" else file.with_suffix("")
            stem = meant.name.removesuffix(f"_{kind}")
            within = meant.parent if meant.parent.is_relative_to(home) else home
            raise ConfigError(
                f"{modules.shown(file)}: declares a {kind}, but nobody reads it: {kind}s are read from"
                f" {modules.shown(home)}/*_{kind}.py; call it {modules.shown(within / f'{stem}_{kind}.py')}"
            )


def is_hidden(file: Path, folder: Path) -> bool:
    """Whether a name on the way from ``folder`` to ``file`` begins with a dot."""
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _declared(file: Path) -> Iterator[str]:
    """What the assignments at the file's top level declare."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return  # whoever imports it will say so
    for statement in tree.body:
        value = statement.value if isinstance(statement, ast.Assign | ast.AnnAssign) else None
        while isinstance(value, ast.Call):
            if isinstance(value.func, ast.Attribute) and isinstance(value.func.value, ast.Call):
                value = value.func.value  # step({...}).handle(fn)
                continue
            name = ast.unparse(value.func).removeprefix("motia_core.")
            if name in _MAKERS:
                yield _MAKERS[name]
            break
