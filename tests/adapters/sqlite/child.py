"""Another process: ``child.py FILE WHAT [COUNT]``. Prints one line for each thing that is done."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sys
from itertools import count

from motia_adapters.sqlite.adapter import SqliteAdapter
from motia_adapters.sqlite.options import SqliteOptions

from motia_core.adapter import StorageSettings
from motia_core.errors import BackendError
from motia_core.model import StreamSpec, Write
from motia_core.operations import parse
from motia_core.values import encode, encode_object

DOCS = StreamSpec("docs")


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def storm(adapter: SqliteAdapter) -> None:
    """Write for ever with many tasks; tell what was acknowledged."""

    async def task(number: int) -> None:
        for n in count():
            value = encode_object({"n": n, "filler": "x" * 500})
            (result,) = await adapter.write(DOCS, [Write("set", f"g{number}", f"i{n % 5}", value)])
            assert result is not None
            say(f"g{number}", f"i{n % 5}", n, result.position)

    await asyncio.gather(*map(task, range(20)))


async def numbers(adapter: SqliteAdapter, amount: int) -> None:
    """Write so many items, each when the one before is done, and tell the order that was seen."""
    start = await adapter.head(DOCS)
    say("ready", start)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    for n in range(amount):
        await adapter.write(DOCS, [Write("set", "child", str(n), b"{}")])
    say("done")
    seen: list[str] = []
    async with contextlib.aclosing(adapter.watch(DOCS, start)) as watch:
        async for batch in watch:
            seen += [change.position for change in batch.changes]
            if len(seen) >= 2 * amount:
                break
    for position in seen:
        say(position)


async def increments(adapter: SqliteAdapter, amount: int) -> None:
    """Count one item up, with several tasks at once."""
    operations = parse([{"type": "increment", "path": "n", "by": 1}])
    for _ in range(amount // 10):
        await asyncio.gather(
            *(
                adapter.write(DOCS, [Write("update", "g", "counter", operations=operations, finish=encode)])
                for _ in range(10)
            )
        )
    say("done")


async def full(adapter: SqliteAdapter) -> None:
    """Run into a limit of the file's size, then go on when it is gone."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * 2**20, resource.RLIM_INFINITY))
    filler = encode_object({"filler": "x" * 100_000})
    for n in range(100):
        try:
            await adapter.write(DOCS, [Write("set", "g", f"i{n:03}", filler)])
            say("written", f"i{n:03}")
        except BackendError as error:
            say("refused", f"i{n:03}", type(error).__name__, error)
            break
    say("read", len(await adapter.list(DOCS, "g", after=None, limit=None)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await adapter.write(DOCS, [Write("set", "g", "last", filler)])
    say("written", "last")


async def main() -> None:
    path, what, *amount = sys.argv[1:]
    adapter = SqliteAdapter(StorageSettings("default", timeout=30), SqliteOptions(path=path))
    await adapter.open()
    if what in ("forget", "abandon"):
        await adapter.write(DOCS, [Write("set", "g", "i", b"{}")])
        return
    try:
        await globals()[what](adapter, *map(int, amount))
    finally:
        await adapter.close()


if sys.argv[2] == "abandon":  # the loop is not even closed
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
else:
    asyncio.run(main())
