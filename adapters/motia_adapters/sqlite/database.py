"""The database file: its tables, its two connections, and what happens if it is replaced.

One connection belongs to the writer thread, one to the reader thread. They change only
under `Database.gate`, which the reader holds while it reads.
"""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import threading
import time
from pathlib import Path

from motia_adapters.sqlite.failures import closed, explain, is_busy
from motia_adapters.sqlite.history import History, new_epoch
from motia_adapters.sqlite.mapped.capture import Mapped, install, warn_of_unusable
from motia_adapters.sqlite.options import MappedOptions
from motia_core.errors import BackendError, ConfigError

SCHEMA_VERSION = 1

# Rows are found by number and carry large values, hence ordinary tables with a slim index
# beside them. Text compares by its UTF-8 bytes (BINARY), which is the order of ids (A6).
_TABLES = """
CREATE TABLE IF NOT EXISTS motia_clock (    -- one row, read and written by every write transaction
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    schema INTEGER NOT NULL,                -- the version of these tables
    seq    INTEGER NOT NULL,                -- the last sequence number taken, by any stream
    ts     REAL NOT NULL,                   -- its timestamp, ms since 1970: rises strictly
    epoch  TEXT NOT NULL                    -- the newest epoch
);
CREATE TABLE IF NOT EXISTS motia_epochs (   -- numbers from first_seq on belong to epoch
    first_seq INTEGER PRIMARY KEY,
    epoch     TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS motia_streams (
    id        INTEGER PRIMARY KEY,
    namespace TEXT NOT NULL,
    name      TEXT NOT NULL,
    logged    INTEGER NOT NULL,             -- whether its changes go to motia_log
    floor     INTEGER NOT NULL DEFAULT 0,   -- its log is trimmed up to this number
    UNIQUE (namespace, name)
);
CREATE TABLE IF NOT EXISTS motia_items (
    stream  INTEGER NOT NULL,
    grp     TEXT NOT NULL,
    id      TEXT NOT NULL,
    seq     INTEGER NOT NULL,               -- of the last write: with its epoch, the version
    expires REAL,                           -- seconds since 1970; NULL: never
    json    BLOB NOT NULL,                  -- compact UTF-8 JSON
    PRIMARY KEY (stream, grp, id)
);
CREATE INDEX IF NOT EXISTS motia_items_expires ON motia_items (expires) WHERE expires IS NOT NULL;
CREATE TABLE IF NOT EXISTS motia_log (
    seq        INTEGER PRIMARY KEY,
    stream     INTEGER NOT NULL,
    type       TEXT NOT NULL,               -- create, update, delete, event
    grp        TEXT NOT NULL,
    id         TEXT,                        -- NULL: an event of the whole group
    json       BLOB,                        -- new value; of a delete the old one; an event's data
    ts         REAL NOT NULL,
    event_type TEXT
);
CREATE INDEX IF NOT EXISTS motia_log_stream ON motia_log (stream, seq);
"""


_Identity = tuple[int, int]  # device and number of a file, whatever its name


def _identify(path: Path) -> _Identity | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def begin(connection: sqlite3.Connection, deadline: float) -> None:
    """Begin a write transaction, trying until ``deadline`` (monotonic seconds).

    SQLite's own waiting sleeps up to 100 ms at a time, so that a busy process starves others.
    """
    pause = 0.0005
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() >= deadline:
                raise
        time.sleep(pause * random.uniform(0.5, 1.5))
        pause = min(pause * 1.2, 0.01)


class Database:
    """The open file. ``generation`` counts how often it was opened, or could not be."""

    def __init__(self, path: Path, *, synchronous: str, timeout: float, mapping: MappedOptions | None = None) -> None:
        self.path = path
        self.mapped: Mapped | None = None
        """The mapped table as it was last found; changes under the gate."""
        self.mapping_failure: Exception | None = None
        """Why the table could not be mapped when it was last looked at."""
        self._mapping = mapping
        self.timeout = timeout
        self.gate = threading.Lock()
        self.generation = 0
        self._synchronous = synchronous
        self._trusted = False
        self._identity: _Identity | None = None
        self._companions: dict[str, _Identity | None] = {}
        self._failure: BackendError | None = None
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None

    @property
    def writer(self) -> sqlite3.Connection:
        """The writer thread's connection."""
        if self._writer is None:
            raise self._why_closed()
        return self._writer

    @property
    def reader(self) -> sqlite3.Connection:
        """The reader thread's connection; used under the gate."""
        if self._reader is None:
            raise self._why_closed()
        return self._reader

    def _why_closed(self) -> BackendError:
        if self._failure is None:
            return closed(self.path)
        return explain(self._failure, self.path, "open")

    @property
    def is_open(self) -> bool:
        """Whether there are connections."""
        return self._writer is not None

    def intact(self) -> bool:
        """Whether the path still leads to the file that is open."""
        return self._trusted and _identify(self.path) == self._identity

    def distrust(self) -> None:
        """Have the file opened anew before it is used again."""
        self._trusted = False

    def open(self) -> None:
        """Open the file (anew, if it is open), making folder and tables, and begin an epoch.

        Called in the writer thread. Raises `BackendError`, or `ConfigError` if the table cannot be mapped.
        """
        with self.gate:
            # Both must be closed before either opens: SQLite finds the -wal file by name.
            self._part_with_lost_file()
            self._close()
            deadline = time.monotonic() + self.timeout
            try:
                if self._mapping is not None and not self.path.exists():
                    raise ConfigError(f"sqlite: {self.path} does not exist: a mapped table must be there already")
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._writer = self._connect(deadline)
                self._create(self._writer, deadline)
                self._reader = self._connect(deadline)
                self._reader.execute(f"PRAGMA busy_timeout = {int(self.timeout * 1000)}")
                self._reader.execute("PRAGMA query_only = ON")
                self._reader.execute("SELECT seq FROM motia_clock").fetchone()
                if self.mapped is not None:
                    warn_of_unusable(self._writer, self.mapped.table, self.path)
            except (sqlite3.Error, OSError, BackendError, ConfigError) as error:
                self._close()
                self.generation += 1
                self._failure = explain(error, self.path, "open")
                if isinstance(error, ConfigError):
                    raise
                raise self._why_closed() from error
            self._failure = self.mapping_failure = None
            self._identity = _identify(self.path)
            self._trusted = True
            self._companions = {name: _identify(Path(name)) for name in (f"{self.path}-wal", f"{self.path}-shm")}
            self.generation += 1

    def schema_moved(self) -> bool:
        """Whether the file's schema has changed since the mapped table was looked at. In the writer thread."""
        if self.mapped is None:
            return False
        (version,) = self.writer.execute("PRAGMA schema_version").fetchone()
        return bool(version != self.mapped.schema_version)

    def remap(self) -> None:
        """Look at the mapped table again, and have its changes captured if they are not.

        Called in the writer thread, outside a transaction. Raises `sqlite3.Error` or `ConfigError`.
        """
        assert self._mapping is not None
        connection = self.writer
        begin(connection, time.monotonic() + self.timeout)
        try:
            mapped = install(connection, self._mapping, self.path)
            connection.execute("COMMIT")
        except BaseException as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self.mapping_failure = error if isinstance(error, Exception) else None
            raise
        self.mapping_failure = None
        with self.gate:
            self.mapped = mapped

    def close(self) -> None:
        """Close both connections."""
        with self.gate:
            self._close()

    def _part_with_lost_file(self) -> None:
        """If the open file is no longer at the path, finish it and remove its -wal and -shm.

        SQLite leaves those two there, and would play them back into the file that is there
        now. While we have them open, nobody else's can have their identity.
        """
        if self._writer is None:
            return
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            pass
        except OSError:
            return
        else:
            if (found.st_dev, found.st_ino) == self._identity:
                return
        with contextlib.suppress(sqlite3.Error):
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        for name, identity in self._companions.items():
            if identity is not None and _identify(Path(name)) == identity:
                with contextlib.suppress(OSError):
                    os.unlink(name)

    def _close(self) -> None:
        self._trusted = False
        for connection in (self._reader, self._writer):
            if connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    connection.close()
        self._reader = self._writer = None

    def _connect(self, deadline: float) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        try:
            while True:
                try:
                    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
                    break
                except sqlite3.OperationalError as error:
                    if not is_busy(error) or time.monotonic() >= deadline:
                        raise
                time.sleep(0.005)
            if mode != "wal":
                raise BackendError(f"sqlite: {self.path} cannot be used in WAL mode (it is in mode {mode!r})")
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            connection.execute("PRAGMA wal_autocheckpoint = 4000")  # pages; fewer syncs than the usual 1000
            connection.execute("PRAGMA journal_size_limit = 67108864")
            connection.execute("PRAGMA cache_size = -16384")
            connection.execute("PRAGMA temp_store = MEMORY")
            if self._mapping is not None:
                connection.execute("PRAGMA foreign_keys = ON")
        except BaseException:
            connection.close()
            raise
        return connection

    def _create(self, connection: sqlite3.Connection, deadline: float) -> None:
        begin(connection, deadline)
        try:
            for statement in _TABLES.split(";\n"):
                if statement.strip():
                    connection.execute(statement)
            row = connection.execute("SELECT schema FROM motia_clock").fetchone()
            history = History()
            if row is None:
                epoch = new_epoch()
                connection.execute("INSERT INTO motia_epochs VALUES (0, ?)", (epoch,))
                connection.execute(
                    "INSERT INTO motia_clock VALUES (1, ?, 0, ?, ?)", (SCHEMA_VERSION, time.time() * 1000, epoch)
                )
            elif row[0] != SCHEMA_VERSION:
                raise BackendError(
                    f"sqlite: {self.path} has tables of version {row[0]}, this adapter knows {SCHEMA_VERSION}"
                    " (upgrade motia-core)"
                )
            else:
                history.read(connection)
                history.begin_epoch(connection)
            if self._mapping is not None:
                self.mapped = install(connection, self._mapping, self.path)
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise
