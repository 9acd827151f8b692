"""The seam between the SQL objects and a way to the database: what an adapter has to bring."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from motia_adapters.postgresql.failures import Trouble, closed, failure
from motia_adapters.postgresql.places import Place
from motia_core.adapter import Finding, Migration
from motia_core.errors import MotiaError


class News(NamedTuple):
    """A stream has changes; perhaps these."""

    namespace: str
    stream: str
    before: Place | None = None
    """The place that the rows come right after."""
    rows: Sequence[Sequence[Any]] = ()
    """As in `motia.changes`."""


_DOING = {
    "version": "look for our objects",
    "facts": "look at the server",
    "groups": "list groups",
    "head": "read a head",
    "heads": "read heads",
    "changes": "read changes",
    "mapped": "look at a mapped table",
    "unusable": "count rows",
    "settle": "place changes",
    "due": "look for old entries",
    "snapshot": "read a snapshot",
    "begin_history": "begin a history",
    "rows": "read rows",
}


def _doing(function: str) -> str:
    """What a call was for, in an error."""
    plain = function.removeprefix("row_").removesuffix("_one").removesuffix("_rows")
    return _DOING.get(plain, plain)


CONNECTED = 0.9
"""Part of the timeout within which a call must have its connection: until then nothing was sent, which is known so."""
_ASKING = 0.5  # seconds between two questions whether news comes in

Hear = Callable[[News | None], None]
"""Takes ``None`` once news can come in, then the news. It does not wait, and raises nothing."""


class Database(ABC):
    """A way to call the functions of one schema of one database.

    Every function takes named arguments (text, numbers, booleans, ``None``) and returns one
    JSON value, so that any way will do: a driver, or REST.
    """

    name: ClassVar[str]
    """The adapter's name, for messages."""
    schema: str = "motia"
    """The schema of the SQL objects."""
    timeout: float = 5.0
    """Seconds after which a call has failed (F1)."""

    @property
    @abstractmethod
    def address(self) -> str:
        """Where it is, without any secret."""

    @property
    @abstractmethod
    def is_open(self) -> bool:
        """Whether calls may be made."""

    @abstractmethod
    async def open(self) -> None:
        """Connect, or get ready to; driver's errors are translated by the caller."""

    @abstractmethod
    async def close(self) -> None:
        """Free everything; ends `listen`. Calling it twice is fine."""

    @abstractmethod
    async def call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        """Call a function of the schema, once, and return its JSON, decoded. Raises the driver's errors.

        It may be cancelled, and must leave no connection behind that still waits for the answer.
        """

    @abstractmethod
    def map_error(self, error: Exception) -> Trouble:
        """What a driver's error says; for anything that is no driver's error, ``lost``."""

    @abstractmethod
    async def listen(self, hear: Hear) -> None:
        """Have ``hear`` called for as long as news can come in.

        Ends, or raises, when the connection for it is lost; the caller begins again. News may
        be lost: nothing but time depends on it.
        """

    @abstractmethod
    async def migrate(self, wanted: Sequence[Migration]) -> list[str]:
        """Run what is missing (see `migrations.apply`), without being open; the names of what was done.

        Raises the driver's errors, or `UnsupportedCapability` where this way cannot.
        """

    @abstractmethod
    async def diagnose(self) -> list[Finding]:
        """Whether news comes in: what ``doctor`` says about this way to the database."""

    async def silence(self, wanted: Callable[[News | None], bool], ask: Callable[[], Awaitable[None]]) -> str | None:
        """Listen until something comes that is ``wanted``: why it did not, or ``None``. ``ask`` for it as soon as it
        can come, and again: what is asked for before all is ready may be lost."""
        ready, heard = asyncio.Event(), asyncio.Event()

        def hear(news: News | None) -> None:
            ready.set()
            if wanted(news):
                heard.set()

        async def asking() -> None:
            await ready.wait()
            while True:
                await ask()
                await asyncio.sleep(_ASKING)

        waiting = asyncio.create_task(heard.wait())
        listening, asked = asyncio.create_task(self.listen(hear)), asyncio.create_task(asking())
        tasks = (waiting, listening, asked)
        try:
            await asyncio.wait((waiting, listening), timeout=self.timeout, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return None
            for task in (listening, asked):
                if task.done() and (error := task.exception()) is not None:
                    return str(error) or type(error).__name__
            return "the connection was refused" if listening.done() else "nothing was heard"
        finally:
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def rpc(self, function: str, *, writes: bool = False, **arguments: Any) -> Any:
        """Call a function within the timeout. Raises this project's errors; a write that was cut
        off raises `OutcomeUnknown`."""
        if not self.is_open:
            raise closed(self.name, self.address)
        try:
            async with asyncio.timeout(self.timeout):
                return await self.call(function, arguments)
        except MotiaError:
            raise
        except TimeoutError as error:
            late = Trouble("lost", f"no answer within {self.timeout:g} s")
            raise self.failure(late, _doing(function), error, writes=writes) from error
        except Exception as error:
            raise self.failure(self.map_error(error), _doing(function), error, writes=writes) from error

    def failure(self, trouble: Trouble, doing: str, cause: Exception, *, writes: bool = False) -> MotiaError:
        """This project's error for what a driver's error says."""
        return failure(trouble, self.name, self.address, doing, writes=writes, cause=cause)
