"""Reading and writing a mapped table (A, B5): the same calls as in managed storage, on rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from motia_adapters.postgresql.database import Database
from motia_adapters.postgresql.failures import MIGRATE
from motia_adapters.postgresql.places import Place
from motia_adapters.postgresql.reads import ALL, Reads
from motia_adapters.postgresql.table import Table, row_of, step
from motia_adapters.postgresql.units import NOTHING, Key, State, Unit, state_at
from motia_adapters.postgresql.writer import Writer
from motia_core.adapter import StorageSettings
from motia_core.errors import BackendError, BackendUnavailable, Conflict, InvalidValue, MotiaError
from motia_core.model import Item, Snapshot, StreamSpec, Write, WriteResult
from motia_core.values import decode

_NO_COLUMN = "42703"
OWNER = "*"
"""The namespace of mapped tables' streams: every namespace shares them."""


class RowReads(Reads):
    """Reads a mapped table. Every read first gives what other programs wrote its place in the order."""

    groups_function, head_function, changes_function = "row_groups", "row_head", "row_changes"
    eager = 0.02

    def __init__(self, database: Database, name: str, shown: str, table: Table) -> None:
        super().__init__(database, OWNER, name, shown)
        self._table = table

    async def prepare(self) -> None:
        """Nothing: the table was mapped before."""

    def json(self, group: str, id: str | None, raw: str) -> bytes:
        """A row as an encoded value."""
        return raw.encode() if id is None else self._table.json(group, id, raw)

    async def _rows(self, group: str, id: str | None, after: str, limit: int) -> Any:
        while True:
            found = await self.rpc("rows", p_group=group, p_id=id, p_after=after, p_limit=limit)
            if found is None:
                raise self.gone()
            if found is not False:  # much was written at once: it takes several calls to give that its places
                return found

    async def settle(self) -> None:
        """Give what other programs wrote its places, though nobody reads."""
        while await self.rpc("settle"):
            pass

    def gone(self) -> BackendUnavailable:
        """The table went, or became another one."""
        return BackendUnavailable(
            f"{self._database.name}: table {self._table.shown!r} at {self._database.address} is not mapped any more (it"
            " was dropped, renamed or restored, its triggers were disabled, or its columns of groups and ids changed):"
            f" {MIGRATE}, and start again"
        )

    async def get(self, group: str, id: str) -> Item | None:
        """The item, or ``None``. Raises `InvalidName`."""
        self._table.check_names(group, id)
        rows = (await self._rows(group, id, "", 1))["items"]
        return self.item(group, rows[0]) if rows else None

    async def list_page(self, group: str, after: str, limit: int) -> Any:
        """One page of rows."""
        self._table.check_names(group, None)
        return (await self._rows(group, None, after, limit))["items"]

    async def snapshot(self, group: str, id: str | None, limit: int | None) -> Snapshot | None:
        """Items and the position that the table had when they were read."""
        self._table.check_names(group, id)
        found = await self._rows(group, id, "", ALL if limit is None else limit)
        epoch, seq, ts = found["head"]
        items = tuple(self.item(group, row) for row in found["items"])
        return Snapshot(items, Place(epoch, seq).position, ts / 1000)


class RowWriter(Writer):
    """Writes to a mapped table; its triggers capture that like everybody's writes."""

    function = "write_rows"
    one_function = None

    def __init__(
        self,
        database: Database,
        name: str,
        stream: StreamSpec,
        settings: StorageSettings,
        table: Table,
        reads: RowReads,
    ) -> None:
        super().__init__(database, OWNER, stream, settings, name)
        self._table = table
        self._reads = reads

    async def write(self, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        """Do all writes, or nothing. Raises `InvalidName` for what the columns cannot hold."""
        for write in writes:
            self._table.check_names(write.group, write.id)
        return await super().write(writes)

    def spell(self, write: Write, value: bytes, old: State | None) -> Mapping[str, Any]:
        """As the columns to write."""
        assert write.id is not None
        wanted = self._table.wanted(write.group, write.id, decode(value))
        before = None if old is None or old.json is None else decode(old.json)
        cells = self._table.cells(write.group, write.id, wanted, before)
        return {"v": row_of(cells), "d": self._table.defaults(wanted) if before is None else []}

    def results(self, unit: Unit, replies: Sequence[Any]) -> Sequence[WriteResult | None]:
        """What the writes did; the new value is what the row became."""
        results: list[WriteResult | None] = []
        for write, reply in zip(unit.writes, replies, strict=True):
            if reply is None:
                results.append(None)
                continue
            type, epoch, seq, ts, *rows = reply
            position = Place(epoch, seq).position
            old, new = (None if raw is None else self.decoded(write, raw) for raw in rows or (None, None))
            version = "" if type == "event" else position
            results.append(WriteResult(type, write.group, write.id, old, new, version, position, ts / 1000))
        return results

    def decoded(self, write: Write, raw: str) -> bytes:
        """A row as an encoded value."""
        assert write.id is not None
        return self._table.json(write.group, write.id, raw)

    async def refused(self, unit: Unit, reply: Mapping[str, Any], again: list[Unit]) -> None:
        """The table refuses the unit, or another writer was faster than it."""
        if "x" in reply:
            _, code, message, column = reply["x"]
            if code == _NO_COLUMN and unit.attempts == 0:
                await self._learn_columns(unit)
                self._retry(unit, unit.writes[0], again)
                return
            self.fail(unit, _refusal(self._table.shown, code, message, column))
            return
        key: Key = tuple(reply["w"])
        write = next(w for w in unit.writes if (w.group, w.id) == key)
        state = await self._read_state(key)
        self._known.put(key, state)
        try:
            write.check(_version(state))
        except Conflict as conflict:
            self.fail(unit, conflict)
            return
        self._retry(unit, write, again)

    async def _learn_columns(self, unit: Unit) -> None:
        """The table's columns have changed since we looked."""
        schema, name = self._table.mapped.place
        found = await self._database.rpc("mapped", p_schema=schema, p_table=name)
        if found is None:
            raise self._reads.gone()
        self._table.learn(found)
        for key, _ in unit.updated():
            self._known.drop(key)

    async def _read_state(self, key: Key) -> State:
        item = await self._reads.get(*key)
        if item is None:
            return NOTHING
        epoch, _, seq = item.version.partition("-")
        return state_at(int(epoch, 16), int(seq, 16), item.json)


def _version(state: State) -> str | None:
    return None if state.expect == "-" else Place(*map(int, state.expect.split("-"))).position


def _refusal(table: str, code: str, message: str, column: str) -> MotiaError:
    if code[:2] in ("22", "23", "44", "P0") or code in ("MO001", "428C9"):
        return InvalidValue(f"table {table!r} refuses it: {message} [{code}]", path=step(column) if column else "$")
    return BackendError(f"cannot write to table {table!r}: {message} [{code}]")
