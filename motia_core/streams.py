"""The stream that user code holds: check everything, then hand it to the adapter."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from pydantic import BaseModel, ValidationError

from motia_core.adapter import Adapter, Capabilities
from motia_core.errors import InvalidName, InvalidValue, SchemaError, UnsupportedCapability
from motia_core.hub import Hub
from motia_core.model import ABSENT, StreamSpec, Write, WriteResult
from motia_core.names import check_id
from motia_core.operations import Operations, parse
from motia_core.schema import Check
from motia_core.schema_models import dump, validator_failed
from motia_core.values import check_size, decode, encode, encode_object
from motia_core.watching import Watch

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

BeforeWrite = Callable[[str, Write], Awaitable[None]]


class Stream(Generic[T]):
    """One stream. ``Stream[dict]`` gives items as dicts; `typed` gives them as models.

    Every method may raise the errors of the tree in `motia_core.errors`; what is wrong
    with the arguments is found before any I/O.
    """

    def __init__(
        self,
        spec: StreamSpec,
        adapter: Adapter,
        hub: Hub,
        *,
        schema: Check | None = None,
        max_value_bytes: int = 1_000_000,
        before_write: BeforeWrite | None = None,
        read: Callable[[bytes], T] = decode,
    ) -> None:
        self.name = spec.name
        self.hub = hub
        self._spec = spec
        self._adapter = adapter
        self._schema = schema
        self._max_value_bytes = max_value_bytes
        self._before_write = before_write
        self._read = read
        self._capabilities = adapter.capabilities(spec)

    @property
    def capabilities(self) -> Capabilities:
        """What the stream's backend promises for it."""
        return self._capabilities

    def typed(self, model: type[M]) -> Stream[M]:
        """The same stream with items read as models.

        An item that does not fit the model raises `SchemaError` there, and can still be
        read here.
        """

        def read(encoded: bytes) -> M:
            try:
                return model.model_validate_json(encoded)
            except ValidationError as error:
                raise SchemaError(f"a stored item of stream {self.name!r} is no {model.__name__}: {error}") from error
            except Exception as error:
                raise SchemaError(f"stream {self.name!r}: {validator_failed(model, error)}") from error

        return Stream(
            self._spec,
            self._adapter,
            self.hub,
            schema=self._schema,
            max_value_bytes=self._max_value_bytes,
            before_write=self._before_write,
            read=read,
        )

    # -- reading ---------------------------------------------------------------------

    async def get(self, group_id: str, item_id: str) -> T | None:
        """The item, or ``None``."""
        item = await self._adapter.get(self._spec, check_id(group_id, "group id"), check_id(item_id, "item id"))
        return None if item is None else self._read(item.json)

    async def version(self, group_id: str, item_id: str) -> str | None:
        """The item's version, for ``expect=``; ``None``: no item."""
        item = await self._adapter.get(self._spec, check_id(group_id, "group id"), check_id(item_id, "item id"))
        return None if item is None else item.version

    async def list(self, group_id: str, *, limit: int | None = None, after: str | None = None) -> Sequence[T]:
        """The group's items by the UTF-8 bytes of their ids; ``after`` is the last id of the page before."""
        items = await self._adapter.list(
            self._spec,
            check_id(group_id, "group id"),
            after=None if after is None else check_id(after, "after"),
            limit=_check_limit(limit),
        )
        return [self._read(item.json) for item in items]

    get_group = list

    async def list_groups(self, *, limit: int | None = None, after: str | None = None) -> Sequence[str]:
        """The ids of groups that have items, by UTF-8 bytes."""
        return await self._adapter.list_groups(
            self._spec, after=None if after is None else check_id(after, "after"), limit=_check_limit(limit)
        )

    def watch(self, group_id: str, item_id: str | None = None, *, after: str | None = None) -> Watch[T]:
        """Subscribe in this process: a "sync" with the items, then each change.

        With ``after`` the changes since that position instead, or a "sync" if they are
        gone. A reader that falls too far behind gets a new "sync" instead of what it
        missed; one that is told of trouble that does not heal gets the error raised.
        """
        group = check_id(group_id, "group id")
        item = None if item_id is None else check_id(item_id, "item id")
        if after is not None and not isinstance(after, str):
            raise InvalidValue(f"must be a position (text), not {type(after).__name__}", path="after")
        return Watch(self.hub, group, item, after, self._read)

    # -- writing ---------------------------------------------------------------------

    async def set(
        self,
        group_id: str,
        item_id: str,
        value: T | BaseModel | Mapping[str, Any],
        *,
        expect: str | None = None,
        ttl: float | None = None,
    ) -> WriteResult:
        """Create or replace an item; ``ttl`` in seconds. The result says which it was."""
        (result,) = await self._write([self._set(group_id, item_id, value, expect, ttl)])
        assert result is not None
        return result

    async def update(
        self,
        group_id: str,
        item_id: str,
        operations: Sequence[Mapping[str, Any]] | Operations,
        *,
        expect: str | None = None,
    ) -> WriteResult:
        """Apply update operations (`motia_core.operations`), all or nothing; a missing item starts as ``{}``."""
        (result,) = await self._write([self._update(group_id, item_id, operations, expect)])
        assert result is not None
        return result

    async def delete(self, group_id: str, item_id: str, *, expect: str | None = None) -> WriteResult | None:
        """Remove an item; ``None`` if there was none."""
        (result,) = await self._write([self._delete(group_id, item_id, expect)])
        return result

    async def send(self, target: Mapping[str, Any], event: Mapping[str, Any]) -> WriteResult:
        """Send a custom event ``{"type", "data"}`` to ``{"groupId", "id"?}``; it changes no item."""
        (result,) = await self._write([self._event(target, event)])
        assert result is not None
        return result

    def check(self, group_id: str, item_id: str, value: T | BaseModel | Mapping[str, Any]) -> None:
        """Raise what `set` would raise for this before any I/O; nothing is written."""
        self._set(group_id, item_id, value, None, None)

    def batch(self) -> BatchWriter[T]:
        """``async with stream.batch() as batch``: its writes happen all or not at all, at the end."""
        return BatchWriter(self)

    async def _write(self, writes: Sequence[Write]) -> Sequence[WriteResult | None]:
        if self._before_write is not None:
            for write in writes:
                await self._before_write(self.name, write)
        results = await self._adapter.write(self._spec, writes)
        for result in results:
            if result is not None:
                self.hub.written(result.position)
        return results

    def _set(self, group: str, id: str, value: Any, expect: str | None, ttl: float | None) -> Write:
        if isinstance(value, BaseModel):
            value = dump(value)
        encoded = encode_object(value)
        check_size(encoded, self._max_value_bytes)
        if self._schema is not None:
            self._schema(value, encoded)
        if ttl is not None:
            self._need("ttl", "ttl=")
            if isinstance(ttl, bool) or not isinstance(ttl, (int, float)) or not 0 < ttl < 1e11:
                raise InvalidValue("must be a number of seconds above 0", path="ttl")
        return Write(
            "set", check_id(group, "group id"), check_id(id, "item id"), encoded, self._check_expect(expect), ttl
        )

    def _update(self, group: str, id: str, operations: Any, expect: str | None) -> Write:
        return Write(
            "update",
            check_id(group, "group id"),
            check_id(id, "item id"),
            expect=self._check_expect(expect),
            operations=operations if isinstance(operations, Operations) else parse(operations),
            finish=self._finish,
        )

    def _delete(self, group: str, id: str, expect: str | None) -> Write:
        return Write("delete", check_id(group, "group id"), check_id(id, "item id"), expect=self._check_expect(expect))

    def _event(self, target: Mapping[str, Any], event: Mapping[str, Any]) -> Write:
        self._need("custom_events", "send()")
        if not isinstance(target, Mapping) or set(target) - {"groupId", "id"} or "groupId" not in target:
            raise InvalidName("send: the target must be {'groupId': ..., 'id': ... (optional)}")
        if not isinstance(event, Mapping) or set(event) - {"type", "data"} or "type" not in event:
            raise InvalidValue("must be {'type': ..., 'data': ...}", path="event")
        kind = check_id(event["type"], "event type")
        encoded = encode(event.get("data"), path="$.data")
        check_size(encoded, self._max_value_bytes)
        id = target.get("id")
        return Write(
            "event",
            check_id(target["groupId"], "group id"),
            None if id is None else check_id(id, "item id"),
            encoded,
            event_type=kind,
        )

    def _finish(self, value: Mapping[str, Any]) -> bytes:
        """Check and encode what an update made."""
        encoded = encode_object(value)
        check_size(encoded, self._max_value_bytes)
        if self._schema is not None:
            self._schema(value, encoded)
        return encoded

    def _check_expect(self, expect: str | None) -> str | None:
        if expect is None:
            return None
        self._need("conditional_writes", "expect=")
        if not isinstance(expect, str) or not expect:
            raise InvalidValue(f"must be a version or {ABSENT!r}", path="expect")
        return expect

    def _need(self, capability: str, what: str) -> None:
        support = getattr(self._capabilities, capability)
        if not support:
            raise UnsupportedCapability(f"stream {self.name!r}: {what} is not supported by its storage: {support.note}")


class Batched:
    """A write in a batch; its `result` is there once the batch is done. Awaiting it is allowed, and does nothing."""

    def __init__(self) -> None:
        self._result: WriteResult | None = None
        self._done = False

    @property
    def result(self) -> WriteResult | None:
        """What the write did (``None``: a delete of nothing). Raises ``RuntimeError`` inside the block."""
        if not self._done:
            raise RuntimeError("the batch is not done yet")
        return self._result

    def __await__(self) -> Generator[None, None, Batched]:
        return self
        yield


class BatchWriter(Generic[T]):
    """Collects writes to one stream and does them in one atomic step (SEMANTICS A7).

    An exception inside the block drops them all. An item may be named once. A batch is
    used once: after its block it raises ``RuntimeError``.
    """

    def __init__(self, stream: Stream[T]) -> None:
        stream._need("batch", "batch()")
        self._stream = stream
        self._writes: list[Write] = []
        self._handles: list[Batched] = []
        self._items: set[tuple[str, str]] = set()
        self._bytes = 0
        self._over = False

    def set(
        self,
        group_id: str,
        item_id: str,
        value: T | BaseModel | Mapping[str, Any],
        *,
        expect: str | None = None,
        ttl: float | None = None,
    ) -> Batched:
        """As `Stream.set`."""
        return self._add(self._stream._set(group_id, item_id, value, expect, ttl))

    def update(
        self, group_id: str, item_id: str, operations: Sequence[Mapping[str, Any]], *, expect: str | None = None
    ) -> Batched:
        """As `Stream.update`."""
        return self._add(self._stream._update(group_id, item_id, operations, expect))

    def delete(self, group_id: str, item_id: str, *, expect: str | None = None) -> Batched:
        """As `Stream.delete`."""
        return self._add(self._stream._delete(group_id, item_id, expect))

    def send(self, target: Mapping[str, Any], event: Mapping[str, Any]) -> Batched:
        """As `Stream.send`."""
        return self._add(self._stream._event(target, event))

    def _add(self, write: Write) -> Batched:
        self._check_open()
        limits = self._stream.capabilities
        if len(self._writes) >= limits.max_batch_writes:
            raise InvalidValue(f"more than {limits.max_batch_writes} writes", path="batch")
        size = len(write.json or b"") if write.operations is None else write.operations.size
        if self._bytes + size > limits.max_batch_bytes:
            raise InvalidValue(f"more than {limits.max_batch_bytes} bytes of values", path="batch")
        if write.kind != "event" and write.id is not None:
            if (write.group, write.id) in self._items:
                raise InvalidValue(f"item {write.id!r} of group {write.group!r} is named twice", path="batch")
            self._items.add((write.group, write.id))
        self._bytes += size
        self._writes.append(write)
        handle = Batched()
        self._handles.append(handle)
        return handle

    def _check_open(self) -> None:
        if self._over:
            raise RuntimeError("the batch is over: begin another one with batch()")

    async def __aenter__(self) -> Self:
        self._check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        if kind is not None or not self._writes:
            return
        results = await self._stream._write(self._writes)
        for handle, result in zip(self._handles, results, strict=True):
            handle._result, handle._done = result, True


def _check_limit(limit: int | None) -> int | None:
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise InvalidValue("must be a whole number above 0", path="limit")
    return limit
