"""A database that is not ready, not there, or not ours: typed errors with the remedy, within the timeout (F1, F2)."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import asyncpg
import pytest
from motia_adapters.postgresql import migrations

from motia_core.errors import BackendError, BackendUnavailable, ConfigError, InvalidValue, OutcomeUnknown
from motia_core.model import StreamSpec, Write
from motia_core.testing.proxy import Mode, Proxy
from motia_core.testing.servers import free_port
from tests.adapters.postgresql.conftest import Database

SPEC = StreamSpec("documents")


async def test_a_database_without_our_objects_says_how_to_get_them(empty: Database) -> None:
    with pytest.raises(BackendError, match="motia-core migrate apply"):
        await empty.adapter().open()


async def test_an_older_migration_says_how_to_go_on(database: Database) -> None:
    await database.psql.run(
        "CREATE OR REPLACE FUNCTION motia.version() RETURNS json LANGUAGE sql AS $$ SELECT '1'::json $$"
    )
    with pytest.raises(BackendError, match=r"are older \(version 1, needed: 2\): run: motia-core migrate apply"):
        await database.adapter().open()


async def test_a_newer_migration_wants_a_newer_version_of_us(database: Database) -> None:
    await database.psql.run(
        "CREATE OR REPLACE FUNCTION motia.version() RETURNS json LANGUAGE sql AS $$ SELECT '99'::json $$"
    )
    with pytest.raises(BackendError, match=r"are newer .*upgrade motia-core"):
        await database.adapter().open()


@pytest.mark.parametrize(
    "state",
    [
        "UPDATE motia.migration SET digest = 'another' WHERE name = '0001_motia_storage'",
        "ALTER TABLE motia.migration DROP COLUMN digest;"
        " CREATE OR REPLACE FUNCTION motia.version() RETURNS json LANGUAGE sql AS $$ SELECT '2'::json $$",
    ],
)
async def test_objects_of_the_same_version_from_other_files_are_noticed(database: Database, state: str) -> None:
    await database.psql.run(state)
    said = r"came from another state of the files.*DROP SCHEMA \"motia\" CASCADE"
    with pytest.raises(BackendError, match=said):
        await database.adapter().open()
    with pytest.raises(ConfigError, match=r"0001_motia_storage.* in schema 'motia' " + said):
        await database.adapter().migrate()


async def test_files_applied_as_they_are_in_the_package_are_taken(empty: Database) -> None:
    """By psql, past our command: nobody told their digests."""
    folder = Path(migrations.__file__).parent / "sql"
    empty.program("".join(path.read_text() for path in sorted(folder.glob("*.sql")) if "supabase" not in path.name))
    async with empty.opened() as adapter:
        await adapter.prepare(SPEC)
        assert await adapter.migrate() == []
    assert await empty.psql.value("SELECT count(*) FROM motia.migration WHERE digest IS NULL") == 2


async def test_a_wrong_schema_is_named(database: Database) -> None:
    with pytest.raises(BackendError, match=r"schema .elsewhere. does not exist.*motia-core migrate apply"):
        await database.adapter(schema="elsewhere").open()


async def test_our_objects_may_live_in_another_schema(empty: Database) -> None:
    adapter = empty.adapter(schema="Streams")
    assert await adapter.migrate() == ["0001_motia_storage", "0002_motia_mapping"]
    assert await adapter.migrate() == []
    await adapter.open()
    await adapter.prepare(SPEC)
    await adapter.write(SPEC, [Write("set", "g", "x", b"{}")])
    assert await adapter.get(SPEC, "g", "x") is not None
    await adapter.close()
    assert await empty.psql.value("SELECT to_regnamespace('motia') IS NULL")


async def test_a_role_needs_two_grants_and_no_more(database: Database) -> None:
    role = database.url.rsplit("/", 1)[1] + "_app"
    await database.psql.run(f"CREATE ROLE {role} LOGIN")
    try:
        url = database.url.replace("postgres@", f"{role}@")
        with pytest.raises(BackendError, match=r"permission denied.*GRANT USAGE ON SCHEMA"):
            await database.adapter(url).open()
        await database.psql.run(f"GRANT USAGE ON SCHEMA motia TO {role}")
        with pytest.raises(BackendError, match=r"permission denied.*EXECUTE ON ALL FUNCTIONS"):
            await database.adapter(url).open()
        await database.psql.run(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA motia TO {role}")
        adapter = database.adapter(url)
        await adapter.open()
        await adapter.prepare(SPEC)
        await adapter.write(SPEC, [Write("set", "g", "x", b"{}")])
        await adapter.close()
    finally:
        await database.psql.run(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("5432", "0"), "is the server running"),
        (("/t", "/missing_t"), "does not exist.*create it, or correct its name"),
        (("postgres@", "nobody_here:hunter2@"), "does not exist.*check user"),
    ],
)
async def test_whom_we_cannot_reach_is_named_without_the_password(
    database: Database, change: tuple[str, str], said: str
) -> None:
    url = database.url.replace(*change)
    if change[0] == "5432":
        url = f"postgresql://postgres:hunter2@127.0.0.1:{free_port()}/x"
    with pytest.raises(BackendError, match=said) as caught:
        await database.adapter(url).open()
    assert "hunter2" not in str(caught.value)
    assert "postgresql://127.0.0.1:" in str(caught.value)
    assert caught.value.__cause__ is not None


async def test_a_server_that_does_not_answer_fails_calls_in_time(database: Database) -> None:
    port = int(database.url.rsplit(":", 1)[1].split("/")[0])
    async with Proxy(port) as proxy:
        adapter = database.adapter(database.url.replace(f":{port}", f":{proxy.port}"), timeout=3.0)
        await adapter.open()
        await adapter.prepare(SPEC)
        modes: tuple[Mode, Mode] = ("hole", "stall")
        for mode in modes:
            proxy.mode = mode
            before = time.monotonic()
            with pytest.raises(BackendUnavailable, match="no answer within 3 s"):
                await adapter.get(SPEC, "g", "x")
            with pytest.raises(BackendUnavailable, match=r"no connection within 2\.7 s"):  # so nothing was sent
                await adapter.write(SPEC, [Write("set", "g", "x", b"{}")])
            assert time.monotonic() - before < 20
            proxy.mode = "pass"
            proxy.cut()
            await adapter.write(SPEC, [Write("set", "g", "y", b"{}")])
        proxy.mode = "hole"
        with pytest.raises(BackendUnavailable):
            await database.adapter(database.url.replace(f":{port}", f":{proxy.port}"), timeout=1.0).open()
        proxy.mode = "pass"
        await adapter.close()


async def test_a_connection_that_the_server_has_ended_takes_no_write_with_it(database: Database) -> None:
    """The server has said so, and the end of the connection itself has not come yet."""
    port = int(database.url.split(":")[-1].split("/")[0])
    told = asyncio.Event()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, there = await asyncio.open_connection("127.0.0.1", port)

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(65_536):
                target.write(data)
                if b"57P01" in data:
                    told.set()

        try:
            await asyncio.gather(pump(reader, there), pump(back, writer))
        finally:
            there.transport.abort()
            writer.transport.abort()

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as server:
        url = database.url.replace(f":{port}", f":{server.sockets[0].getsockname()[1]}")
        async with database.opened(url=url, timeout=1.0) as adapter:
            await adapter.prepare(SPEC)
            await database.psql.run(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'motia-core'"
            )
            await told.wait()
            other = await asyncpg.connect(url)
            await other.fetchval("SELECT 1")  # what came before this answer has been read
            other.terminate()
            with pytest.raises(BackendUnavailable):
                await adapter.write(SPEC, [Write("set", "g", "x", b"{}")])
            await adapter.write(SPEC, [Write("set", "g", "x", b"{}")])


async def test_a_write_whose_answer_makes_no_sense_may_have_happened(database: Database) -> None:
    async with database.opened() as adapter:
        await adapter.prepare(SPEC)
        await database.psql.run(
            "ALTER FUNCTION motia.write_one RENAME TO really_write_one;"
            " CREATE FUNCTION motia.write_one(p_namespace text, p_stream text, p_kind text, p_group text, p_id text,"
            " p_value text, p_expect text) RETURNS json LANGUAGE plpgsql AS $$ BEGIN PERFORM motia.really_write_one("
            "p_namespace, p_stream, p_kind, p_group, p_id, p_value, p_expect); RETURN '7'; END $$"
        )
        with pytest.raises(OutcomeUnknown, match="failed unexpectedly"):
            await adapter.write(SPEC, [Write("set", "g", "x", b"{}")])
        assert await adapter.get(SPEC, "g", "x") is not None


async def test_a_lock_that_is_held_too_long_is_given_up_and_nothing_is_written(database: Database) -> None:
    async with database.opened(timeout=1.0) as adapter, database.psql.connection() as other:
        await adapter.prepare(SPEC)
        transaction = other.transaction()
        await transaction.start()
        await other.fetchval("SELECT motia.locked('motia', 'documents')")
        with pytest.raises(BackendUnavailable, match="nothing was written"):
            await adapter.write(SPEC, [Write("set", "g", "x", b"{}")])
        await transaction.rollback()
        assert await adapter.get(SPEC, "g", "x") is None


async def test_text_that_postgresql_cannot_hold_is_refused(database: Database) -> None:
    """The core refuses NUL in values and ids; the type of an event is free text."""
    async with database.opened() as adapter:
        await adapter.prepare(SPEC)
        head = await adapter.head(SPEC)
        with pytest.raises(InvalidValue, match=r"U\+0000"):
            await adapter.write(SPEC, [Write("event", "g", None, b"1", event_type="a\0b")])
        assert await adapter.head(SPEC) == head


async def test_nothing_listens_and_all_is_seen_through_a_pooler(database: Database) -> None:
    async with database.opened(pooler=True) as adapter, database.opened() as other:
        await adapter.prepare(SPEC)
        watch = adapter.watch(SPEC, await adapter.head(SPEC))
        assert (await anext(watch)).changes == ()
        await other.write(SPEC, [Write("set", "g", "x", b"{}")])
        async with asyncio.timeout(20):
            assert [change.id for change in (await anext(watch)).changes] == ["x"]
        await watch.aclose()
        assert any("pooler = true" in finding.message for finding in await adapter.diagnose())


async def test_doctor_says_what_will_hurt(database: Database) -> None:
    async with database.opened() as adapter:
        well = await adapter.diagnose()
        assert [finding.message[:12] for finding in well if finding.level != "ok"] == ["fsync is off"], well
        assert any("LISTEN works" in finding.message for finding in well)
    name = database.url.rsplit("/", 1)[1]
    await database.psql.run(f"ALTER DATABASE {name} SET synchronous_commit = off")
    async with database.opened() as adapter:
        assert any("synchronous_commit is off" in finding.message for finding in await adapter.diagnose())


async def test_no_password_is_in_any_description(database: Database) -> None:
    adapter = database.adapter("postgresql://app:hunter2@127.0.0.1:1/x")
    assert "hunter2" not in f"{adapter.address} {adapter.database!r} {vars(adapter.database)!r}"
