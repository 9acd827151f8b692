"""What stands between us and the database: its own errors, keys that are no tokens, functions that only read."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from starlette.responses import HTMLResponse, JSONResponse, Response

from motia_core.errors import BackendError, BackendUnavailable, OutcomeUnknown
from motia_core.model import StreamSpec, Write
from motia_core.testing.harness import Reader, eventually
from motia_core.testing.proxy import Proxy
from tests.adapters.supabase.conftest import Project
from tests.standins.supabase import NEW_KEY

SPEC = StreamSpec("documents")
LOST = [
    JSONResponse({"code": "PGRST001", "message": "Database client error.", "details": None, "hint": None}, 503),
    JSONResponse({"code": "", "message": "", "details": None, "hint": None}, 500),  # the server was stopped
    # It panicked: the disk of its own log is full, which may have the commit.
    JSONResponse(
        {"code": "53100", "message": 'could not write to file "pg_wal/xlogtemp.7": No space left on device'}, 503
    ),
    JSONResponse({"code": "58030", "message": 'could not fsync file "00000001000000000000000A": I/O error'}, 500),
    JSONResponse(
        {"code": "58P01", "message": "could not access status of transaction 7", "details": 'no file "pg_xact/0000"'},
        500,
    ),
    JSONResponse({"message": "An invalid response was received from the upstream server"}, 502),
    JSONResponse({"code": 503, "message": "upstream connect error"}, 503),
    HTMLResponse("<html>524: a timeout occurred</html>", 524),
    Response(status_code=504),
]


@pytest.mark.parametrize("answer", LOST, ids=range(len(LOST)))
async def test_a_write_whose_answer_is_lost_on_the_way_may_have_happened(
    project: Project, namespace: str, answer: Response
) -> None:
    assert project.standin
    async with project.opened(namespace) as adapter:
        await adapter.prepare(SPEC)
        project.standin.instead = answer
        with pytest.raises(OutcomeUnknown, match="may have happened"):
            await adapter.write(SPEC, [Write("set", "g", "x", b"{}")])
        assert await adapter.get(SPEC, "g", "x") is not None
        project.standin.instead = answer
        with pytest.raises(BackendUnavailable):
            await adapter.get(SPEC, "g", "x")


async def test_a_write_that_was_never_sent_has_surely_not_happened(project: Project, namespace: str) -> None:
    """All connections are taken by writes to other streams, whose answers do not come."""
    async with Proxy(project.standin.port) as proxy:
        adapter = project.adapter(namespace, project_url=f"http://127.0.0.1:{proxy.port}", realtime=False)
        adapter.database.timeout = 4.0  # below the gateway's patience with a connection; a tenth is for a busy machine
        await adapter.open()
        specs = [StreamSpec(f"s{number}") for number in range(25)]
        for spec in specs:
            await adapter.prepare(spec)
        proxy.mode = "hole"
        writes = (adapter.write(spec, [Write("set", "g", "x", b"{}")]) for spec in specs)
        told = [type(error) for error in await asyncio.gather(*writes, return_exceptions=True)]
        assert Counter(told) == {OutcomeUnknown: 20, BackendUnavailable: 5}  # not necessarily in that order
        await adapter.close()


REFUSED: list[tuple[Response, type[Exception], str]] = [
    (JSONResponse({"message": "Invalid API key"}, 401), BackendError, "401: Invalid API key .take the current service"),
    (JSONResponse({"message": "API rate limit exceeded"}, 429), BackendUnavailable, "429: API rate.*wait a little"),
    (JSONResponse({"message": "no Route matched"}, 404), BackendError, "404: no Route.*the project's API"),
    (Response(status_code=413), BackendError, "413: Request Entity Too Large"),
]


@pytest.mark.parametrize(("answer", "kind", "said"), REFUSED, ids=range(len(REFUSED)))
async def test_what_the_gateway_refuses_is_told_with_the_remedy(
    project: Project, namespace: str, answer: Response, kind: type[Exception], said: str
) -> None:
    async with project.opened(namespace) as adapter:
        project.standin.instead = answer
        with pytest.raises(kind, match=said) as caught:
            await adapter.write(SPEC, [Write("set", "g", "x", b"{}")])
        assert not isinstance(caught.value, OutcomeUnknown)


async def test_a_key_of_the_new_kind_opens_the_api_and_realtime(project: Project, namespace: str) -> None:
    assert project.standin
    async with project.opened(namespace, service_key=NEW_KEY) as adapter:
        await adapter.prepare(SPEC)
        reader = Reader(adapter.watch(SPEC, await adapter.head(SPEC)))

        async def hears() -> bool:
            return adapter._bells.hears

        await eventually(hears, "Realtime to be joined")
        await adapter.write(SPEC, [Write("set", "g", "x", b"{}")])
        await reader.until(lambda batches: any(batch.changes for batch in batches))
        await reader.stop()


async def test_doctor_has_realtime_tell_something(project: Project) -> None:
    async with project.opened() as adapter:
        findings = [finding.message for finding in await adapter.diagnose()]
        assert "Realtime works: news comes in at once" in findings


async def test_who_may_join_may_still_hear_nothing_and_doctor_says_so(project: Project) -> None:
    """Where what Realtime reads cannot be written, say."""
    assert project.standin
    async with project.opened() as adapter:
        adapter.database.timeout = 2.0
        await project.psql.run("ALTER TABLE realtime.messages ADD CONSTRAINT none CHECK (false) NOT VALID")
        try:
            findings = [finding.message for finding in await adapter.database.diagnose()]
        finally:
            await project.psql.run("ALTER TABLE realtime.messages DROP CONSTRAINT none")
        assert findings == ["no news comes through Realtime (nothing was heard): readers look by themselves"]
