"""What commands print: data on standard output, words on standard error."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, TypeVar

import orjson
import typer

T = TypeVar("T")

AsJson = Annotated[bool, typer.Option("--json", help="One line of JSON each, for programs.")]
"""The option of commands that print for people, or for programs."""


def line(value: Any) -> None:
    """Print a value as one line of JSON, at once."""
    raw(orjson.dumps(value))


def raw(encoded: bytes) -> None:
    """Print JSON that is encoded already, as one line, at once."""
    sys.stdout.write(encoded.decode() + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """Tell a person something."""
    typer.echo(text, err=True)


def fail(text: str) -> typer.Exit:
    """Say what went wrong; raise the result."""
    say(f"error: {text}")
    return typer.Exit(1)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine, on uvloop where there is one. Ctrl-C ends it with exit code 130."""
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(128 + signal.SIGINT) from None


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        from uvloop import new_event_loop
    except ImportError:
        return asyncio.new_event_loop
    return new_event_loop
