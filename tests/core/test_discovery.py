"""A project's files are found by their names; what is wrong with one is said with its place."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from motia_core.discovery import find
from motia_core.errors import ConfigError

STREAM = "from motia_core import StreamConfig\ndefault = StreamConfig(name={0!r})\n"
STEP = """
from motia_core import step, http
async def handler(input, ctx): ...
default = step({{"name": {0!r}, "triggers": [http("GET", "/{0}")]}}, handler)
"""


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if "motia" in name.split(".")[0] and not name.startswith(("motia_core", "motia_adapters")):
            del sys.modules[name]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "app")


class Project:
    """A project's folder, to write files into."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "motia").mkdir(parents=True)

    def write(self, name: str, code: str) -> None:
        file = self.folder / "motia" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code)

    def refusal(self) -> str:
        with pytest.raises(ConfigError) as caught:
            find(self.folder, fresh=True)
        return str(caught.value)


def test_streams_steps_and_authenticate_are_found(project: Project) -> None:
    project.write("streams/documents_stream.py", STREAM.format("documents"))
    project.write("streams/chat/rooms_stream.py", STREAM.format("rooms"))
    project.write("streams/helper.py", "raise RuntimeError('not a stream file')")
    project.write("streams/.hidden/x_stream.py", "raise RuntimeError('hidden')")
    project.write("steps/a/edit_step.py", STEP.format("edit"))
    project.write("auth.py", "async def authenticate(request): ...\n")
    found = find(project.folder)
    assert [stream.name for stream in found.streams] == ["rooms", "documents"]
    assert [step.name for step in found.steps] == ["edit"]
    assert found.authenticate is not None
    assert found.authenticate.__name__ == "authenticate"
    assert found.path == project.folder


def test_any_module_attribute_counts_and_counts_once(project: Project) -> None:
    project.write("streams/two_stream.py", STREAM.format("one") + "two = StreamConfig(name='two')\nagain = two\n")
    project.write("streams/user_stream.py", STREAM.format("three") + "from motia.streams.two_stream import two\n")
    assert [stream.name for stream in find(project.folder).streams] == ["one", "two", "three"]


def test_a_step_that_got_its_handler_later_is_one_step(project: Project) -> None:
    code = "from motia_core import step\nbase = step({'name': 'x'})\ndefault = base.handle(lambda input, ctx: None)\n"
    project.write("steps/x_step.py", code)
    (found,) = find(project.folder).steps
    assert found.handler is not None


def test_a_project_may_be_nothing_but_configuration(tmp_path: Path) -> None:
    (tmp_path / "motia.toml").write_text("")
    found = find(tmp_path)
    assert (found.streams, found.steps, found.authenticate) == ((), (), None)


# -- imports between files


def test_absolute_and_relative_imports_mean_the_same_module(project: Project) -> None:
    project.write("lib.py", "things = []\n")
    project.write("streams/a_stream.py", STREAM.format("a") + "from motia.lib import things\nthings.append('a')\n")
    project.write("streams/b_stream.py", STREAM.format("b") + "from ..lib import things\nthings.append('b')\n")
    (project.folder / "beside.py").write_text("x = 1\n")
    project.write("streams/c_stream.py", STREAM.format("c") + "import beside\n")
    find(project.folder)
    assert sys.modules["motia.lib"].things == ["a", "b"]


def test_imports_still_work_when_a_handler_runs(project: Project) -> None:
    project.write("lib.py", "x = 1\n")
    code = "from motia_core import step\ndef handler(input, ctx):\n    from motia.lib import x\n    return x\n"
    project.write("steps/x_step.py", code + "default = step({'name': 'x'}, handler)\n")
    (step,) = find(project.folder).steps
    assert step.handler is not None
    assert step.handler(None, None) == 1


def test_the_package_may_have_an_init_file(project: Project) -> None:
    project.write("__init__.py", "answer = 42\n")
    project.write("streams/a_stream.py", "from motia import answer\nassert answer == 42\n" + STREAM.format("a"))
    assert find(project.folder).streams
    project.write("__init__.py", "\n1 / 0\n")
    assert project.refusal() == "motia/__init__.py, line 2: ZeroDivisionError: division by zero"


def test_the_projects_folder_wins_over_an_installed_package(project: Project, tmp_path: Path) -> None:
    (tmp_path / "site/motia").mkdir(parents=True)
    (tmp_path / "site/motia/__init__.py").write_text("raise RuntimeError('the installed one')")
    sys.path.insert(0, str(tmp_path / "site"))
    project.write("lib.py", "x = 1\n")
    project.write("streams/a_stream.py", "from motia.lib import x\n" + STREAM.format("a"))
    assert [stream.name for stream in find(project.folder).streams] == ["a"]


def test_an_installed_package_that_was_imported_first_is_left_alone(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = ModuleType("motia")
    foreign.__file__ = "site-packages/motia/__init__.py"
    monkeypatch.setitem(sys.modules, "motia", foreign)
    project.write("lib.py", "x = 1\n")
    project.write("streams/a_stream.py", "from ..lib import x\n" + STREAM.format("a"))
    assert [stream.name for stream in find(project.folder).streams] == ["a"]
    assert sys.modules["motia"] is foreign
    project.write("streams/b_stream.py", "from motia.lib import x\n" + STREAM.format("b"))
    assert project.refusal().splitlines() == [
        "motia/streams/b_stream.py, line 1: ModuleNotFoundError: No module named 'motia.lib'; 'motia' is not a package",
        "  an installed package called 'motia' (site-packages/motia/__init__.py) was imported before this project:"
        " uninstall it, or use relative imports (from ..lib import x)",
    ]


# -- again, and another


def test_files_run_once_until_they_are_wanted_fresh(project: Project) -> None:
    project.write("streams/a_stream.py", STREAM.format("first"))
    once = find(project.folder)
    project.write("streams/a_stream.py", STREAM.format("another"))
    assert find(project.folder).streams[0] is once.streams[0]
    assert find(project.folder, fresh=True).streams[0].name == "another"


def test_what_a_program_imported_by_itself_is_used_as_it_is(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write("streams/a_stream.py", STREAM.format("a"))
    monkeypatch.syspath_prepend(project.folder)
    import motia.streams.a_stream  # type: ignore[import-not-found]

    assert find(project.folder).streams[0] is motia.streams.a_stream.default


def test_another_project_takes_the_place_of_the_first(project: Project, tmp_path: Path) -> None:
    second = Project(tmp_path / "second")
    for each, name in ((project, "one"), (second, "two")):
        each.write("lib.py", f"name = {name!r}\n")
        each.write("streams/a_stream.py", "from motia.lib import name\n" + STREAM.format("x").replace("'x'", "name"))
        assert find(each.folder).streams[0].name == name
    assert str(second.folder) in sys.path
    assert str(project.folder) not in sys.path
    assert find(project.folder).streams[0].name == "one"


# -- what is refused, and how it is said


def test_what_is_no_project(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is no project: it has neither a folder 'motia' nor a file 'motia\.toml'$"):
        find(tmp_path)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("\n\n1 / 0\n", "motia/streams/a_stream.py, line 3: ZeroDivisionError: division by zero"),
        ("x = (\n", "motia/streams/a_stream.py, line 1: SyntaxError: '(' was never closed"),
        ("import sys\nsys.exit(2)", "motia/streams/a_stream.py, line 2: SystemExit: 2"),
        (
            "from motia.lib import x",
            "motia/lib.py, line 2 (imported by motia/streams/a_stream.py): ModuleNotFoundError: No module named",
        ),
        (
            "from motia_core import StreamConfig\ndefault = StreamConfig(\n  name='1st')",
            "motia/streams/a_stream.py, line 2: InvalidName: stream name '1st': must be a letter, then letters, digits",
        ),
        (
            "from motia import StreamConfig",
            "motia/streams/a_stream.py, line 1: ImportError: cannot import name 'StreamConfig' from 'motia' (unknown "
            "location)\n  'motia' is the project's own folder; step, http, StreamConfig and the like are in",
        ),
        (
            "raise ValueError('cannot reach redis://u:hunter2@h')",
            "motia/streams/a_stream.py, line 1: ValueError: cannot reach redis://u:***@h",
        ),
        ("x = 1", "motia/streams/a_stream.py: declares no StreamConfig; write default = StreamConfig(name=...)"),
        (
            "default = {'name': 'a'}",
            "motia/streams/a_stream.py: 'default' is of type dict, not StreamConfig(name=...)",
        ),
    ],
)
def test_a_broken_file_is_named_with_its_line(project: Project, code: str, message: str) -> None:
    project.write("lib.py", "\nimport nowhere\n")
    project.write("streams/a_stream.py", code)
    assert project.refusal().startswith(message)


def test_the_cause_is_kept(project: Project) -> None:
    project.write("streams/a_stream.py", "1 / 0")
    with pytest.raises(ConfigError) as caught:
        find(project.folder)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_one_name_twice_names_both_files(project: Project) -> None:
    project.write("streams/a_stream.py", STREAM.format("documents"))
    project.write("streams/b/c_stream.py", STREAM.format("documents"))
    assert project.refusal() == (
        "two streams are called 'documents': in motia/streams/a_stream.py and motia/streams/b/c_stream.py"
    )
    project.write("streams/b/c_stream.py", STREAM.format("others"))
    project.write("steps/a_step.py", STEP.format("x") + "other = step({'name': 'x'}, handler)")
    assert project.refusal() == "two steps are called 'x': in motia/steps/a_step.py"
    project.write("steps/a_step.py", STEP.format("y") + "other = step({'name': 'x'})")
    assert project.refusal() == "motia/steps/a_step.py: step 'x' has no handler"


def test_files_that_declare_nothing_useful(project: Project) -> None:
    project.write("auth.py", "authenticate = None")
    assert project.refusal() == "motia/auth.py: defines no function 'authenticate'"
    project.write("steps/x_step.py", "x = 1")
    assert project.refusal() == "motia/steps/x_step.py: declares no Step; write default = step({...}, handler)"
    project.write("steps/a.b_step.py", "x = 1")
    assert (
        project.refusal() == "motia/steps/a.b_step.py: a dot in a file's or folder's name keeps it from being imported"
    )


# -- files that nobody reads


@pytest.mark.parametrize(
    ("file", "code", "message"),
    [
        ("streams/a.py", STREAM.format("a"), "declares a stream, but nobody reads it: streams are read from {streams}"),
        ("streams/inner/a.py", STREAM.format("a"), "declares a stream, .*; call it motia/streams/inner/a_stream.py$"),
        (
            "streams/a/__init__.py",
            "import motia_core\nx = motia_core.StreamConfig(name='a')",
            "declares a stream, .*; call it motia/streams/a_stream.py$",
        ),
        ("a_stream.py", STREAM.format("a"), "declares a stream, .*; call it motia/streams/a_stream.py$"),
        ("steps/a.py", STEP.format("a"), "declares a step, but nobody reads it: .*; call it motia/steps/a_step.py$"),
        ("steps/a_stream.py", STREAM.format("a"), "declares a stream, .*; call it motia/streams/a_stream.py$"),
        ("stream/a_step.py", STEP.format("a"), "declares a step, .*; call it motia/steps/a_step.py$"),
        (
            "steps/a.py",
            "from motia_core import step\nasync def f(input, ctx): ...\ndefault = step({'name': 'a'}).handle(f)\n1 / 0",
            "declares a step",
        ),
    ],
)
def test_a_file_with_a_wrong_name_is_said_and_not_run(project: Project, file: str, code: str, message: str) -> None:
    project.write("streams/good_stream.py", STREAM.format("good"))
    project.write(file, code)
    refusal = project.refusal()
    assert refusal.startswith(f"motia/{file}: ")
    assert re.search(message.format(streams=r"motia/streams/\*_stream.py; call it motia/streams/a_stream.py$"), refusal)


def test_helpers_may_declare_what_others_import(project: Project) -> None:
    project.write("streams/shared.py", STREAM.format("documents"))
    project.write("streams/documents_stream.py", "from .shared import default")
    project.write("lib/steps.py", STEP.format("a"))
    project.write("steps/all_step.py", "from motia.lib.steps import default")
    project.write("lib/broken.py", "default = (")
    project.write("lib/other.py", "thing = object()\nhandler = thing.step()\nstep = 3\nvalue: int = 4")
    project.write("streams/.drafts/b.py", STREAM.format("b"))
    found = find(project.folder, fresh=True)
    assert [stream.name for stream in found.streams] == ["documents"]
    assert [step.name for step in found.steps] == ["a"]
