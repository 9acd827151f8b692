"""Everything that is checked of this project: ``nox -s NAME``; ``nox`` runs the quick ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import nox

HERE = Path(__file__).parent
BACKENDS = ["memory", "sqlite", "redis", "firestore", "mongodb", "supabase", "postgres"]
SERVERS = {"supabase": "postgres,postgrest"}
"""The servers that a backend's tests need, where their names are others."""
INSTALL = ("--editable", ".[all,testing]", "--editable", "plugins_contrib/motia-postgres", "--group", "test")

nox.options.sessions = ["lint", "typing", "tests", "build"]
nox.options.reuse_existing_virtualenvs = True
nox.needs_version = ">=2024.10"


def install(session: nox.Session, *arguments: str) -> None:
    """Install with a pip that knows dependency groups."""
    session.install("pip>=25.1")
    session.install(*arguments)


@nox.session
def tests(session: nox.Session) -> None:
    """All tests but the contrib ones; arguments go to pytest."""
    install(session, *INSTALL)
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
@nox.parametrize("backend", BACKENDS)
def conformance(session: nox.Session, backend: str) -> None:
    """The compliance suite against one backend, which must be there: a skip is a failure."""
    install(session, *INSTALL)
    session.run(
        "python",
        "-m",
        "pytest",
        "tests/conformance",
        "-k",
        backend,
        *session.posargs,
        env={"MOTIA_REQUIRE": SERVERS.get(backend, backend)},
    )


@nox.session
def supabase(session: nox.Session) -> None:
    """The suite and Supabase's tests on its own servers: one that is there, or containers; see CONTRIBUTING."""
    install(session, *INSTALL)
    tests = ("tests/conformance", "tests/adapters/supabase", "-k", "stack")
    session.run("python", "-m", "pytest", *tests, *session.posargs, env={"MOTIA_REQUIRE": "supabase"})


@nox.session
def typing(session: nox.Session) -> None:
    """mypy in strict mode, and pyright."""
    install(session, *INSTALL, "--group", "typing")
    session.run("mypy", "motia_core", "adapters", "tests", "scripts")
    contrib = HERE / "plugins_contrib" / "motia-postgres" / "src"
    session.run("mypy", str(contrib), env={"MYPYPATH": str(contrib)})
    session.run("pyright", "motia_core", "adapters")


@nox.session
def lint(session: nox.Session) -> None:
    """ruff, formatting, and who imports whom."""
    install(session, "--editable", ".", "--group", "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session
def build(session: nox.Session) -> None:
    """The wheel and the editable install, each in a fresh environment and seen from outside."""
    wheel = build_wheel(session)
    check = str(HERE / "scripts" / "check_install.py")
    for target in ([str(wheel)], ["--editable", str(HERE)]):
        fresh = Path(session.create_tmp()).resolve() / "fresh"
        session.run("python", "-m", "venv", "--clear", str(fresh), silent=True)
        python = str(fresh / "bin" / "python")
        session.run(python, "-m", "pip", "install", "--quiet", *target, external=True)
        with session.chdir(fresh):
            session.run(python, "-I", check, external=True)
    session.run("python", check, "--wheel", str(wheel))


def build_wheel(session: nox.Session) -> Path:
    """The wheel, built from the sdist as a packager would."""
    session.install("build>=1.2")
    out = Path(session.create_tmp()).resolve() / "dist"
    for old in out.glob("*"):
        old.unlink()
    session.run("python", "-m", "build", "--outdir", str(out), str(HERE), silent=True)
    (wheel,) = out.glob("*.whl")
    return wheel


@nox.session
def minimum(session: nox.Session) -> None:
    """The tests with the lowest version of each direct dependency that we claim to work with."""
    session.install("uv>=0.9")
    lowest = ("--resolution", "lowest-direct", "--python", str(Path(session.bin) / "python"))
    session.run("uv", "pip", "install", "--quiet", *lowest, *INSTALL)
    # Google's older drivers warn that they will not know today's Python for ever.
    google = ("-W", "ignore:You are using a Python version:FutureWarning")
    session.run("python", "-m", "pytest", *google, *session.posargs)


@nox.session
def contrib(session: nox.Session) -> None:
    """Each plugin of plugins_contrib/ with its own tests, on the wheel, as its author would have it."""
    plugins = sorted(path.parent for path in (HERE / "plugins_contrib").glob("*/pyproject.toml"))
    if not plugins:
        session.skip("plugins_contrib/ holds no plugin")
    wheel = build_wheel(session)
    for plugin in plugins:
        session.install("--force-reinstall", "--no-deps", str(wheel))
        session.install(f"{wheel}[testing]", str(plugin))
        with session.chdir(plugin):
            session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def scaffold(session: nox.Session) -> None:
    """``new-adapter`` from the wheel, outside the tree: what it makes passes the suite."""
    wheel = build_wheel(session)
    session.install(f"{wheel}[cli,testing]")
    made = Path(session.create_tmp()).resolve() / "made"
    shutil.rmtree(made, ignore_errors=True)
    session.run("motia-core", "new-adapter", "tape", "--folder", str(made))
    session.install("--editable", str(made))
    with session.chdir(made):
        session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Write the generated pages of the reference."""
    install(session, "--editable", ".[server]", "--editable", "plugins_contrib/motia-postgres")
    session.run("python", "scripts/generate_docs.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Every claim of speed beside its baseline, interleaved; names of rows as arguments."""
    install(session, "--editable", ".[all]", "--editable", "plugins_contrib/motia-postgres", "jsonschema")
    if shutil.which("npm"):
        session.run(
            "npm",
            "install",
            "--no-audit",
            "--no-fund",
            "--no-package-lock",
            "--prefix",
            "benchmarks/node",
            external=True,
        )
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def chaos(session: nox.Session) -> None:
    """The long form of the fault tests, with their figures; ``MOTIA_CHAOS_SCALE=0.05`` makes them short."""
    install(session, *INSTALL)
    session.run("python", "-m", "pytest", "-m", "chaos", *session.posargs)
