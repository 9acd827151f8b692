"""``get``, ``set``, ``list``, ``groups`` and ``tail``: JSON on standard output, words on standard error."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from motia_core import memory
from motia_core.adapter import StorageSettings
from motia_core.cli import data
from motia_core.errors import BackendUnavailable, PositionExpired
from motia_core.memory import MEMORY, MemoryAdapter
from motia_core.model import Batch, Change, StreamSpec, Write

Cli = Callable[..., Any]
Start = Callable[..., Any]


def printed(done: Any) -> list[Any]:
    """The lines of JSON that a command printed; it must have gone well and said nothing else."""
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def refused(done: Any, code: int = 1) -> str:
    """What a command that failed said."""
    assert (done.returncode, done.stdout) == (code, ""), done
    assert "Traceback" not in done.stderr
    return str(done.stderr).strip()


def test_what_is_set_can_be_read(cli: Cli) -> None:
    (first,) = printed(cli("set", "documents", "g", "a", '{"title": "né"}'))
    assert (first["type"], first["oldValue"], first["newValue"]) == ("create", None, {"title": "né"})
    (second,) = printed(cli("set", "documents", "g", "a", "-", "--expect", first["version"], stdin='{"title": 2}'))
    assert (second["type"], second["oldValue"]) == ("update", {"title": "né"})
    assert second["position"] > first["position"]
    assert printed(cli("get", "documents", "g", "a")) == [{"title": 2}]
    assert printed(cli("list", "documents", "g")) == [{"id": "a", "version": second["version"], "data": {"title": 2}}]
    assert printed(cli("groups", "documents")) == ["g"]


def test_lists_come_whole_or_from_a_place_on(cli: Cli) -> None:
    for id in "abc":
        printed(cli("set", "documents", f"group-{id}", id, "{}"))
        printed(cli("set", "documents", "g", id, "{}"))
    assert [item["id"] for item in printed(cli("list", "documents", "g"))] == ["a", "b", "c"]
    assert [item["id"] for item in printed(cli("list", "documents", "g", "--after", "a", "--limit", "1"))] == ["b"]
    assert printed(cli("groups", "documents", "--limit", "2")) == ["g", "group-a"]
    assert printed(cli("list", "documents", "nobody")) == []


def test_a_project_elsewhere(cli: Cli, project: Path, tmp_path: Path) -> None:
    printed(cli("set", "documents", "g", "a", "{}"))
    assert printed(cli("get", "documents", "g", "a", "--project", str(project))) == [{}]
    assert printed(cli("get", "documents", "g", "a", MOTIA_PROJECT=str(project))) == [{}]
    assert refused(cli("get", "documents", "g", "a", "-p", str(tmp_path))) == (
        f"error: {tmp_path}: is no project: it has neither a folder 'motia' nor a file 'motia.toml'"
    )


def test_what_is_not_there(cli: Cli) -> None:
    assert refused(cli("get", "documents", "g", "a")) == "error: stream 'documents' has no item 'a' in group 'g'"
    assert refused(cli("get", "docs", "g", "a")) == (
        "error: the project has no stream 'docs'; its streams: documents, notes"
    )


def test_errors_are_one_line_without_a_traceback(cli: Cli) -> None:
    printed(cli("set", "documents", "g", "a", "{}"))
    message = refused(cli("set", "documents", "g", "a", "{}", "--expect", "absent"))
    assert message == "error: item 'a' of group 'g' exists already"
    assert refused(cli("set", "documents", "g", "a", "[1]")).startswith("error: $: ")
    assert refused(cli("get", "documents", "", "a")) == "error: group id must not be empty"
    assert refused(cli("list", "documents", "")) == "error: group id must not be empty"


def test_a_wrong_command_line_is_an_error_of_its_own(cli: Cli) -> None:
    assert "Invalid value for VALUE" in refused(cli("set", "documents", "g", "a", "{nonsense"), code=2)
    assert "needs a GROUP" in refused(cli("tail", "documents", "--id", "x"), code=2)
    assert "No such command 'gets'" in refused(cli("gets"), code=2)


def test_a_broken_project_is_told_by_file_and_line(cli: Cli, project: Path) -> None:
    (project / "motia/streams/documents_stream.py").write_text("\nimport nowhere\n")
    message = "motia/streams/documents_stream.py, line 2: ModuleNotFoundError: No module named 'nowhere'"
    assert refused(cli("get", "documents", "g", "a")) == f"error: {message}"
    done = cli("get", "documents", "g", "a", MOTIA_TRACEBACK="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_what_lives_in_another_process_cannot_be_seen_from_here(cli: Cli) -> None:
    for command in (["get", "notes", "g", "a"], ["set", "notes", "g", "a", "{}"], ["tail", "notes"]):
        assert refused(cli(*command)).startswith(
            "error: stream 'notes' lives in storage 'inside', where only the server's process can see it:"
        )


# -- tail


def test_tail_prints_changes_of_other_processes_as_they_happen(cli: Cli, start: Start) -> None:
    everything = start("tail", "documents")
    group = start("tail", "documents", "g")
    item = start("tail", "documents", "g", "--id", "b")
    for each in (everything, group, item):
        each.wait_for(r"^watching documents on ")
    printed(cli("set", "documents", "g", "a", '{"n": 1}'))
    printed(cli("set", "documents", "other", "a", '{"n": 2}'))
    printed(cli("set", "documents", "g", "b", '{"n": 3}'))
    seen = [json.loads(line) for line in everything.lines(3)]
    assert [(change["groupId"], change["id"], change["data"]) for change in seen] == [
        ("g", "a", {"n": 1}),
        ("other", "a", {"n": 2}),
        ("g", "b", {"n": 3}),
    ]
    assert {change["type"] for change in seen} == {"create"}
    assert [json.loads(line) for line in group.lines(2)] == [seen[0], seen[2]]
    assert [json.loads(line) for line in item.lines(1)] == [seen[2]]
    later = start("tail", "documents", "--after", seen[0]["position"])
    assert [json.loads(line) for line in later.lines(2)] == seen[1:]
    assert later.end(2) == 130
    assert "Traceback" not in "".join(later.err)


def test_tail_ends_quietly_when_its_reader_goes(cli: Cli, start: Start) -> None:
    reader, writer = os.pipe()
    running = start("tail", "documents", stdout=writer)
    os.close(writer)
    running.wait_for("^watching")
    os.close(reader)
    printed(cli("set", "documents", "g", "a", "{}"))
    running.wait_to_end()
    assert [line for line in running.err if not line.startswith("watching")] == []


class Failing(MemoryAdapter):
    """Fails as it is told before it watches."""

    def __init__(self, failures: Sequence[Exception]) -> None:
        super().__init__(StorageSettings("live"))
        self.failures = list(failures)

    async def watch(self, stream: StreamSpec, after: str) -> AsyncGenerator[Batch, None]:
        """Raise the next failure; once there is none, watch. One batch, then the connection is lost."""
        if self.failures:
            raise self.failures.pop(0)
        async for batch in super().watch(stream, after):
            yield batch
            if batch.changes:
                raise BackendUnavailable("memory: gone again")


async def test_tail_survives_outages_and_goes_on_where_it_stopped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(data, "RETRY_FIRST", 0.001)
    monkeypatch.setattr(memory, "PAGE", 1)  # each batch holds one change, then the connection is lost
    spec = StreamSpec("documents")
    adapter = Failing([BackendUnavailable("memory: down"), PositionExpired("history is gone")])
    await adapter.open()
    await adapter.prepare(spec)
    try:
        start = await adapter.head(spec)
        for id in "abc":
            await adapter.write(spec, [Write("set", "g", id, b"{}")])
        it = data.Opened(None, adapter, spec)  # type: ignore[arg-type]
        seen: list[Change] = []
        stream = data.changes(it, start)
        async for change in stream:
            seen.append(change)
            if len(seen) == 3:
                break
        await stream.aclose()  # type: ignore[attr-defined]
    finally:
        await adapter.close()
    assert [change.id for change in seen] == ["a", "b", "c"]
    assert capsys.readouterr().err.splitlines()[:2] == [
        "warning: memory: down; trying again",
        "warning: changes are missing here: history is gone",
    ]


async def test_pages_follow_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "PAGE", 3)
    asked: list[tuple[str | None, int]] = []

    async def fetch(after: str | None, limit: int) -> list[str]:
        asked.append((after, limit))
        return list(islice((letter for letter in "abcdefg" if after is None or letter > after), limit))

    assert [entry async for entry in data.paged(fetch, str, None, None)] == list("abcdefg")
    assert asked == [(None, 3), ("c", 3), ("f", 3)]
    assert [entry async for entry in data.paged(fetch, str, "b", 4)] == list("cdef")


def test_memory_is_the_adapter_that_processes_do_not_share() -> None:
    assert not MEMORY.modes["managed"].multi_process
