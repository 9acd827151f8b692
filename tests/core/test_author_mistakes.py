"""What an author of a plugin gets wrong: one clear error that names the distribution, and the others still load."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from motia_core import Motia, StreamConfig
from motia_core.adapter import FULL, Capabilities, Support
from motia_core.config import Settings
from motia_core.errors import ConfigError, MissingDependency, PluginError
from motia_core.memory import CAPABILITIES, MEMORY
from motia_core.plugins import PluginRecord, Plugins

Install = Callable[..., None]

GOOD = """
from dataclasses import replace
from motia_core.memory import MEMORY
@hookimpl
def motia_register_adapters():
    return [replace(MEMORY, name="good", schemes=("good",))]
"""

WHO = r"^storage 'default': adapter 'fake' \(plugin 'it' of motia-fake 1\.2\): "


def failure(install: Install, code: str, **options: Any) -> str:
    """Why a plugin is left out, beside one that is not."""
    install("motia-fake", code, **options)
    install("motia-good", GOOD)
    plugins = Plugins.load(environ={})
    assert plugins.adapter("good").name == "good"
    found: PluginRecord = next(record for record in plugins.records if record.distribution == "motia-fake")
    assert found.status == "failed"
    with pytest.raises(ConfigError, match=r"\n  plugin 'it' of motia-fake 1\.2 is left out \(failed: "):
        plugins.adapter("fake")
    return found.reason


# -- when it is imported


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise SystemExit(3)", "cannot be imported: SystemExit: 3"),
        ("import asyncio\nraise asyncio.CancelledError()", "cannot be imported: CancelledError"),
        ("def broken(:\n", "cannot be imported: SyntaxError: invalid syntax (plugin_of_motia_fake.py, line 2)"),
        ("import no_such_driver", "cannot be imported: ModuleNotFoundError: No module named 'no_such_driver'"),
        ("raise OSError('redis://me:hunter2@host')", "cannot be imported: OSError: redis://me:***@host"),
    ],
)
def test_a_module_that_raises(install: Install, code: str, reason: str) -> None:
    assert failure(install, code) == reason


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (
            ".inner",
            "cannot be imported: its entry point names module 'plugin_of_motia_fake.inner',"
            " and 'plugin_of_motia_fake.inner' is not there",
        ),
        (
            ":PLUGIN",
            "cannot be imported: AttributeError: module 'plugin_of_motia_fake' has no attribute 'PLUGIN'",
        ),
        (
            " or so",
            "its entry point 'plugin_of_motia_fake or so' is neither 'package.module' nor 'package.module:name'",
        ),
    ],
)
def test_an_entry_point_that_names_nothing(install: Install, target: str, reason: str) -> None:
    assert failure(install, "", target=target) == reason


def test_an_entry_point_whose_package_is_not_there(install: Install) -> None:
    module = "plugin_of_motia_gone"
    install("motia-gone", "", module=module)
    (Path(sys.path[0]) / f"{module}.py").unlink()
    record = next(found for found in Plugins.load(environ={}).records if found.distribution == "motia-gone")
    assert record.reason == f"cannot be imported: its entry point names module {module!r}, and {module!r} is not there"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("x = 1", "module 'plugin_of_motia_fake' implements no hook: a plugin is an AdapterPlugin, or a module, "),
        ("@hookimpl\ndef motia_register_adapters(): raise SystemExit", "motia_register_adapters raised SystemExit"),
    ],
)
def test_a_plugin_that_brings_nothing_or_gives_up(install: Install, code: str, reason: str) -> None:
    assert failure(install, code).startswith(reason)


def test_a_class_that_cannot_be_made(install: Install) -> None:
    code = "class Guard:\n    def __init__(self): raise SystemExit('no')"
    assert failure(install, code, target=":Guard") == "Guard() raised SystemExit: no"


def test_a_hook_that_raises_when_it_is_looked_at(install: Install) -> None:
    code = "class Guard:\n    def __dir__(self): raise RuntimeError('not yet')\nGUARD = Guard()"
    assert failure(install, code, target=":GUARD") == "looking for its hooks raised RuntimeError: not yet"


# -- capabilities


def fields() -> dict[str, Any]:
    return {name: getattr(CAPABILITIES, name) for name in Capabilities.__slots__}


def test_a_capability_that_is_not_declared_is_named_with_the_distribution(install: Install) -> None:
    code = """
from motia_core.adapter import Capabilities
from motia_core.memory import CAPABILITIES
declared = {name: getattr(CAPABILITIES, name) for name in Capabilities.__slots__}
del declared["history"], declared["ttl"]
Capabilities(**declared)
"""
    reason = failure(install, code)
    assert reason.startswith("cannot be imported: Capabilities: nothing is declared for 'ttl', 'history'; there are: ")


def test_a_capability_that_there_is_not() -> None:
    with pytest.raises(PluginError, match=r"Capabilities: 'histroy' is no capability; there are: exact_values, "):
        Capabilities(**{**fields(), "histroy": FULL})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ttl", True, r"ttl must be FULL, limited\(how\) or unsupported\(why\), not True"),
        ("ttl", "full", "ttl must be FULL, limited"),
        ("max_batch_writes", None, r"max_batch_writes must be a number \(int\), 0 or more, not None"),
        ("max_batch_writes", 1.5, r"max_batch_writes must be a number \(int\), 0 or more, not 1.5"),
        ("notice_bound", -1.0, r"notice_bound must be a number \(float\), 0 or more, not -1.0"),
    ],
)
def test_a_capability_of_the_wrong_kind(name: str, value: Any, message: str) -> None:
    with pytest.raises(PluginError, match=f"^Capabilities: {message}"):
        Capabilities(**{**fields(), name: value})
    with pytest.raises(PluginError, match=message):
        replace(CAPABILITIES, **{name: value})


def test_a_level_that_there_is_not() -> None:
    with pytest.raises(PluginError, match="level 'partly' is not one of 'full', 'limited', 'unsupported'"):
        Support("partly")  # type: ignore[arg-type]


# -- the description


async def _load_later() -> Any: ...


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": 3}, "adapter name 3 must be a small letter"),
        ({"schemes": "fake"}, "schemes must be a tuple of URL schemes, as .* not 'fake'"),
        ({"schemes": (3,)}, "3 is no URL scheme"),
        ({"schemes": ("fake", "fake")}, "names URL scheme 'fake' twice"),
        ({"load": None}, "load must be a function, not NoneType"),
        ({"load": _load_later}, "load must be a plain function, not async: an adapter connects in its open"),
        ({"from_url": _load_later}, "from_url must be a plain function, not async"),
        ({"modes": {}}, "modes must map at least one mode to its Capabilities"),
        ({"modes": None}, "modes must map at least one mode to its Capabilities"),
        ({"modes": {"": CAPABILITIES}}, "modes: '' is no name of a mode"),
        ({"modes": {"managed": FULL}}, r"modes\['managed'\] must be Capabilities, not Support"),
        ({"install": None}, "install must be text"),
    ],
)
def test_a_description_that_makes_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PluginError, match=f"^plugin .* of this application: .*{message}"):
        Plugins.load(extra=[replace(MEMORY, **{"name": "fake", "schemes": ("fake",), **changes})], environ={})


# -- building


ADAPTER = """
from dataclasses import replace
from motia_core.adapter import Adapter
from motia_core.memory import MEMORY, MemoryAdapter, MemoryStore
class FakeAdapter(MemoryAdapter):
    def __init__(self, settings, options): super().__init__(settings, MemoryStore())
    {body}
def load():
    {load}
@hookimpl
def motia_register_adapters():
    return [replace(MEMORY, name="fake", schemes=("fake",), load=load, from_url=lambda url: {{}}, install="fakedb")]
"""


def fake(install: Install, body: str = "pass", load: str = "return FakeAdapter") -> Motia:
    install("motia-fake", ADAPTER.format(body=body, load=load))
    return Motia(
        streams=[StreamConfig(name="documents")], storage={"default": "fake://"}, plugins=Plugins.load(environ={})
    )


async def test_the_same_adapter_without_a_mistake(install: Install) -> None:
    async with fake(install) as motia:
        await motia.streams["documents"].set("g", "x", {})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "list_groups = Adapter.list_groups; list_group = MemoryAdapter.list_groups",
            r"list_groups is missing \(it has 'list_group': did you mean 'list_groups'\?\)$",
        ),
        ("head = Adapter.head; floor = Adapter.floor", "floor is missing; head is missing$"),
        ("def head(self, stream): return ''", r"head must be a coroutine function \('async def'\), not a plain funct"),
        ("async def capabilities(self, stream): ...", "capabilities must be a plain function .* not a coroutine func"),
        ("async def watch(self, stream, after): ...", "watch must be an async generator .* not a coroutine function$"),
        ("def watch(self, stream, after): yield", "watch must be an async generator .* not a generator$"),
        ("async def write(self, stream, writes): yield", "write must be a coroutine function .* not an async gener"),
        ("def address(self): return 'x'", r"address must be a property \(@property\), not a method$"),
        ("close = 3", "close must be a method, not int$"),
        (
            "async def list(self, stream, group): ...",
            r"list cannot be called as list\(stream, group, after=..., limit=...\): got an unexpected .*'after'",
        ),
        ("async def get(self, stream, group): ...", r"get cannot be called as get\(stream, group, id\): too many pos"),
        ("async def open(self, url): ...", r"open cannot be called as open\(\): missing a required argument: 'url'$"),
        ("async def diagnose(self, deep): ...", r"diagnose cannot be called as diagnose\(\): missing"),
    ],
)
@pytest.mark.parametrize(
    "load", ["return FakeAdapter", "return lambda settings, options: FakeAdapter(settings, options)"]
)
async def test_an_adapter_that_does_not_keep_the_contract(install: Install, body: str, message: str, load: str) -> None:
    motia = fake(install, body, load)
    message = message if "missing" not in message or "lambda" not in load else ".*(missing|abstract)"
    with pytest.raises(PluginError, match=f"{WHO}.*{message}"):
        await motia.__aenter__()


async def test_decorated_methods_are_judged_by_what_they_wrap(install: Install) -> None:
    body = """
    from functools import wraps
    def traced(method, wraps=wraps):
        @wraps(method)
        def call(*arguments, **options): return method(*arguments, **options)
        return call
    get = traced(MemoryAdapter.get)
    list = traced(MemoryAdapter.list)
    watch = traced(MemoryAdapter.watch)
    """
    async with fake(install, body.strip()) as motia:
        await motia.streams["documents"].set("g", "x", {})
        assert await motia.streams["documents"].list("g") == [{}]


@pytest.mark.parametrize(
    ("load", "message"),
    [
        ("return None", r"load\(\) must return what builds the adapter, not NoneType"),
        ("return dict", "dict is not a subclass of motia_core.adapter.Adapter"),
        ("return FakeAdapter.__new__(FakeAdapter)", r"load\(\) must return what builds the adapter .* not an adapter"),
        ("1 / 0", r"load\(\) raised ZeroDivisionError: division by zero"),
        ("raise SystemExit", r"load\(\) raised SystemExit$"),
        (
            "async def make(): ...\n    return make()",
            r"load\(\) is async: it must be a plain function, an adapter conn",
        ),
        ("async def make(settings, options): ...\n    return make", r"load\(\) returned make, which is async: what bu"),
        ("async def make(): ...\n    return lambda settings, options: make()", "its factory <lambda> is async"),
        ("return lambda settings, options: {}", "its factory <lambda> must return an Adapter, not dict"),
        (
            "return lambda settings: FakeAdapter(settings, None)",
            r"its factory <lambda> raised TypeError: .*<lambda>\(\)",
        ),
        (
            "raise RuntimeError('no mongodb://me:hunter2@host')",
            r"load\(\) raised RuntimeError: no mongodb://me:\*\*\*@host$",
        ),
    ],
)
async def test_a_factory_that_is_none(install: Install, load: str, message: str) -> None:
    with pytest.raises(PluginError, match=WHO + message):
        await fake(install, load=load).__aenter__()


@pytest.mark.parametrize(
    "load", ["import no_such_driver", "return lambda settings, options: __import__('no_such_driver')"]
)
async def test_a_missing_driver_names_the_distribution_too(install: Install, load: str) -> None:
    with pytest.raises(MissingDependency) as caught:
        await fake(install, load=load).__aenter__()
    assert str(caught.value) == (
        "storage 'default': adapter 'fake' (plugin 'it' of motia-fake 1.2) cannot import what it needs"
        " (No module named 'no_such_driver'); install it with: pip install \"fakedb\""
    )


async def test_an_adapter_that_forgets_its_base(install: Install) -> None:
    body = "def __init__(self, settings, options): pass"
    with pytest.raises(PluginError, match=WHO + r"Forgetful.__init__ does not call super\(\).__init__\(settings\)"):
        await fake(install, "pass\nclass Forgetful(FakeAdapter):\n    " + body, "return Forgetful").__aenter__()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def capabilities(self, stream): return {}", r"capabilities\(\) must return Capabilities, not dict"),
        ("def capabilities(self, stream): return 1 / 0", r"capabilities\(\) raised ZeroDivisionError: "),
        ("def capabilities(self, stream): return Capabilities(ttl=1)", "Capabilities: nothing is declared for 'exact"),
    ],
)
async def test_capabilities_that_are_none(install: Install, body: str, message: str) -> None:
    motia = fake(install, body.replace("Capabilities(", "__import__('motia_core.adapter').adapter.Capabilities("))
    with pytest.raises(PluginError, match=WHO + message):
        await motia.__aenter__()
    assert not motia.is_open


# -- two of one name, and what is no plugin


def test_two_plugins_with_one_name_name_both_distributions(install: Install) -> None:
    install("motia-fake", GOOD)
    install("motia-good", GOOD)
    for storage in ({"adapter": "good"}, {"url": "good://"}):
        with pytest.raises(
            PluginError,
            match=r"^storage\.default\.(adapter|url): (adapter|URL scheme) 'good' is claimed by"
            r" plugin 'it' of motia-good 1\.2 and by plugin 'it' of motia-fake 1\.2; block one of them",
        ):
            Motia(streams=[], storage={"default": storage}, plugins=Plugins.load(environ={}))


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (
            "x",
            "plugin 'str' of this application: an object of type str implements no hook: a plugin is an AdapterPlugin",
        ),
        (None, "plugin 'NoneType' of this application: None implements no hook"),
        (object, "plugin 'object' of this application: an object of type object implements no hook"),
        (logging, "plugin 'logging' of this application: module 'logging' implements no hook"),
        (lambda: None, "plugin '<lambda>' of this application: an object of type function implements no hook"),
    ],
)
def test_what_is_no_plugin_is_refused(plugin: Any, message: str) -> None:
    for make in (lambda: Motia(plugins=[plugin]), lambda: Plugins.load(extra=[plugin], environ={})):
        with pytest.raises(PluginError, match=f"^{message}"):
            make()


@pytest.mark.parametrize("plugins", ["x", asyncio, {"x": 1}, None])
def test_plugins_must_be_a_list(plugins: Any) -> None:
    with pytest.raises(PluginError, match=f"^plugins must be a list of plugins, not {type(plugins).__name__}$"):
        Motia(plugins=plugins)


@pytest.mark.parametrize("make", [Settings.build, lambda plugins: Settings.load(".", plugins=plugins)])
def test_settings_take_loaded_plugins(make: Any) -> None:
    with pytest.raises(ConfigError, match=r"^plugins must be made by Plugins.load\(extra=\[...\]\), not list$"):
        make(plugins=["x"])
