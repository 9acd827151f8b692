"""A random walk over all operations, held against a plain dict (Hypothesis, stateful).

A failure prints the steps that led to it, already shrunk; ``MOTIA_TEST_MACHINE=2000``
sets the number of walks, ``MOTIA_TEST_STEPS=50`` their length, and Hypothesis'
``--hypothesis-seed`` replays them.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from motia_core.errors import Conflict, InvalidName, InvalidValue, MotiaError, UpdateError
from motia_core.model import ABSENT, StreamSpec
from motia_core.operations import parse
from motia_core.testing.harness import DEADLINE, Harness, World, read_log
from motia_core.testing.history import check_history
from motia_core.testing.suite import Suite
from motia_core.testing.values import objects, operations

SPEC = StreamSpec("documents")
WALKS = int(os.environ.get("MOTIA_TEST_MACHINE", "200"))
STEPS = int(os.environ.get("MOTIA_TEST_STEPS", "25"))

_groups = st.sampled_from(["g", "h", "g:1", "é"])
_ids = st.sampled_from(["a", "b", "c", "a/b", "\U0001f600"])


class Walk(RuleBasedStateMachine):
    """One walk: a fresh namespace, one stream, a dict that says what must be in it."""

    harness: Harness

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.model: dict[tuple[str, str], dict[str, Any]] = {}
        self.versions: dict[tuple[str, str], str] = {}
        self.changes = 0

    def run(self, work: Any) -> Any:
        """Run one coroutine in time."""
        return self.loop.run_until_complete(asyncio.wait_for(work, DEADLINE))

    @initialize()
    def begin(self) -> None:
        """Open the stream."""
        self.world = World(self.harness)
        self.docs = self.run(self.world.stream())
        self.start = self.run(self.docs.hub.adapter.head(SPEC))

    @rule(group=_groups, id=_ids, value=objects)
    def set(self, group: str, id: str, value: dict[str, Any]) -> None:
        """Create or replace."""
        try:
            result = self.run(self.docs.set(group, id, value))
        except (InvalidValue, InvalidName) as error:
            self._may_refuse(error)
            return
        assert result.type == ("update" if (group, id) in self.model else "create")
        assert result.old_value == self.model.get((group, id))
        self._wrote(group, id, value, result.version)

    @rule(group=_groups, id=_ids, ops=operations)
    def update(self, group: str, id: str, ops: list[Any]) -> None:
        """Apply operations, as the reference does."""
        old = self.model.get((group, id))
        try:
            expected = parse(ops).apply(old or {})
        except UpdateError as error:
            with pytest.raises((UpdateError, InvalidName)) as caught:
                self.run(self.docs.update(group, id, ops))
            if isinstance(caught.value, UpdateError):
                assert (caught.value.index, caught.value.code) == (error.index, error.code)
            else:
                self._may_refuse(caught.value)
            return
        try:
            result = self.run(self.docs.update(group, id, ops))
        except (InvalidValue, InvalidName) as error:
            self._may_refuse(error)
            return
        assert (result.old_value, result.new_value) == (old, expected)
        self._wrote(group, id, expected, result.version)

    @rule(group=_groups, id=_ids)
    def delete(self, group: str, id: str) -> None:
        """Remove, or nothing."""
        try:
            result = self.run(self.docs.delete(group, id))
        except InvalidName as error:
            self._may_refuse(error)
            return
        old = self.model.pop((group, id), None)
        assert (result and result.old_value) == old
        self.changes += result is not None
        self.versions.pop((group, id), None)

    @precondition(lambda self: bool(self.docs.capabilities.conditional_writes))
    @rule(group=_groups, id=_ids, value=objects, right=st.booleans())
    def set_if(self, group: str, id: str, value: dict[str, Any], right: bool) -> None:
        """Write on a condition that holds, or does not."""
        key = (group, id)
        held = self.versions.get(key, ABSENT)
        wrong = "no-such-version" if held == ABSENT else ABSENT
        if right:
            try:
                self._wrote(group, id, value, self.run(self.docs.set(group, id, value, expect=held)).version)
            except (InvalidValue, InvalidName) as error:
                self._may_refuse(error)
        else:
            with pytest.raises((Conflict, InvalidName)) as caught:
                self.run(self.docs.set(group, id, {}, expect=wrong))
            if isinstance(caught.value, InvalidName):
                self._may_refuse(caught.value)

    @precondition(lambda self: bool(self.docs.capabilities.batch))
    @rule(group=_groups, chosen=st.dictionaries(_ids, objects | st.none(), max_size=4), fails=st.booleans())
    def batch(self, group: str, chosen: dict[str, Any], fails: bool) -> None:
        """Several writes in one step, all or nothing."""
        try:
            handles = self.run(self._batch(group, chosen, fails))
        except Conflict:
            assert fails
            return
        except (InvalidValue, InvalidName) as error:
            self._may_refuse(error)
            return
        assert not fails
        for id, value in chosen.items():
            result = handles[id].result
            if value is not None:
                self._wrote(group, id, value, result.version)
            else:
                self.model.pop((group, id), None)
                self.versions.pop((group, id), None)
                self.changes += result is not None

    async def _batch(self, group: str, chosen: dict[str, Any], fails: bool) -> dict[str, Any]:
        async with self.docs.batch() as batch:
            handles = {
                id: batch.delete(group, id) if value is None else batch.set(group, id, value)
                for id, value in chosen.items()
            }
            if fails:
                batch.set(group, "never", {}, expect="no-such-version")
        return handles

    @rule(group=_groups, limit=st.none() | st.integers(1, 4))
    def read(self, group: str, limit: int | None) -> None:
        """Everything that can be read says what the model says."""
        mine = {id: value for (other, id), value in self.model.items() if other == group}
        ids = sorted(mine, key=str.encode)
        assert self.run(self.docs.list(group, limit=limit)) == [mine[id] for id in ids[:limit]]
        for id in ids:
            assert self.run(self.docs.get(group, id)) == mine[id]
            assert self.run(self.docs.version(group, id)) == self.versions[group, id]
        groups = sorted({other for other, _ in self.model}, key=str.encode)
        assert list(self.run(self.docs.list_groups(limit=limit))) == groups[:limit]
        snapshot = self.run(self.docs.hub.adapter.snapshot(SPEC, group, None, limit=None))
        assert {item.id: item.value for item in snapshot.items} == mine

    def teardown(self) -> None:
        """The log tells the same story; nothing is left behind."""
        try:
            log = self.run(read_log(self.docs.hub.adapter, SPEC, self.start))
            every = self.docs.capabilities.history.level == "full" and bool(self.docs.capabilities.equal_writes)
            verdict = check_history(log, self.model, written=self.changes if every else None, coalesced=not every)
            assert verdict, verdict
            assert len(log) <= self.changes
        finally:
            self.run(self.world.end())
            self.loop.close()

    def _may_refuse(self, error: MotiaError) -> None:
        """Only a mapping has values and ids that it cannot hold; nothing was written then."""
        declared = self.docs.capabilities
        support = declared.exact_values if isinstance(error, InvalidValue) else declared.any_ids
        assert support.level == "limited", error

    def _wrote(self, group: str, id: str, value: dict[str, Any], version: str) -> None:
        self.model[group, id] = value
        self.versions[group, id] = version
        self.changes += 1


async def walk_about(harness: Harness, *, walks: int = WALKS, steps: int = STEPS, replay: int | None = None) -> None:
    """Walk ``walks`` times, ``steps`` steps at most; ``replay`` is Hypothesis' seed."""
    walk = type("Walk", (Walk,), {"harness": harness})
    if replay is not None:
        walk = seed(replay)(walk)
    chosen = settings(
        max_examples=walks,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        print_blob=True,
    )
    await asyncio.get_running_loop().run_in_executor(None, lambda: run_state_machine_as_test(walk, settings=chosen))


class Machine(Suite):
    """All operations in any order (RELIABILITY 21)."""

    deadlines = 20  # thousands of operations; each has one of its own

    async def test_A3_any_sequence_of_operations_does_what_a_dict_does(self, harness: Harness) -> None:
        await walk_about(harness)
