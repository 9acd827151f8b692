"""A step that cannot work is refused at start, and the message names it and its file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from motia_core import ConfigError, Motia, queue, step, stream
from motia_core.steps import Step

CONFIG: dict[str, Any] = {"name": "index", "triggers": [stream("documents")]}


async def handler(input: Any, ctx: Any) -> None: ...


async def takes_one(input: Any) -> None: ...


async def takes_more(input: Any, ctx: Any, other: Any) -> None: ...


async def takes_what_it_needs(input: Any, *rest: Any, more: int = 1) -> None: ...


def yields(input: Any, ctx: Any) -> Iterator[int]:
    yield 1


async def yields_too(input: Any, ctx: Any) -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (takes_one, r"step 'index' \(.*test_step_mistakes.py:\d+\): its handler must take \(input, ctx\), not \(input"),
        (takes_more, r"its handler must take \(input, ctx\), not \(input.*other"),
        (yields, r"step 'index' \(.*test_step_mistakes.py:\d+\): the handler must not 'yield'"),
        (yields_too, r"the handler must not 'yield'"),
        (7, "step 'index': the handler must be a function"),
    ],
)
def test_a_handler_that_cannot_be_called_is_refused(wrong: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        step(CONFIG, wrong)


def test_a_handler_may_be_anything_that_takes_both() -> None:
    for fine in (takes_what_it_needs, lambda *given: None, print, Step.handle):
        assert step(CONFIG, fine).handler is fine


def test_a_condition_that_cannot_be_called_is_refused() -> None:
    wrong: Any = takes_one
    with pytest.raises(ConfigError, match=r"test_step_mistakes.py:\d+\): its condition must take"):
        step({"name": "x", "triggers": [queue("mail", condition=wrong)]}, handler)


def test_what_is_no_declaration_is_refused() -> None:
    wrong: Any = "index"
    with pytest.raises(ConfigError, match=r"step\(\) takes a dict.*not str"):
        step(wrong, handler)


def test_a_queues_bad_schema_names_the_step() -> None:
    declared = step({"name": "mailer", "triggers": [queue("mail", input={"type": "nonsense"})]}, handler)
    with pytest.raises(ConfigError, match=r"step 'mailer' \(.*:\d+\): queue\('mail'\): not a valid JSON Schema"):
        Motia(steps=[declared])


def test_a_former_name_that_somebody_has_is_refused() -> None:
    """It would take the other's place away."""
    steps = [step({"name": "new", "previous": "old", "triggers": []}, handler), step({"name": "old"}, handler)]
    with pytest.raises(ConfigError, match=r"step 'new' .*'previous' name 'old' is that of step 'old'"):
        Motia(steps=steps)
