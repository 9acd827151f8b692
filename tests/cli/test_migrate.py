"""``migrate print`` and ``apply``: what storages need, for people and done."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from motia_adapters.postgresql.testing import Psql

from motia_core.cli import main
from motia_core.testing.servers import PostgreSQL, start_or_skip

MAPPED = '\nmapped = { table = "orders", group_field = "customer", id_field = "code" }\n'


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    server = PostgreSQL("-c", "fsync=off")
    asyncio.run(start_or_skip(server))
    yield server
    asyncio.run(server.stop())


def run(*arguments: str) -> object:
    with pytest.raises(SystemExit) as ended:
        main(["migrate", *arguments])
    return ended.value.code


def project(folder: Path, url: str = "postgresql://127.0.0.1:1/nobody") -> str:
    (folder / "motia.toml").write_text(
        f'[storage.orders]\nurl = "{url}"{MAPPED}\n[storage.default]\nadapter = "sqlite"\n'
    )
    return str(folder)


def test_print_shows_everything_and_connects_to_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("print", "-p", project(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("-- storage 'orders': 0001_motia_storage\n")
    assert "CREATE FUNCTION motia.write(" in printed
    assert "SELECT motia.map_table('public', 'orders', 'customer', 'code');" in printed
    assert "service_role" not in printed


def test_print_writes_files_for_the_supabase_cli_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "supabase" / "migrations"
    for _ in range(2):
        assert run("print", "-p", project(tmp_path), "--folder", str(folder)) == 0
    names = sorted(path.name for path in folder.iterdir())
    assert [name[14:] for name in names] == [
        "_motia_storage.sql",
        "_motia_mapping.sql",
        "_motia_map_public_orders.sql",
    ]
    assert all(name[:14].isdecimal() for name in names)


def test_apply_does_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str], server: PostgreSQL) -> None:
    folder = project(tmp_path, server.url)
    assert "does not exist" in str(run("apply", "-p", folder)) + capsys.readouterr().err
    asyncio.run(Psql(server.url).run("CREATE TABLE orders (customer text, code text, PRIMARY KEY (customer, code))"))
    assert run("apply", "-p", folder) == 0
    assert capsys.readouterr().err == "storage 'orders': applied motia_map_public_orders\n"
    assert run("apply", "-p", folder, "--storage", "orders") == 0
    assert capsys.readouterr().err == "storage 'orders': nothing to do\n"


def test_a_storage_that_there_is_not_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run("print", "-p", project(tmp_path), "--storage", "nope")
    assert "storage 'nope' is not defined; there are: default, orders" in str(code) + capsys.readouterr().err


def test_a_server_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run("apply", "-p", project(tmp_path))
    assert "cannot migrate at postgresql://127.0.0.1:1/nobody" in str(code) + capsys.readouterr().err


def test_what_is_printed_for_two_storages_in_one_database_can_be_run_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], server: PostgreSQL
) -> None:
    asyncio.run(Psql(server.url).run("CREATE DATABASE printed"))
    url = server.url.rsplit("/", 1)[0] + "/printed"
    folder = project(tmp_path, url)
    with (tmp_path / "motia.toml").open("a") as settings:
        settings.write(f'[storage.live]\nurl = "{url}"\n')
    assert run("print", "-p", folder) == 0
    printed = capsys.readouterr().out
    assert "-- storage 'live': 0001_motia_storage, as above" in printed
    tables = "CREATE TABLE orders (customer text, code text, PRIMARY KEY (customer, code));\n"
    command = ["psql", url, "-v", "ON_ERROR_STOP=1", "-q", "-f", "-"]
    done = subprocess.run(command, input=tables + printed, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert run("apply", "-p", folder) == 0
    assert capsys.readouterr().err == "storage 'orders': nothing to do\nstorage 'live': nothing to do\n"
