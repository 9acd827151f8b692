"""Plugins are found one by one; what is wrong with one is said by name and harms no other."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from motia_core.adapter import AdapterPlugin, StorageSettings
from motia_core.definitions import Subscription
from motia_core.errors import ConfigError, MissingDependency, PluginError
from motia_core.hookspecs import hookimpl
from motia_core.memory import MEMORY
from motia_core.plugins import PluginRecord, Plugins, build_adapter

SUBSCRIPTION = Subscription("documents", "g")
ASK: dict[str, Any] = {"subscription": SUBSCRIPTION, "ctx": None, "auth_context": None}

Install = Callable[..., None]


REDIS = """
from dataclasses import replace
from motia_core.memory import MEMORY
@hookimpl
def motia_register_adapters():
    return [replace(MEMORY, name="fake", schemes=("fake",))]
"""


def load(*extra: object, environ: Mapping[str, str] | None = None, **options: Any) -> Plugins:
    return Plugins.load(extra=extra, environ=environ or {}, **options)


def record(plugins: Plugins, distribution: str) -> PluginRecord:
    return next(found for found in plugins.records if found.distribution == distribution)


def fake(name: str = "fake", **changes: Any) -> AdapterPlugin:
    return replace(MEMORY, name=name, schemes=changes.pop("schemes", (name,)), **changes)


def registering(answer: object) -> object:
    return SimpleNamespace(motia_register_adapters=hookimpl(lambda: answer))


# -- finding


def test_memory_is_there_without_any_plugin() -> None:
    plugins = load()
    assert plugins.adapter("memory") is MEMORY
    assert plugins.adapter_for_scheme("memory") is MEMORY


def test_an_installed_plugin_is_found_by_its_entry_point(install: Install) -> None:
    install("motia-fake", REDIS, name="fast")
    plugins = load()
    assert plugins.adapter("fake") is plugins.adapter_for_scheme("FAKE") is plugins.adapters["fake"]
    found = record(plugins, "motia-fake")
    assert found == PluginRecord(
        "fast", "motia-fake", "1.2", "loaded", adapters=("fake",), hooks=("motia_register_adapters",)
    )


def test_an_entry_point_may_name_a_class(install: Install) -> None:
    install(
        "motia-class", "class Guard:\n    @hookimpl\n    def motia_on_join(self, ctx): return 'seen'\n", target=":Guard"
    )
    assert record(load(), "motia-class").hooks == ("motia_on_join",)


def test_a_broken_plugin_is_recorded_and_leaves_the_others_alone(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install("a-broken", "import no_such_module_anywhere")
    install("b-exits", "raise SystemExit(3)")
    install("c-good", REDIS)
    plugins = load()
    assert plugins.adapter("fake").name == "fake"
    broken = record(plugins, "a-broken")
    assert (broken.status, broken.reason) == (
        "failed",
        "cannot be imported: ModuleNotFoundError: No module named 'no_such_module_anywhere'",
    )
    assert record(plugins, "b-exits").reason == "cannot be imported: SystemExit: 3"
    assert "plugin 'it' of a-broken 1.2 is left out: cannot be imported" in caplog.text


def test_an_unknown_adapter_lists_the_known_ones_and_those_left_out(install: Install) -> None:
    install("motia-broken", "import no_such_module_anywhere", name="redis")
    with pytest.raises(ConfigError) as caught:
        load(fake()).adapter("fakee")
    message = str(caught.value)
    assert re.match(r"unknown adapter 'fakee'; did you mean 'fake'\? known: fake, .*memory", message)
    assert "plugin 'redis' of motia-broken 1.2 is left out (failed: cannot be imported: ModuleNotFoundError" in message


def test_an_unknown_scheme_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no adapter takes URLs of scheme 'fakes'; did you mean 'fake'\? known: "):
        load(fake()).adapter_for_scheme("fakes")


# -- what is refused


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "@hookimpl\ndef motia_on_joining(ctx): pass",
            "unknown hook 'motia_on_joining'; did you mean 'motia_on_join'? known: motia_authenticate, ",
        ),
        (
            "@hookimpl\ndef motia_on_join(user): pass",
            "motia_on_join asks for an unknown argument 'user'; it can take: subscription, ctx, auth_context",
        ),
        (
            "@hookimpl\ndef motia_on_join(subscription, auth_context=None): pass",
            "motia_on_join: argument 'auth_context' has a default, so it would never be passed; remove it",
        ),
        (
            "@hookimpl\ndef motia_on_join(**everything): pass",
            "motia_on_join: argument 'everything' must be a plain one",
        ),
        ("@hookimpl\ndef motia_on_join(*, ctx): pass", "motia_on_join: argument 'ctx' must be a plain one"),
        ("@hookimpl(wrapper=True)\ndef motia_on_join(ctx): yield", "motia_on_join is a hook wrapper, which"),
        ("def motia_on_join(ctx): pass", "motia_on_join is not marked with @hookimpl, so it would never be called"),
        (
            "@hookimpl\nasync def motia_register_adapters(): return []",
            "motia_register_adapters must not be async: it only describes adapters",
        ),
        (
            "@hookimpl\ndef motia_register_adapters(): return 'fake'",
            "motia_register_adapters must return a sequence of AdapterPlugin, not str",
        ),
        ("@hookimpl\ndef motia_register_adapters(): return [3]", "AdapterPlugins; item 0 is int"),
        (
            "@hookimpl\ndef motia_register_adapters(): 1 / 0",
            "motia_register_adapters raised ZeroDivisionError: div",
        ),
    ],
)
def test_a_plugin_that_does_not_fit_is_left_out_whole(install: Install, code: str, reason: str) -> None:
    install("motia-odd", code + "\n@hookimpl\ndef motia_on_change(change): pass\n")
    plugins = load()
    found = record(plugins, "motia-odd")
    assert found.status == "failed"
    assert reason in found.reason
    assert not plugins.implements("motia_on_change")
    assert not plugins.implements("motia_on_join")


def test_a_hook_of_a_later_version_may_be_optional(install: Install) -> None:
    install("motia-new", "@hookimpl(optionalhook=True)\ndef motia_of_tomorrow(): pass")
    assert record(load(), "motia-new").status == "loaded"


def test_the_applications_own_broken_plugin_raises_at_once() -> None:
    class Guard:
        @hookimpl
        def motia_on_joined(self) -> None: ...

    with pytest.raises(PluginError, match=r"^plugin 'Guard' of this application: unknown hook 'motia_on_joined'"):
        load(Guard)


class Loose(BaseModel):
    pass


class Grabbing(BaseModel):
    model_config = ConfigDict(extra="forbid")
    timeout: int = 1


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (fake("Fake", schemes=()), "adapter name 'Fake' must be a small letter, then small letters"),
        (fake(schemes=("fa ke",)), "adapter 'fake': 'fa ke' is no URL scheme"),
        (fake(options=dict), "adapter 'fake': options must be a Pydantic model class"),
        (fake(options=Loose), r"adapter 'fake': Loose must forbid unknown keys \(extra='forbid'\)"),
        (fake(options=Grabbing), "adapter 'fake': option 'timeout' is one that every storage has"),
    ],
)
def test_an_adapter_that_would_misbehave_later_is_refused_now(adapter: AdapterPlugin, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        load(registering([adapter]))
    with pytest.raises(PluginError, match=message):
        load(adapter)


def test_one_plugin_cannot_describe_an_adapter_twice() -> None:
    with pytest.raises(PluginError, match="describes adapter 'fake' twice"):
        load(registering([fake(), fake()]))


def test_the_same_object_cannot_be_passed_twice() -> None:
    plugin = registering([fake()])
    with pytest.raises(PluginError, match="is registered twice"):
        load(plugin, plugin)


# -- conflicts


def test_a_name_claimed_twice_is_an_error_that_names_both_when_it_is_used(install: Install) -> None:
    install("motia-one", REDIS, name="one")
    install("motia-two", REDIS, name="two")
    plugins = load()
    for use in (plugins.adapter, plugins.adapter_for_scheme):
        with pytest.raises(
            PluginError,
            match=r"'fake' is claimed by plugin 'two' of motia-two 1.2 and by plugin 'one' of motia-one 1.2; "
            r"block one of them, as in MOTIA_BLOCK_PLUGINS=motia-two:two",
        ):
            use("fake")
    assert "fake" not in plugins.adapters
    assert plugins.adapter("memory") is MEMORY
    for distribution in ("motia-one", "motia-two"):
        assert "adapter 'fake' is claimed by plugin" in record(plugins, distribution).reason
        assert "URL scheme 'fake' is claimed by plugin" in record(plugins, distribution).reason


def test_blocking_settles_a_conflict(install: Install) -> None:
    install("motia-one", REDIS, name="one")
    install("motia-two", REDIS, name="two")
    plugins = load(environ={"MOTIA_BLOCK_PLUGINS": "motia-two:two"})
    assert plugins.adapter("fake").name == "fake"
    assert record(plugins, "motia-one").reason == ""


def test_a_shared_scheme_alone_leaves_both_names_usable() -> None:
    plugins = load(fake("one", schemes=("x",)), fake("two", schemes=("x",)))
    assert plugins.adapter("one").name == "one"
    with pytest.raises(PluginError, match="URL scheme 'x' is claimed by plugin 'two' of this application"):
        plugins.adapter_for_scheme("x")


# -- blocking and requiring


@pytest.mark.parametrize("name", ["fast", "motia-fake", "motia-fake:fast"])
@pytest.mark.parametrize("way", ["argument", "environment"])
def test_a_blocked_plugin_is_not_even_imported(install: Install, name: str, way: str) -> None:
    install("motia-fake", REDIS, name="fast")
    blocked, environ = ([name], "") if way == "argument" else ([], f"other, {name}")
    plugins = load(blocked=blocked, environ={"MOTIA_BLOCK_PLUGINS": environ})
    assert record(plugins, "motia-fake").status == "blocked"
    assert "plugin_of_motia_fake" not in sys.modules
    with pytest.raises(ConfigError, match=r"plugin 'fast' of motia-fake 1.2 is left out \(blocked: blocked by name\)"):
        plugins.adapter("fake")


def test_the_built_in_adapter_can_be_blocked() -> None:
    assert "memory" not in load(blocked=["memory"]).adapters


def test_a_required_plugin_that_is_missing_or_broken_stops_the_start(install: Install) -> None:
    install("motia-guard", "1 / 0", name="guard")
    with pytest.raises(PluginError, match=r"asks for 'guard', but plugin 'guard' of motia-guard 1.2 is left out"):
        load(environ={"MOTIA_REQUIRE_PLUGINS": "guard"})
    with pytest.raises(PluginError, match="asks for 'gaurd', but no plugin of that name is installed"):
        load(environ={"MOTIA_REQUIRE_PLUGINS": "gaurd"})
    assert load(environ={"MOTIA_REQUIRE_PLUGINS": "memory"}).records


# -- calling


@dataclass
class Joining:
    answer: Any
    asked: list[str]
    name: str = ""

    @hookimpl
    async def motia_on_join(self, subscription: Subscription, auth_context: object) -> Any:
        self.asked.append(f"{self.name}:{subscription.stream_name}")
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@dataclass
class PlainJoining(Joining):
    @hookimpl
    def motia_on_join(self, ctx: object) -> Any:  # type: ignore[override]
        self.asked.append(self.name)
        return self.answer


async def test_own_plugins_come_first_in_their_order_and_async_answers_are_awaited(install: Install) -> None:
    install("motia-guard", "@hookimpl\nasync def motia_on_join(ctx): return 'installed'")
    asked: list[str] = []
    plugins = load(Joining("one", asked, "1"), PlainJoining(None, asked, "2"), Joining({}, asked, "3"))
    assert await plugins.call("motia_on_join", **ASK) == ["one", {}, "installed"]
    assert asked == ["1:documents", "2", "3:documents"]
    names = [found.name for found in plugins.records]
    assert names[:4] == ["Joining", "PlainJoining", "Joining", "memory"]
    assert "it" in names[4:]


async def test_first_asks_nobody_after_an_answer() -> None:
    asked: list[str] = []
    plugins = load(Joining(None, asked, "1"), Joining({}, asked, "2"), Joining("late", asked, "3"))
    assert await plugins.first("motia_on_join", **ASK) == {}
    assert asked == ["1:documents", "2:documents"]
    assert await plugins.first("motia_authenticate", request=None) is None


async def test_an_exception_ends_a_call_but_not_a_notification(caplog: pytest.LogCaptureFixture) -> None:
    asked: list[str] = []
    plugins = load(Joining(RuntimeError("no"), asked, "1"), Joining("x", asked, "2"))
    with pytest.raises(RuntimeError, match="no"):
        await plugins.call("motia_on_join", **ASK)
    assert asked == ["1:documents"]
    await plugins.notify("motia_on_join", **ASK)
    assert asked == ["1:documents", "1:documents", "2:documents"]
    assert "motia_on_join of plugin this application:Joining#2 failed" in caplog.text


async def test_a_call_must_give_what_a_plugin_asks_for() -> None:
    plugins = load(Joining(None, []))
    with pytest.raises(KeyError, match="auth_context"):
        await plugins.call("motia_on_join", subscription=SUBSCRIPTION)


async def test_tracing_tells_who_was_asked_but_never_what(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "motia.plugins")
    plugins = load(Joining("s3cret", [], "1"), environ={"MOTIA_TRACE_PLUGINS": "1"})
    await plugins.call("motia_on_join", **ASK)
    assert "motia_on_join of this application:Joining answered str in " in caplog.text
    assert "s3cret" not in caplog.text


def test_implements_and_the_relay_of_pluggy() -> None:
    plugins = load(Joining("x", []))
    assert plugins.implements("motia_on_join")
    assert not plugins.implements("motia_on_leave")
    assert plugins.hook.motia_on_leave(**ASK) == []


# -- building


def test_a_missing_driver_says_how_to_install_it() -> None:
    def loads() -> Any:
        import no_such_driver_anywhere  # type: ignore[import-not-found]

        return no_such_driver_anywhere

    plugin = fake(load=loads, install="motia-core[fake]")
    with pytest.raises(MissingDependency) as caught:
        build_adapter(plugin, StorageSettings("live"), plugin.options())
    assert str(caught.value) == (
        "storage 'live': adapter 'fake' cannot import what it needs (No module named 'no_such_driver_anywhere');"
        ' install it with: pip install "motia-core[fake]"'
    )
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_an_adapter_is_built_from_its_settings() -> None:
    adapter = build_adapter(MEMORY, StorageSettings("live"), MEMORY.options())
    assert adapter.settings.name == "live"
