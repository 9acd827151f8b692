"""All durable triggers of a project, by the storage they run on."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping

from motia_core.adapter import Adapter
from motia_core.errors import ConfigError
from motia_core.plugin_checks import suggestion
from motia_core.plugins import Plugins
from motia_core.states import STATE
from motia_core.steps.definitions import CronTrigger, QueueTrigger, StateTrigger, Step, StreamTrigger
from motia_core.steps.definitions import Trigger as AnyTrigger
from motia_core.steps.durable import MakeContext, change_trigger, message_trigger, tick_trigger
from motia_core.triggers import CRON, QUEUE, Report, Runner, Trigger, Turn


class DurableSteps:
    """What runs without being asked over HTTP. Raises `ConfigError` for a step that cannot run.

    ``homes``: the storage type of each stream, and of ``$state``, ``$queue`` and ``$cron``.
    """

    def __init__(
        self,
        steps: Iterable[Step],
        homes: Mapping[str, str],
        make_context: MakeContext,
        plugins: Plugins,
    ) -> None:
        self.triggers: dict[str, list[Trigger]] = {}
        """By storage type."""
        self.runners: dict[str, Runner] = {}
        """While they run, by storage type."""
        self.reports: list[Report] = []
        """What the runners had to say, the latest hundred."""
        for step in steps:
            numbers: Counter[tuple[str, str]] = Counter()
            for index, trigger in enumerate(step.triggers):
                source = _source(trigger)
                if source is None:
                    continue
                if source not in homes:
                    known = suggestion(source, [name for name in homes if not name.startswith("$")])
                    raise ConfigError(f"{step.where}: there is no stream {source!r}{known}")
                same = (source, _detail(trigger))
                number = numbers[same]
                numbers[same] += 1
                if isinstance(trigger, QueueTrigger):
                    made = message_trigger(step, index, number, trigger, make_context)
                elif isinstance(trigger, CronTrigger):
                    made = tick_trigger(step, index, number, trigger, make_context)
                else:
                    assert isinstance(trigger, (StreamTrigger, StateTrigger))
                    made = change_trigger(step, index, number, trigger, make_context, plugins)
                self.triggers.setdefault(homes[source], []).append(made)

    async def start(self, storages: Mapping[str, Adapter]) -> None:
        """Begin: when it returns, triggers that were never there before miss nothing from now on."""
        turn = Turn()
        for storage_type, triggers in self.triggers.items():
            runner = Runner(storages[storage_type], triggers, report=self._keep, turn=turn)
            self.runners[storage_type] = runner
            await runner.start()

    def inspect(self, storages: Mapping[str, Adapter]) -> dict[str, Runner]:
        """Runners that do not run, for whoever only wants to look or to mend; of every open storage."""
        return {name: Runner(adapter, self.triggers.get(name, ())) for name, adapter in storages.items()}

    async def stop(self) -> None:
        """Let handlers end (ten seconds, at most), and give their work back."""
        runners, self.runners = list(self.runners.values()), {}
        await asyncio.gather(*(runner.stop() for runner in runners))

    def _keep(self, report: Report) -> None:
        self.reports.append(report)
        del self.reports[:-100]


def _source(trigger: AnyTrigger) -> str | None:
    """The stream that a trigger follows; ``None``: it answers requests."""
    if isinstance(trigger, StreamTrigger):
        return trigger.stream
    if isinstance(trigger, StateTrigger):
        return STATE.name
    if isinstance(trigger, QueueTrigger):
        return QUEUE.name
    if isinstance(trigger, CronTrigger):
        return CRON.name
    return None


def _detail(trigger: AnyTrigger) -> str:
    """What tells triggers on one stream apart, beside their number."""
    if isinstance(trigger, QueueTrigger):
        return trigger.topic
    return trigger.expression if isinstance(trigger, CronTrigger) else ""
