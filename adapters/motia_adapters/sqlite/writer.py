"""The writer thread: one connection, and group commit for whoever waits."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from motia_adapters.sqlite.database import Database, begin
from motia_adapters.sqlite.failures import explain, is_busy, primary_code, remedy
from motia_adapters.sqlite.history import History
from motia_adapters.sqlite.mapped.reads import Rows
from motia_adapters.sqlite.mapped.writes import TableWrites, Undone, is_refusal, refusal
from motia_adapters.sqlite.transaction import LogRow, Streams, Transaction, Unit
from motia_adapters.sqlite.upkeep import PORTION, Trimmer, Upkeep
from motia_core.adapter import StorageSettings
from motia_core.errors import BackendError, ConfigError, MotiaError, OutcomeUnknown

MAX_UNITS = 256
"""Calls that share one transaction, at most."""
MAX_BYTES = 16 * 2**20
"""Bytes of new values after which a transaction takes no more calls."""
_IDLE = 1.0  # seconds between two looks whether the program has ended without closing us

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Commit:
    """What one transaction changed: the log between two positions, in order."""

    before: str
    after: str
    epoch: str
    log: Sequence[LogRow]


Settle = Callable[[Sequence[Unit], "Commit | None"], None]
"""Called on the loop when units are done (their results or errors are in them)."""


class Writer(threading.Thread):
    """Opens the database, writes to it, and closes it.

    ``opened`` is called on the loop with ``None`` or the error, ``settle`` after each
    transaction, ``ended`` last of all.
    """

    def __init__(
        self,
        database: Database,
        settings: StorageSettings,
        loop: AbstractEventLoop,
        *,
        opened: Callable[[MotiaError | None], None],
        settle: Settle,
        ended: Callable[[], None],
    ) -> None:
        super().__init__(name=f"motia-sqlite-writer-{settings.name}", daemon=False)
        self._database = database
        self._loop = loop
        self._opened = opened
        self._settle = settle
        self._ended = ended
        self._queue: SimpleQueue[Unit | threading.Event | None] = SimpleQueue()
        self._stopping = False
        self._streams = Streams(settings.namespace)
        self._history = History()
        self._trimmer = Trimmer(settings.retention, settings.namespace)
        self._upkeep = Upkeep(database, settings.namespace, self._trimmer, self._expire)
        self.put = self._queue.put
        """Queue a unit; or an event, set as soon as the right file is open; or ``None``: stop when all is done."""

    def run(self) -> None:
        """The thread's life."""
        try:
            self._database.open()
        except (BackendError, ConfigError) as error:
            self._post(self._opened, error)
            self._post(self._ended)
            return
        self._post(self._opened, None)
        backlog: list[Unit] = []
        while not self._stopping or backlog:
            backlog = self._gather(backlog)
            if backlog:
                backlog = self._write(backlog)
            if self._upkeep.wait() <= 0 and not self._stopping:
                self._maintain()
        self._database.close()
        self._post(self._ended)

    def _post(self, callback: Callable[..., None], *arguments: object) -> None:
        """Call back on the loop, unless the program has closed it."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *arguments)

    def _gather(self, units: list[Unit]) -> list[Unit]:
        """Take what waits, after ``units`` that had to wait; if nothing does, wait for it a while."""
        queue = self._queue
        size = 0
        try:
            item = queue.get_nowait() if units else queue.get(timeout=min(self._upkeep.wait(), _IDLE))
            while True:
                if item is None:
                    self._stopping = True
                elif isinstance(item, Unit):
                    units.append(item)
                    for write in item.writes:
                        size += len(write.json) if write.json is not None else 0
                    if len(units) >= MAX_UNITS or size >= MAX_BYTES:
                        break
                else:
                    with contextlib.suppress(BackendError, ConfigError, sqlite3.Error):
                        self._check_file()
                        self._check_schema()
                    item.set()
                item = queue.get_nowait()
        except Empty:
            if self._loop.is_closed() or not threading.main_thread().is_alive():
                self._stopping = True
        return units

    def _check_file(self) -> None:
        """Open the file that is at the path now, if it is not the one that is open."""
        if not self._database.intact():
            if self._database.is_open:
                _log.warning("sqlite: %s was replaced or removed: opening it anew", self._database.path)
            self._database.open()
            self._streams.ids.clear()
            self._history = History()
            self._trimmer.restart()

    def _check_schema(self) -> None:
        """Look at the mapped table again if the schema has changed."""
        if self._database.schema_moved():
            self._database.remap()

    def _write(self, units: list[Unit]) -> list[Unit]:
        """Commit the units, or fail them; returns those that must wait for a lock a little longer."""
        units = [unit for unit in units if not unit.future.cancelled()]
        if not units:
            return []
        try:
            transaction = self._begin(min(unit.deadline for unit in units))
        except Exception as error:
            if not is_busy(error):
                return self._fail(units, error)
            now = time.monotonic()
            self._fail([unit for unit in units if unit.deadline <= now], error)
            return [unit for unit in units if unit.deadline > now]
        try:
            mapped = self._database.mapped
            of_table = [unit for unit in units if mapped is not None and not unit.spec.hidden]
            transaction.apply([unit for unit in units if mapped is None or unit.spec.hidden])
            transaction.flush()
            if mapped is not None and of_table:
                TableWrites(self._database.writer, Rows(mapped), transaction).apply(of_table)
        except Exception as error:
            self._roll_back()
            if len(units) > 1 and primary_code(error) in (sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH, 0):
                # One of them cannot be stored, and the others are not to blame.
                return [late for unit in units for late in self._write([unit])]
            return self._fail(units, error)
        try:
            commit = self._commit(transaction)
        except (sqlite3.Error, OutcomeUnknown) as error:
            if isinstance(error, sqlite3.Error) and is_refusal(error):  # a deferred foreign key
                if len(units) > 1:
                    return [late for unit in units for late in self._write([unit])]
                return self._fail(units, Undone(refusal(mapped.table.name if mapped else "", error)))
            return self._fail(units, error)
        self._post(self._settle, units, commit)
        return []

    def _begin(self, deadline: float) -> Transaction:
        while True:
            self._check_file()
            connection = self._database.writer
            begin(connection, deadline)
            if not self._database.intact():
                self._roll_back()
            elif self._database.schema_moved():
                self._roll_back()
                self._database.remap()
            else:
                break
        try:
            return Transaction(connection, self._history, self._streams)
        except BaseException:
            self._roll_back()
            raise

    def _commit(self, transaction: Transaction) -> Commit | None:
        """Commit; raises the `sqlite3.Error` of a commit that did not happen."""
        if not transaction.dirty:
            self._roll_back()
            return None
        try:
            self._database.writer.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            if primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL) or is_refusal(error):
                raise
            raise OutcomeUnknown(
                f"sqlite: cannot tell whether a commit to {self._database.path} has happened: {error}{remedy(error)}"
            ) from error
        transaction.committed()
        self._trimmer.count(transaction.log)
        return Commit(transaction.before, transaction.after, transaction.epoch, transaction.log)

    def _roll_back(self) -> None:
        connection = self._database.writer
        if connection.in_transaction:
            try:
                connection.execute("ROLLBACK")
            except sqlite3.Error:
                self._database.distrust()

    def _fail(self, units: list[Unit], cause: Exception) -> list[Unit]:
        for unit in units:
            if unit.error is None:
                path = self._database.path
                unit.error = cause.reason if isinstance(cause, Undone) else explain(cause, path, "write to")
        if units:
            self._post(self._settle, units, None)
        return []

    def _maintain(self) -> None:
        try:
            self._check_file()
            self._upkeep.round(lambda: not self._queue.empty())
        except Exception as error:
            _log.warning("sqlite: upkeep of %s has to wait: %s", self._database.path, error)

    def _expire(self) -> bool:
        """Delete a portion of the expired items. Whether there may be more."""
        transaction = self._begin(time.monotonic() + self._database.timeout)
        try:
            more = transaction.expire(PORTION)
            transaction.flush()
        except BaseException:
            self._roll_back()
            raise
        commit = self._commit(transaction)
        if commit is not None:
            self._post(self._settle, (), commit)
        return more
