"""Writes the generated pages of docs/reference/; ``--check`` only says whether they are up to date."""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import motia_core.adapter
from motia_core import config, config_storage, hookspecs
from motia_core.adapter import Capabilities
from motia_core.plugin_checks import HOOKS
from motia_core.plugins import Plugins
from motia_core.server import codes as server_codes

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference"
README = ROOT / "README.md"
RESULTS = REFERENCE / "conformance.json"
"""What the suite said, by backend and clause; ``MOTIA_CONFORMANCE_REPORT`` makes the tests write it."""


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


def codes() -> str:
    """Every code that a client can meet."""
    lines = [
        note("motia_core/server/codes.py"),
        f"# Error and close codes\n\n{markdown(server_codes.__doc__ or '')}\n\n",
        "A subscription's error comes as its stream frame (`event.type` is `error`), a connection's as\n",
        '`{"type": "error", "data": {"code", "message"}}`; a code with a close code ends the connection.\n\n',
        "| code | means | the client should | closes with |\n| --- | --- | --- | --- |\n",
    ]
    lines += [f"| `{c.name}` | {c.meaning} | {c.client} | {c.close or ''} |\n" for c in server_codes.CODES.values()]
    return "".join(lines)


COUNTS = {"passed": "passed", "failed": "FAILED", "skipped": "n/a"}
LETTERS = {"A": "data", "B": "order", "C": "subscribers", "D": "triggers", "F": "trouble"}
MARKS = {"full": "yes", "limited": "limited", "unsupported": "no"}


def clauses() -> dict[str, list[str]]:
    """The clauses that each capability is about: those that its docstring names."""
    (body,) = [
        node.body
        for node in ast.parse(inspect.getsource(motia_core.adapter)).body
        if isinstance(node, ast.ClassDef) and node.name == "Capabilities"
    ]
    named: dict[str, list[str]] = {}
    for field, text in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            named[field.target.id] = re.findall(r"\b[A-F]\d+\b", ast.unparse(text))
    return named


def outcome(backend: str, wanted: Callable[[str], bool]) -> str:
    """What the suite last said of a backend, over the clauses that are wanted."""
    found = json.loads(RESULTS.read_text()).get(backend, {}) if RESULTS.exists() else {}
    sums = {key: sum(counts[key] for clause, counts in found.items() if wanted(clause)) for key in COUNTS}
    said = [f"{sums[key]} {word}" for key, word in COUNTS.items() if sums[key]]
    return ", ".join(said) or "–"


def capabilities() -> str:
    """What each backend declares, with its notes and limits, and what the suite said of it."""
    parts = [
        note("the capabilities that adapters declare and the last run of the suite"),
        "# Capabilities\n\nDeclared by each backend, and held against it both ways by `motia_core.testing`: what is\n",
        "declared must pass, what is not must be refused by a clear error before any I/O.\n",
    ]
    about = clauses()
    for title, key, mode in backends():
        parts.append(f"\n## {title}\n\n| capability | | clauses | tests | |\n| --- | --- | --- | --- | --- |\n")
        for name, declared in mode.supports().items():
            tests = outcome(key, lambda clause, name=name: clause in about[name])  # type: ignore[misc]
            parts.append(
                f"| {name} | {MARKS[declared.level]} | {', '.join(about[name])} | {tests} | {declared.note} |\n"
            )
        parts.append("\n| limit | |\n| --- | --- |\n")
        limits = {name: getattr(mode, name) for name in mode.__slots__ if name not in mode.supports()}
        parts += [f"| {name} | {value:,} |\n" for name, value in limits.items()]
    return "".join(parts)


def matrix() -> str:
    """The README's table: declared capabilities, and what the suite last said of each backend."""
    shown_backends = backends()
    names = list(shown_backends[0][2].supports())
    head = "| | " + " | ".join(title for title, _, _ in shown_backends) + " |"
    lines = [head, "| --- |" + " --- |" * len(shown_backends)]
    for name in names:
        cells = [MARKS[mode.supports()[name].level] for _, _, mode in shown_backends]
        lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(cells) + " |")
    for letter, what in LETTERS.items():
        cells = [outcome(key, lambda clause, letter=letter: clause[0] == letter) for _, key, _ in shown_backends]  # type: ignore[misc]
        lines.append(f"| suite: {letter}, {what} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def backends() -> list[tuple[str, str, Capabilities]]:
    """Each backend's modes: title, name in the matrix of tests, declared capabilities."""
    plugins = Plugins.load(environ={}).adapters.values()
    return [
        (f"{plugin.name} ({mode})", plugin.name if mode == "managed" else f"{plugin.name}-{mode}", declared)
        for plugin in plugins
        for mode, declared in plugin.modes.items()
    ]


def readme() -> str:
    """The README with its matrix made anew."""
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition("<!-- matrix:begin -->")
    _, _, after = rest.partition("<!-- matrix:end -->")
    return f"{before}<!-- matrix:begin -->\n{matrix()}<!-- matrix:end -->{after}"


PAGES: dict[Path, Callable[[], str]] = {
    REFERENCE / "hooks.md": hooks,
    REFERENCE / "configuration.md": configuration,
    REFERENCE / "codes.md": codes,
    REFERENCE / "capabilities.md": capabilities,
    README: readme,
}
"""Generated pages, with what generates them."""


def main(check: bool) -> int:
    """Write the pages, or report those that differ; the exit code."""
    stale = []
    for file, generate in PAGES.items():
        text, name = generate(), str(file.relative_to(ROOT))
        if check and (not file.exists() or file.read_text(encoding="utf-8") != text):
            stale.append(name)
        elif not check:
            file.write_text(text, encoding="utf-8")
            print(f"wrote {name}")
    if stale:
        print(f"out of date: {', '.join(stale)}; run: python scripts/generate_docs.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
