"""Commands that look at a project: ``plugins`` and ``doctor``."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import typer

from motia_core.adapter import Adapter, Finding
from motia_core.app import Motia
from motia_core.cli.data import Project
from motia_core.cli.output import AsJson, line, run
from motia_core.config import Settings, StorageEntry
from motia_core.discovery import find
from motia_core.errors import MotiaError
from motia_core.masking import mask_urls
from motia_core.model import StreamSpec
from motia_core.plugins import Plugins
from motia_core.states import STATE
from motia_core.steps import HttpTrigger
from motia_core.triggers import LAG_COUNTED, TriggerStatus

LOCAL = ("memory", "sqlite")
"""Adapters whose store is one machine's."""


@dataclass(frozen=True)
class Report:
    """A finding, and what it is about."""

    about: str
    level: Literal["ok", "warning", "error"]
    message: str
    remedy: str = ""


def plugins(json: AsJson = False) -> None:
    """List the plugins: where they come from, what they bring, and why one is left out."""
    for record in Plugins.load().records:
        if json:
            line(asdict(record))
            continue
        brings = [*(f"adapter {name}" for name in record.adapters), *record.hooks]
        source = f"{record.name} ({record.distribution} {record.version})"
        typer.echo(f"{record.status:8} {source}: {', '.join(brings) or '-'}")
        if record.reason:
            typer.echo(f"{'':8} {record.reason}")


def doctor(json: AsJson = False, project: Project = Path()) -> None:
    """Check the project and each of its storages; exit code 1 if something is wrong."""

    async def work() -> bool:
        well = True
        async for report in examine(project):
            well = well and report.level != "error"
            if json:
                line(asdict(report))
            else:
                remedy = f"\n{'':8} {report.remedy}" if report.remedy else ""
                typer.echo(f"{report.level:8} {report.about}: {report.message}{remedy}")
            sys.stdout.flush()
        return well

    if not run(work()):
        raise typer.Exit(1)


async def examine(project: Path) -> AsyncIterator[Report]:
    """Everything there is to say about a project; never raises `MotiaError`."""
    loaded = Plugins.load()
    for record in loaded.records:
        if record.status == "failed" or (record.status == "loaded" and record.reason):
            yield Report(str(record), "warning", record.reason)
    try:
        found = find(project)
        settings = Settings.load(project, plugins=loaded)
        used = {stream.storage_type: settings.storage_for(stream.name, stream.storage_type) for stream in found.streams}
    except MotiaError as error:
        yield Report("project", "error", mask_urls(str(error)))
        return
    yield Report("project", "ok", f"{len(found.streams)} streams, {len(found.steps)} steps")
    for room in ("state", "queue", "cron"):
        for report in _room(settings, room, used):
            yield report
    well = True
    for name, entry in settings.storage.items():
        if name == "default" and name not in used and not any(_lives_in(settings, name)):
            continue  # nobody asked for the built-in one
        async for report in _storage(name, entry):
            well = well and report.level != "error"
            yield report
    if well and any(not isinstance(trigger, HttpTrigger) for step in found.steps for trigger in step.triggers):
        async for report in _triggers(project):
            yield report


def _lives_in(settings: Settings, storage_type: str) -> list[str]:
    return [room for room in ("state", "queue", "cron") if getattr(settings, room).storage == storage_type]


def _room(settings: Settings, room: str, used: dict[str, StorageEntry]) -> list[Report]:
    try:
        home = settings.room(room)
    except MotiaError as error:
        return [Report(f"[{room}]", "error", str(error))]
    networked = sorted(name for name, entry in used.items() if entry.plugin.name not in LOCAL)
    if not networked or home.plugin.name not in LOCAL:
        return []
    return [
        Report(
            f"[{room}]",
            "warning",
            f"lives in storage {home.settings.name!r} ({home.plugin.name}), on this machine alone, while streams are in"
            f" {', '.join(networked)}: every machine has its own {room}",
            f'put it beside them: [{room}] storage = "{networked[0]}"',
        )
    ]


async def _storage(name: str, entry: StorageEntry) -> AsyncIterator[Report]:
    about = f"storage {name!r}"
    try:
        adapter = entry.build()
    except MotiaError as error:
        yield Report(about, "error", _about(about, error))
        return
    try:
        await adapter.open()
        findings = list(await adapter.diagnose()) or [Finding("ok", "reachable")]
        for finding in findings:
            yield Report(
                about, finding.level, f"{entry.plugin.name} at {adapter.address}: {finding.message}", finding.remedy
            )
    except MotiaError as error:
        yield Report(about, "error", _about(about, error))
    finally:
        await adapter.close()


async def _triggers(project: Path) -> AsyncIterator[Report]:
    """Which triggers are about to lose changes to retention, or have (D6), and which nobody runs."""
    try:
        async with Motia.from_project(project, run_triggers=False) as motia:
            for storage, runner in motia.durable_steps.inspect(motia.storages).items():
                retention = motia.settings.storage[storage].settings.retention
                keeps = retention.count
                most = LAG_COUNTED if keeps is None else keeps // 2
                for status in await runner.status(counted=max(1, most)):
                    if status.declared:
                        reach = await _reach(motia.storages[storage], status, retention.age)
                        for finding in _lag(status, keeps, reach):
                            about = f"trigger {status.name!r}"
                            yield Report(about, finding.level, finding.message, finding.remedy)
    except MotiaError as error:
        yield Report("triggers", "error", mask_urls(str(error)))


async def _reach(adapter: Adapter, status: TriggerStatus, age: float | None) -> float | None:
    """Seconds after which a change that the trigger waits for may go."""
    if not _reads_log(status) or not status.behind:
        return None
    name = status.key[1] if status.key[1] == "state" else status.key[2]
    spec = STATE if status.key[1] == "state" else StreamSpec(name)
    found = [seconds for seconds in (age, await adapter.history_reach(spec)) if seconds is not None]
    return min(found, default=None)


def _reads_log(status: TriggerStatus) -> bool:
    return status.key[1] in ("stream", "state")  # a queue's truth is its items, whatever the log keeps


def _lag(status: TriggerStatus, keeps: int | None, reach: float | None) -> list[Finding]:
    remedy = "run more workers, or keep more: retention = { count = ... } in its storage's section"
    if status.behind is None:
        gone = "changes are gone that it has not read: it will report the gap"
        return [Finding("error", gone, remedy)]
    findings = []
    if _reads_log(status) and keeps is not None and status.behind >= max(1, keeps // 2):
        waits = f"{status.behind} changes or more wait for it, and only {keeps} are kept"
        findings.append(Finding("warning", waits, remedy))
    if reach is not None and status.since is not None and (waits_for := time.time() - status.since / 1000) > reach / 2:
        said = f"the oldest change that waits for it is {waits_for / 3600:.1f} h old, and history reaches"
        findings.append(Finding("warning", f"{said} {reach / 3600:.1f} h back", remedy))
    if status.behind and not status.workers:
        findings.append(
            Finding("warning", f"{status.behind} changes wait, and no process runs it", "motia-core worker")
        )
    return findings or [Finding("ok", f"{status.behind} changes wait, {len(status.workers)} processes run it")]


def _about(about: str, error: MotiaError) -> str:
    """What an error says, without what stands before it anyway."""
    return mask_urls(str(error)).removeprefix(f"{about}: ")
