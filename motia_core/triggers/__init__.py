"""Durable triggers: handlers that run for each change of a stream, whatever process dies (SEMANTICS D1-D7).

`Runner` runs `Trigger`\\ s on one storage. It needs nothing of it but the adapter's
contract. The rules that the modules here name are those of the page on triggers.
"""

from motia_core.triggers.clock import Clock, SystemClock
from motia_core.triggers.cron import CRON, cron_trigger
from motia_core.triggers.deadletters import DeadLetter, DeadLetters, Gap
from motia_core.triggers.definition import (
    LAG_COUNTED,
    OrderKey,
    PartitionStatus,
    Report,
    RunInfo,
    Trigger,
    TriggerStatus,
    described,
    item_key,
)
from motia_core.triggers.queues import QUEUE, Queue, queue_trigger
from motia_core.triggers.runner import Runner
from motia_core.triggers.turn import Turn

__all__ = [
    "CRON",
    "LAG_COUNTED",
    "QUEUE",
    "Clock",
    "DeadLetter",
    "DeadLetters",
    "Gap",
    "OrderKey",
    "PartitionStatus",
    "Queue",
    "Report",
    "RunInfo",
    "Runner",
    "SystemClock",
    "Trigger",
    "TriggerStatus",
    "Turn",
    "cron_trigger",
    "described",
    "item_key",
    "queue_trigger",
]
