"""Plain functions as handlers: each run has a thread of its own, so that a hanging one holds nobody up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Any


async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call it in a thread, and return or raise what it does.

    No thread can be cancelled: who cancels this waits for the function's end all the
    same, and gets its outcome; who cancels it twice waits no longer. A function that
    hangs keeps no process from ending.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[Any] = loop.create_future()
    context = copy_context()

    def settle(result: Any, error: BaseException | None) -> None:
        if error is None:
            outcome.set_result(result)
        else:
            outcome.set_exception(error)

    def call() -> None:
        result: Any = None
        error: BaseException | None = None
        try:
            result = context.run(function, *arguments)
        except StopIteration as stopped:  # a future cannot carry it
            error = RuntimeError(f"the function raised {stopped!r}")
        except BaseException as caught:
            error = caught
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    name = f"motia-{getattr(function, '__name__', 'handler')}"
    threading.Thread(target=call, name=name, daemon=True).start()
    try:
        return await asyncio.shield(outcome)
    except asyncio.CancelledError:
        await asyncio.wait([outcome])
        return outcome.result()
