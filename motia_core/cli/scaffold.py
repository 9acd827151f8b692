"""``motia-core new-adapter NAME``: a distribution of its own that passes the suite from the start.

Its adapter is the reference backend, in the author's own files and under the author's own
name: the author replaces the dict by a store, one method at a time, and the suite says
what still holds.
"""

from __future__ import annotations

import inspect
import re
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

import motia_core.memory
from motia_core.cli.output import say
from motia_core.errors import ConfigError

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*\Z")

_PYPROJECT = """\
[build-system]
requires = ["hatchling>=1.25"]
build-backend = "hatchling.build"

[project]
name = "motia-{name}"
version = "0.1.0"
description = "motia-core streams on {title}"
requires-python = ">=3.11"
dependencies = ["motia-core~={version}"]

[project.optional-dependencies]
test = ["motia-core[testing]~={version}"]

[project.entry-points."motia.adapters"]
{name} = "{package}.plugin"

[tool.hatch.build.targets.wheel]
packages = ["src/{package}"]

[tool.pytest.ini_options]
asyncio_mode = "auto"
asyncio_default_fixture_loop_scope = "function"
testpaths = ["tests"]
"""

_PLUGIN = '''\
"""Introduces the {title} adapter. Import no driver here: it is loaded when a storage needs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from motia_core.adapter import Adapter, AdapterPlugin, StorageSettings
from motia_core.hookspecs import hookimpl
from pydantic import BaseModel, ConfigDict

from {package}.capabilities import CAPABILITIES


class {title}Options(BaseModel):
    """What ``[storage.NAME]`` takes with ``adapter = "{name}"``, beside the common options."""

    model_config = ConfigDict(extra="forbid")


def _load() -> Callable[[StorageSettings, Any], Adapter]:
    from {package}.adapter import {title}Adapter

    return lambda settings, options: {title}Adapter(settings)


def _from_url(url: str) -> Mapping[str, Any]:
    """Options from a URL; raise ``ValueError`` with what is wrong."""
    if urlsplit(url).netloc:
        raise ValueError("{name}:// takes nothing behind it")
    return {{}}


@hookimpl
def motia_register_adapters() -> Sequence[AdapterPlugin]:
    """The {title} adapter."""
    return [
        AdapterPlugin(
            name="{name}",
            schemes=("{name}",),
            options={title}Options,
            load=_load,
            from_url=_from_url,
            modes={{"managed": CAPABILITIES}},
            install="motia-{name}",
        )
    ]
'''

_TESTS = '''\
"""The compliance suite of motia-core on {title}: one test for each promise of the contract."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from motia_core.adapter import Adapter, StorageSettings
from motia_core.testing import *  # noqa: F403 (the test classes, and the fixture `world`)
from motia_core.testing import Harness

from {package}.adapter import {title}Adapter, {title}Store


class {title}Harness(Harness):
    """One store for one test; fill in more of `Harness` as your store can be broken in more ways."""

    name = "{name}"

    def __init__(self) -> None:
        self.store = {title}Store()

    def make(self, settings: StorageSettings) -> Adapter:
        return {title}Adapter(settings, self.store)

    async def wipe(self) -> None:
        self.store.wipe()

    async def lose_reply(self) -> None:
        self.store.lose_replies = 1


@pytest.fixture
async def harness() -> AsyncGenerator[Harness, None]:
    harness = {title}Harness()
    await harness.start()
    yield harness
    await harness.stop()
'''

_README = """\
# motia-{name}

motia-core streams on {title}.

```sh
pip install motia-{name}
```

```toml
[storage.default]
adapter = "{name}"
```

## For its author

```sh
pip install --editable ".[test]"
python -m pytest
```

1. `src/{package}/capabilities.py` says what the backend promises. Change it when you know.
2. `src/{package}/adapter.py` keeps everything in a dict. Put your store in its place, one
   method at a time, and run the tests after each: they are named by the clauses they prove.
3. `tests/test_conformance.py` holds the harness: how to get a store, and how to break it.
4. Check that motia-core finds it: `motia-core plugins`.
"""


def new_adapter(
    name: Annotated[str, typer.Argument(help='The adapter\'s name, as in adapter = "NAME".')],
    folder: Annotated[Path | None, typer.Option(help="Where to make it; motia-NAME if left out.")] = None,
) -> None:
    """Make a plugin of your own for another storage; it passes the compliance suite as it is."""
    if not _NAME.match(name):
        raise ConfigError(f"adapter name {name!r}: must be words of lower-case letters and digits, joined by '-'")
    target = folder or Path(f"motia-{name}")
    if target.exists():
        raise ConfigError(f"{target}: exists already; choose another --folder")
    title = "".join(word.capitalize() for word in name.split("-"))
    package = f"motia_{name.replace('-', '_')}"
    names = {"name": name, "title": title, "package": package, "version": version("motia-core")}
    files = {
        "pyproject.toml": _PYPROJECT.format(**names),
        "README.md": _README.format(**names),
        f"src/{package}/__init__.py": f'"""motia-core streams on {title}."""\n',
        f"src/{package}/py.typed": "",
        f"src/{package}/plugin.py": _PLUGIN.format(**names),
        **{f"src/{package}/{file}": text for file, text in _reference(title, package).items()},
        "tests/test_conformance.py": _TESTS.format(**names),
    }
    for file, text in files.items():
        path = target / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    say(f'made {target}; next: cd {target} && pip install --editable ".[test]" && python -m pytest')


def _reference(title: str, package: str) -> dict[str, str]:
    """The reference backend as the author's files: ``capabilities.py`` and ``adapter.py``."""
    source = inspect.getsource(motia_core.memory)
    body, _, _ = source.partition("class MemoryOptions")
    before, _, rest = body.partition("CAPABILITIES = ")
    declared, _, after = rest.partition("\n)\n")
    capabilities = (
        f'"""What {title} promises: the suite holds it to this, both ways."""\n\n'
        "from motia_core.adapter import FULL, Capabilities, unsupported\n\n"
        f"CAPABILITIES = {declared}\n)\n"
    )
    head, _, _ = before.partition("from motia_core.adapter import")
    head = re.sub(r"\nfrom pydantic import [^\n]*|\nfrom urllib\.parse import [^\n]*", "", head)
    constants = before[before.index("SWEEP_INTERVAL") :]
    used = (
        "from motia_core.adapter import Adapter, Capabilities, Finding, StorageSettings\n"
        "from motia_core.errors import BackendUnavailable, OutcomeUnknown, PositionExpired, UnsupportedCapability\n"
        "from motia_core.model import Batch, Change, ChangeType, Item, Snapshot, StreamSpec, Write, WriteResult\n\n"
        f"from {package}.capabilities import CAPABILITIES\n\n"
    )
    adapter = f"{head.rstrip()}\n\n{used}{constants.rstrip()}\n\n\n{after.strip()}\n"
    adapter = adapter.replace("Mapping, Sequence", "Sequence").replace("(memory)", f"({title})")
    for old, new in (("MemoryStore", f"{title}Store"), ("MemoryAdapter", f"{title}Adapter"), ("motia-memory", package)):
        adapter = adapter.replace(old, new)
    return {"capabilities.py": capabilities, "adapter.py": adapter}
