"""The reader thread: one connection, shared read transactions, and the look-out for others' writes."""

from __future__ import annotations

import contextlib
import threading
import time
from asyncio import AbstractEventLoop, Future
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from motia_adapters.sqlite.database import Database
from motia_adapters.sqlite.failures import closed, explain
from motia_adapters.sqlite.mapped.reads import Rows
from motia_adapters.sqlite.queries import SchemaMoved, View, head
from motia_core.adapter import StorageSettings
from motia_core.errors import BackendError, BackendUnavailable, MotiaError

MAX_JOBS = 256
"""Reads that share one transaction, at most."""
_IDLE = 1.0  # seconds between two looks whether the program has ended without closing us
_CALM = 5.0  # seconds without a write of somebody else after which it is looked for less often
_CALM_INTERVAL = 0.02
_VERIFY = 0.25  # seconds after which the head is read even if nothing seems to have happened

Result = TypeVar("Result")


class _Job:
    __slots__ = ("arguments", "error", "future", "query", "result")

    def __init__(self, query: Callable[..., Any], arguments: tuple[Any, ...], future: Future[Any]) -> None:
        self.query = query
        self.arguments = arguments
        self.future = future
        self.result: Any = None
        self.error: Exception | None = None


class Reader(threading.Thread):
    """Runs queries, and while `known` is set calls ``moved`` on the loop when the head differs from it."""

    def __init__(
        self,
        database: Database,
        settings: StorageSettings,
        loop: AbstractEventLoop,
        *,
        poll_interval: float,
        reopen: Callable[[threading.Event], None],
        moved: Callable[[BackendError | None], None],
        ended: Callable[[], None],
    ) -> None:
        super().__init__(name=f"motia-sqlite-reader-{settings.name}", daemon=False)
        self.known: str | None = None
        """The position up to which others' writes have been seen; ``None``: nobody wants to know."""
        self._database = database
        self._namespace = settings.namespace
        self._loop = loop
        self._interval = poll_interval
        self._reopen = reopen
        self._moved = moved
        self._ended = ended
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._view: View | None = None
        self._generation = 0
        self._polled = 0.0
        self._moved_at = 0.0
        self._verified = 0.0
        self._data_version = -1
        self._stopped = False

    def submit(self, query: Callable[..., Result], *arguments: Any) -> Future[Result]:
        """Run ``query(view, *arguments)`` in the next read transaction. Called on the loop."""
        if self._stopped:
            raise closed(self._database.path)
        future: Future[Result] = self._loop.create_future()
        self._queue.put(_Job(query, arguments, future))
        return future

    def stop(self) -> None:
        """End when all that was submitted is done. Called on the loop."""
        self._stopped = True
        self._queue.put(None)

    def run(self) -> None:
        """The thread's life."""
        queue = self._queue
        running = True
        while running:
            jobs: list[_Job] = []
            interval = self._until_poll()
            try:
                item = queue.get(timeout=interval)
                while True:
                    if item is None:
                        running = False
                    else:
                        jobs.append(item)
                        if len(jobs) >= MAX_JOBS:
                            break
                    item = queue.get_nowait()
            except Empty:
                if self._loop.is_closed() or not threading.main_thread().is_alive():
                    running = False
            if jobs:
                self._serve([job for job in jobs if not job.future.cancelled()])
            if self.known is not None and running and time.monotonic() - self._polled >= interval:
                self._poll()
        self._post(self._ended)

    def _until_poll(self) -> float:
        if self.known is None:
            return _IDLE
        calm = time.monotonic() - self._moved_at > _CALM
        return max(self._interval, _CALM_INTERVAL) if calm else self._interval

    def _post(self, callback: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *arguments)

    def _serve(self, jobs: Sequence[_Job]) -> None:
        try:
            self._check_file()
            try:
                with self._database.gate:
                    self._read(jobs)
            except SchemaMoved:
                self._ask_to_reopen()
                with self._database.gate:
                    self._read(jobs)
        except Exception as error:
            for job in jobs:
                job.error = job.error or self._explain(error)
        self._post(_settle, jobs)

    def _read(self, jobs: Sequence[_Job]) -> None:
        """Answer all jobs out of one moment of the file. Under the gate."""
        view = self._refreshed()
        connection = view.connection
        connection.execute("BEGIN")
        try:
            view.refresh()
            for job in jobs:
                try:
                    job.result = job.query(view, *job.arguments)
                except MotiaError as error:
                    job.error = error
                except Exception as error:
                    job.error = self._explain(error)
        finally:
            connection.execute("ROLLBACK")

    def _refreshed(self) -> View:
        """The view, for the file that is open now."""
        if self._view is None or self._generation != self._database.generation:
            self._view = View(self._database.reader, self._namespace)
            self._generation = self._database.generation
            self._data_version = -1
        view, mapped = self._view, self._database.mapped
        if mapped is not None and (view.rows is None or view.rows.mapped is not mapped):
            view.rows = Rows(mapped)
        return view

    def _check_file(self) -> None:
        """Let the writer open the file anew if it was replaced, and wait for that."""
        if not self._database.intact():
            self._ask_to_reopen()
            if self._database.is_open and not self._database.intact():
                raise BackendUnavailable(f"sqlite: {self._database.path} was replaced, and is not yet open anew")

    def _ask_to_reopen(self) -> None:
        """Let the writer look at the file and the mapped table again."""
        done = threading.Event()
        self._reopen(done)
        done.wait(self._database.timeout)

    def _poll(self) -> None:
        """Tell the loop if the head is not where it was last seen."""
        self._polled = now = time.monotonic()
        try:
            self._check_file()
            with self._database.gate:
                view = self._refreshed()
                (version,) = view.connection.execute("PRAGMA data_version").fetchone()
                if version == self._data_version and now - self._verified < _VERIFY:
                    return
                self._data_version, self._verified = version, now
                connection = view.connection
                connection.execute("BEGIN")
                try:
                    view.refresh()
                    found = head(view)
                finally:
                    connection.execute("ROLLBACK")
        except SchemaMoved:
            self._data_version = -1
            self._ask_to_reopen()
            if self._database.mapping_failure is not None:
                self._post(self._moved, self._explain(self._database.mapping_failure))
            return
        except Exception as error:
            self._post(self._moved, self._explain(error))
            return
        if found != self.known:
            self._moved_at = now
            self._post(self._moved, None)

    def _explain(self, cause: Exception) -> BackendError:
        """An error of its own for each caller."""
        if isinstance(cause, SchemaMoved):
            cause = self._database.mapping_failure or BackendUnavailable(
                f"sqlite: the tables of {self._database.path} are being changed"
            )
        return explain(cause, self._database.path, "read")


def _settle(jobs: Sequence[_Job]) -> None:
    """Hand results to whoever still waits. On the loop."""
    for job in jobs:
        if not job.future.done():
            if job.error is None:
                job.future.set_result(job.result)
            else:
                job.future.set_exception(job.error)
