"""SQLite: a file of our own, and a file with tables of the user's."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any

from motia_adapters.sqlite.adapter import SqliteAdapter
from motia_adapters.sqlite.options import MappedOptions, SqliteOptions

from motia_core.adapter import Adapter, StorageSettings
from motia_core.model import StreamSpec
from motia_core.testing import Cannot, Harness


class SQLite(Harness):
    name = "sqlite"

    def __init__(self, path: Path) -> None:
        self.path = path / "streams.db"

    def make(self, settings: StorageSettings) -> Adapter:
        return SqliteAdapter(settings, SqliteOptions(path=self.path))

    def maker(self, settings: StorageSettings) -> Callable[[StorageSettings], Adapter]:
        return partial(SqliteAdapter, options=SqliteOptions(path=self.path))

    async def restart(self) -> None:
        """There is no server: whoever opens the file next is the restart."""
        raise Cannot("SQLite has no server to restart")

    async def wipe(self) -> None:
        for file in self._files():
            file.unlink()

    async def backup(self) -> Any:
        return {file.name: file.read_bytes() for file in self._files()}

    async def restore(self, backup: Any) -> None:
        await self.wipe()
        for name, content in backup.items():
            (self.path.parent / name).write_bytes(content)

    @asynccontextmanager
    async def hold(self, settings: StorageSettings, stream: StreamSpec) -> AsyncGenerator[None, None]:
        """A write transaction of another connection, open while others wait for it."""
        connection = sqlite3.connect(self.path, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TABLE held (x)")
        try:
            yield
            connection.execute("COMMIT")
        finally:
            connection.close()

    def _files(self) -> list[Path]:
        return [file for file in self.path.parent.glob("streams.db*") if file.is_file()]


class SQLiteMapped(SQLite):
    """A file with a table of the user's for each namespace; `sqlite3` is the other program."""

    name = "sqlite-mapped"
    columns = ("n", "title", "views", "price", "done", "tags")

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.folder = path

    def make(self, settings: StorageSettings) -> Adapter:
        return SqliteAdapter(settings, self._options(settings))

    def _options(self, settings: StorageSettings) -> SqliteOptions:
        path = self._path(settings.namespace)
        self._create(path, f"orders_{settings.namespace}")
        mapped = MappedOptions(
            table=f"orders_{settings.namespace}",
            group_field="customer",
            id_field="code",
            rest_field="extra",
            json_fields=("tags",),
            include_ids=False,
        )
        return SqliteOptions(path=path, mapped=mapped)

    def maker(self, settings: StorageSettings) -> Callable[[StorageSettings], Adapter]:
        return partial(SqliteAdapter, options=self._options(settings))

    async def wipe(self) -> None:
        empty = self.folder / "empty"
        for path in self.folder.glob("*.db"):
            self._create(empty, f"orders_{path.stem}")
            for name in ("-wal", "-shm"):
                path.with_name(path.name + name).unlink(missing_ok=True)
            empty.replace(path)

    async def restore(self, backup: Any) -> None:
        for file in self._files():
            file.unlink()
        for name, content in backup.items():
            (self.folder / name).write_bytes(content)

    @asynccontextmanager
    async def hold(self, settings: StorageSettings, stream: StreamSpec) -> AsyncGenerator[None, None]:
        self.path = self._path(settings.namespace)
        async with super().hold(settings, stream):
            yield

    async def set_out_of_band(
        self, settings: StorageSettings, stream: StreamSpec, group: str, id: str, value: Any
    ) -> None:
        cells = {"customer": group, "code": id, **{name: value.get(name) for name in self.columns}}
        cells["tags"] = json.dumps(value["tags"]) if "tags" in value else None
        rest = {key: member for key, member in value.items() if key not in self.columns}
        cells["extra"] = json.dumps(rest) if rest else None
        names, marks = ", ".join(cells), ", ".join("?" * len(cells))
        changes = ", ".join(f"{name} = excluded.{name}" for name in cells)
        sql = f"INSERT INTO {{table}} ({names}) VALUES ({marks}) ON CONFLICT DO UPDATE SET {changes}"
        self._run(settings, sql, *cells.values())

    async def delete_out_of_band(self, settings: StorageSettings, stream: StreamSpec, group: str, id: str) -> None:
        self._run(settings, "DELETE FROM {table} WHERE customer = ? AND code = ?", group, id)

    async def move_out_of_band(
        self, settings: StorageSettings, stream: StreamSpec, group: str, id: str, to: str
    ) -> None:
        self._run(settings, "UPDATE {table} SET customer = ? WHERE customer = ? AND code = ?", to, group, id)

    def _run(self, settings: StorageSettings, sql: str, *parameters: Any) -> None:
        path = self._path(settings.namespace)
        with closing(sqlite3.connect(path, timeout=20, isolation_level=None)) as connection:
            connection.execute(sql.format(table=f"orders_{settings.namespace}"), parameters)

    def _files(self) -> list[Path]:
        return [file for file in self.folder.glob("*.db*") if file.is_file()]

    def _path(self, namespace: str) -> Path:
        return self.folder / f"{namespace}.db"

    @staticmethod
    def _create(path: Path, table: str) -> None:
        with closing(sqlite3.connect(path, timeout=20, isolation_level=None)) as connection:
            connection.execute(
                f"CREATE TABLE IF NOT EXISTS {table} (customer TEXT, code TEXT, n INTEGER, title TEXT, views INTEGER,"
                " price REAL, done BOOLEAN, tags TEXT, extra TEXT, PRIMARY KEY (customer, code))"
            )
