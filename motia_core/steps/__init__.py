"""Steps: handlers and the triggers that run them."""

from motia_core.steps.context import Context, Streams, TriggerInfo, UnknownStream
from motia_core.steps.definitions import (
    CronTrigger,
    HttpTrigger,
    QueueTrigger,
    StateTrigger,
    Step,
    StreamTrigger,
    Trigger,
    cron,
    http,
    queue,
    state,
    step,
    stream,
)
from motia_core.steps.inputs import Input

__all__ = [
    "Context",
    "CronTrigger",
    "HttpTrigger",
    "Input",
    "QueueTrigger",
    "StateTrigger",
    "Step",
    "StreamTrigger",
    "Streams",
    "Trigger",
    "TriggerInfo",
    "UnknownStream",
    "cron",
    "http",
    "queue",
    "state",
    "step",
    "stream",
]
