"""The types of client.js, as the TypeScript compiler sees them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

CASES = Path(__file__).parent / "js" / "types.ts"


def compile_types(node_modules: Path, source: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Check one file, strictly."""
    compiler = node_modules / ".bin" / "tsc"
    flags = ["--noEmit", "--strict", "--target", "es2022", "--lib", "es2022,dom", *options]
    return subprocess.run([str(compiler), *flags, str(source)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "resolution", [["--module", "nodenext"], ["--module", "esnext", "--moduleResolution", "bundler"]]
)
def test_types_accept_and_refuse_what_they_should(node_modules: Path, resolution: list[str]) -> None:
    done = compile_types(node_modules, CASES, *resolution)
    assert done.returncode == 0, done.stdout


def test_the_compiler_is_really_asked(node_modules: Path, tmp_path: Path) -> None:
    client = CASES.parents[3] / "motia_core" / "client" / "client.js"
    wrong = tmp_path / "wrong.ts"
    wrong.write_text(f'import {{ connectStream }} from "{client.as_posix()}";\nconnectStream("documents", {{}});\n')
    done = compile_types(node_modules, wrong, "--module", "nodenext")
    assert "groupId" in done.stdout
