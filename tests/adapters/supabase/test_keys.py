"""Keys that do not fit, schemas that are not exposed, an API that is not there."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

import pytest
from motia_adapters.supabase.options import SupabaseOptions, options_from_url
from pydantic import ValidationError

from motia_core.errors import BackendError, BackendUnavailable, ConfigError, UnsupportedCapability
from motia_core.model import StreamSpec, Write
from motia_core.testing.harness import Reader, eventually
from motia_core.testing.servers import free_port
from tests.adapters.supabase.conftest import Project
from tests.standins.supabase import key

CASES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"service_key": {"lifetime": -60}}, BackendError, "JWT expired.*take the current service key"),
    ({"service_key": key(secret="another secret of 32 bytes, at least")}, BackendError, "take the current service key"),
    ({"service_key": {"role": "anon"}}, BackendError, "permission denied.*use the service key"),
    ({"service_key": {"role": "authenticated"}}, BackendError, "permission denied.*use the service key"),
    ({"schema": "hidden"}, BackendError, "not exposed: add it to the exposed schemas"),
    ({"schema": "public"}, BackendError, "motia-core migrate apply"),
    ({"project_url": f"http://127.0.0.1:{free_port()}"}, BackendUnavailable, "is the server running"),
    ({"mapped": {"table": "no", "group_field": "a", "id_field": "b"}}, ConfigError, "does not exist, or is not mapped"),
]


@pytest.mark.parametrize(("options", "kind", "said"), CASES, ids=range(len(CASES)))
async def test_what_does_not_fit_is_told_with_the_remedy_and_without_the_key(
    project: Project, options: dict[str, Any], kind: type[Exception], said: str
) -> None:
    if isinstance(claims := options.get("service_key"), dict):
        options = {"service_key": project.key(**claims)}
    adapter = project.adapter(**options)
    with pytest.raises(kind, match=said) as caught:
        await adapter.open()
    assert str(options.get("service_key", "eyJ")) not in str(caught.value)
    await adapter.close()


async def test_the_api_cannot_migrate_and_says_what_can(project: Project) -> None:
    with pytest.raises(UnsupportedCapability, match="database_url, or apply what motia-core migrate print shows"):
        await project.adapter().migrate()
    assert await project.adapter(database_url=project.psql.url).migrate() == []
    names = [migration.name for migration in project.adapter().migrations()]
    assert names == ["0001_motia_storage", "0002_motia_mapping", "0003_motia_supabase"]


async def test_a_wrong_database_url_is_not_quoted(project: Project) -> None:
    url = f"postgresql://postgres:hunter2@127.0.0.1:{free_port()}/x"
    with pytest.raises(BackendUnavailable) as caught:
        await project.adapter(database_url=url).migrate()
    assert "hunter2" not in str(caught.value)


def test_urls_are_options() -> None:
    options = options_from_url("supabase://:se%3Acret@xyz.supabase.co?realtime=false&mapped.table=t")
    assert options == {
        "project_url": "https://xyz.supabase.co",
        "service_key": "se:cret",
        "realtime": "false",
        "mapped": {"table": "t"},
    }
    assert options_from_url("supabase://:k@127.0.0.1:54321?tls=false")["project_url"] == "http://127.0.0.1:54321"


@pytest.mark.parametrize("url", ["supabase://", "supabase://:k@h/x", "supabase://:k@h:99999", "supabase://h?tls=maybe"])
def test_urls_that_are_none_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=re.compile("URL|port|tls")):
        options_from_url(url)


@pytest.mark.parametrize(
    "options",
    [{}, {"project_url": "xyz.supabase.co", "service_key": "k"}, {"project_url": "https://x.co", "service_key": " "}],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SupabaseOptions(**options)


async def test_the_key_is_in_no_log_though_everything_is_logged(
    project: Project, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Also not in what the driver and its libraries log; the URL of Realtime holds the key."""
    caplog.set_level(logging.DEBUG)
    for name in ("websockets", "websockets.client", "realtime", "httpx", "httpcore", "supabase", "postgrest"):
        caplog.set_level(logging.DEBUG, logger=name)
    spec = StreamSpec("documents")
    for service in (key(), key("anon"), key(lifetime=-60)):
        project.standin.set_realtime(True)
        adapter = project.adapter(namespace, service_key=service)
        try:
            await adapter.open()
            await adapter.prepare(spec)
            reader = Reader(adapter.watch(spec, await adapter.head(spec)))
            bells = adapter._bells

            async def hears(bells: Any = bells) -> bool:
                return bool(bells.hears)

            async def deaf(bells: Any = bells) -> bool:
                return not bells.hears

            await eventually(hears, "Realtime to be joined")
            await adapter.write(spec, [Write("set", "g", "x", b"{}")])
            project.standin.set_realtime(False)
            await eventually(deaf, "the loss to be noticed")
            await adapter.diagnose()
            await reader.stop()
        except BackendError:
            assert service != key()
            async with asyncio.timeout(20):
                await adapter.database.open()
                await adapter.database.diagnose()
        finally:
            project.standin.set_realtime(True)
            await adapter.close()
        assert len(caplog.text) > 1_000
        _, payload, signature = service.split(".")
        assert payload not in caplog.text
        assert signature[-12:] not in caplog.text
    assert "REDACTED" in caplog.text or "***" in caplog.text
