"""The emulator fails commits that it has applied when a listener of somebody else has just died: they were done."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_asyncio
from motia_adapters.firestore.options import MappedOptions

from motia_core.errors import OutcomeUnknown
from motia_core.streams import Stream
from motia_core.testing.harness import read_log
from tests.adapters.firestore.conftest import DOCS, Lab


async def nothing() -> None:
    """What happens in between, mostly."""


@pytest_asyncio.fixture(params=[False, True], ids=["managed", "mapped"], loop_scope="session")
async def options(request: pytest.FixtureRequest, lab: Lab) -> dict[str, Any]:
    return {"mapped": MappedOptions(path=f"{lab.namespace}/{{group}}/documents/{{id}}")} if request.param else {}


@pytest_asyncio.fixture(loop_scope="session")
async def docs(lab: Lab, options: dict[str, Any]) -> Stream[dict[str, Any]]:
    return await lab.stream(**options)


async def test_a_write_that_was_applied_has_its_result(lab: Lab, docs: Stream[dict[str, Any]]) -> None:
    head = await docs.hub.adapter.head(DOCS)
    for number in range(3):
        lab.gateway.after = nothing
        result = await docs.set("g", "x", {"n": number})
        assert lab.gateway.after is None
        assert (result.type, result.old_value) == (("update", {"n": number - 1}) if number else ("create", None))
        assert result.version == await docs.version("g", "x")
    await docs.set("g", "x", {"n": 3}, expect=result.version)
    log = await read_log(docs.hub.adapter, DOCS, head)
    assert log[-1].data == {"n": 3}
    assert result.position < log[-1].position


async def test_one_whose_documents_do_not_tell_it_may_have_happened(
    lab: Lab, docs: Stream[dict[str, Any]], options: dict[str, Any]
) -> None:
    other = await lab.stream(**options)

    async def overwritten() -> None:
        await other.set("g", "x", {"n": "another's"})

    lab.gateway.after = overwritten
    with pytest.raises(OutcomeUnknown, match="call already cancelled"):
        await docs.set("g", "x", {"n": 1})
    assert await docs.get("g", "x") == {"n": "another's"}


async def test_a_delete_is_known_by_the_log_alone(
    lab: Lab, docs: Stream[dict[str, Any]], options: dict[str, Any]
) -> None:
    await docs.set("g", "x", {"n": 1})
    lab.gateway.after = nothing
    if not options:
        deleted = await docs.delete("g", "x")
        assert deleted is not None
        assert deleted.old_value == {"n": 1}
    else:
        with pytest.raises(OutcomeUnknown):
            await docs.delete("g", "x")
    assert await docs.get("g", "x") is None
