"""Writes the generated pages of docs/reference/; ``--check`` only says whether they are up to date."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from motia_core import config, config_storage, hookspecs
from motia_core.plugin_checks import HOOKS

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"


def markdown(text: str) -> str:
    """A docstring as Markdown: its code marks have two backticks."""
    return inspect.cleandoc(text).replace("``", "`")


def note(source: str) -> str:
    """The line that keeps people from editing a generated page."""
    return f"<!-- Generated from {source} by scripts/generate_docs.py: change it there. -->\n\n"


def hooks() -> str:
    """Every hook with its signature and what it says of itself."""
    summary, _, rest = markdown(hookspecs.__doc__ or "").partition("\n")
    parts = [note("motia_core/hookspecs.py"), f"# Hooks\n\n{summary}\n{rest}\n"]
    for name in HOOKS:
        function = getattr(hookspecs, name)
        signature = inspect.signature(function)
        arguments = "".join(
            f"    {parameter.name}: {parameter.annotation},\n" for parameter in signature.parameters.values()
        )
        head = f"def {name}(\n{arguments})" if arguments else f"def {name}()"
        code = f"{head} -> {signature.return_annotation}: ..."
        parts.append(f"\n## {name}\n\n```python\n@hookimpl\n{code}\n```\n\n{markdown(function.__doc__ or '')}\n")
    return "".join(parts)


def configuration() -> str:
    """Every key of the configuration with its default."""
    return "".join(
        [
            note("motia_core/config.py and motia_core/config_storage.py"),
            f"# Configuration\n\n{markdown(config.__doc__ or '')}\n",
            "\nDurations are seconds, or text: `500ms`, `30s`, `15m`, `12h`, `7d`, `2w`.\n",
            "\n## `[storage.NAME]`\n\n",
            "`adapter` or `url` chooses the adapter; its own options stand beside these:\n\n",
            table(config_storage.CommonOptions),
            "\nof which `retention` holds:\n\n",
            table(config_storage.RetentionOptions),
            '\nA storage may also be just a URL (`live = "redis://..."` in `[storage]`), with options in its query.\n',
            f"\n## `[server]`\n\n{markdown(config.ServerSettings.__doc__ or '')}\n\n",
            table(config.ServerSettings),
            "\n## `[state]`, `[queue]`, `[cron]`\n\n",
            table(config.RoomSettings),
        ]
    )


def table(model: type[BaseModel]) -> str:
    """A model's fields as a Markdown table."""
    lines = ["| key | default | |", "| --- | --- | --- |"]
    for name, info in model.model_fields.items():
        lines.append(f"| `{name}` | {shown(info.default)} | {markdown(info.description or '').replace(chr(10), ' ')} |")
    return "\n".join(lines) + "\n"


def shown(default: Any) -> str:
    """A default as TOML has it."""
    if default is PydanticUndefined:
        return "required"
    if default is None:
        return "–"
    if isinstance(default, str):
        return f'`"{default}"`'
    return f"`{list(default) if isinstance(default, tuple) else default}`"


PAGES: dict[str, Callable[[], str]] = {"hooks.md": hooks, "configuration.md": configuration}
"""Generated pages, with what generates them."""


def main(check: bool) -> int:
    """Write the pages, or report those that differ; the exit code."""
    stale = []
    for name, generate in PAGES.items():
        file, text = REFERENCE / name, generate()
        if check and (not file.exists() or file.read_text(encoding="utf-8") != text):
            stale.append(f"docs/reference/{name}")
        elif not check:
            file.write_text(text, encoding="utf-8")
            print(f"wrote docs/reference/{name}")
    if stale:
        print(f"out of date: {', '.join(stale)}; run: python scripts/generate_docs.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
