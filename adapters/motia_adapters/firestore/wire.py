"""Firestore's messages, as the driver's own protobuf classes: its wrappers cost more than the calls themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.cloud.firestore_v1.types import document, firestore, query, write
from google.protobuf.timestamp_pb2 import Timestamp

CommitRequest: Any = firestore.CommitRequest.pb()
CommitResponse: Any = firestore.CommitResponse.pb()
BatchGetRequest: Any = firestore.BatchGetDocumentsRequest.pb()
BatchGetResponse: Any = firestore.BatchGetDocumentsResponse.pb()
RunQueryRequest: Any = firestore.RunQueryRequest.pb()
RunQueryResponse: Any = firestore.RunQueryResponse.pb()
ListenRequest: Any = firestore.ListenRequest.pb()
ListenResponse: Any = firestore.ListenResponse.pb()
Document: Any = document.Document.pb()
Value: Any = document.Value.pb()
StructuredQuery: Any = query.StructuredQuery.pb()
WriteMessage: Any = write.Write.pb()

LESS, LESS_OR_EQUAL, GREATER, GREATER_OR_EQUAL = 1, 2, 3, 4
"""Comparisons of a `Filter`, as Firestore numbers them."""

Filter = tuple[str, int, Any]
"""A field, a comparison, and a plain value (``__name__``: the full name of a document)."""


def micros(stamp: Any) -> int:
    """A timestamp as µs since the epoch."""
    return int(stamp.seconds) * 1_000_000 + int(stamp.nanos) // 1_000


def timestamp(at: int) -> Any:
    """A timestamp from µs since the epoch."""
    return Timestamp(seconds=at // 1_000_000, nanos=at % 1_000_000 * 1_000)


def plain(value: Any) -> Any:
    """A field's text or number."""
    return getattr(value, value.WhichOneof("value_type") or "string_value")


def put(message: Any, fields: Mapping[str, str | int]) -> None:
    """Fill a document's fields with text and integers."""
    for name, value in fields.items():
        if isinstance(value, int):
            message.fields[name].integer_value = value
        else:
            message.fields[name].string_value = value


def stored(name: str, fields: Mapping[str, str | int], *, after: Any = None, fresh: bool = False) -> Any:
    """A write that replaces a document: one last changed at ``after``, or (``fresh``) one that is not there."""
    message = WriteMessage()
    message.update.name = name
    put(message.update, fields)
    return _guarded(message, after, fresh)


def removed(name: str, *, after: Any = None) -> Any:
    """A write that deletes a document: one last changed at ``after``, if that is given."""
    return _guarded(WriteMessage(delete=name), after, False)


def untouched(name: str, after: Any) -> Any:
    """A write that changes nothing, and fails unless the document was last changed at ``after``."""
    message = WriteMessage()
    message.update.name = name
    message.update_mask.SetInParent()  # no field is named: none is changed
    return _guarded(message, after, False)


def unchanged(name: str, after: Any) -> Any:
    """The same; ``None``: fails if the document is there."""
    return _guarded(WriteMessage(delete=name), None, True) if after is None else untouched(name, after)


def _guarded(message: Any, after: Any, fresh: bool) -> Any:
    if fresh:
        message.current_document.exists = False
    elif after is not None:
        message.current_document.update_time.CopyFrom(after)
    return message


def query_of(
    collection: str,
    order: str,
    *,
    descending: bool = False,
    where: Sequence[Filter] = (),
    limit: int | None = None,
    below: bool = False,
    names_only: bool = False,
) -> Any:
    """A query of one collection (``below``: of all of that name under the parent), in the order of one field."""
    message = StructuredQuery()
    message.from_.add(collection_id=collection, all_descendants=below)
    by = message.order_by.add()
    by.field.field_path = order
    by.direction = 2 if descending else 1
    filters = [_filter(*condition) for condition in where]
    if len(filters) == 1:
        message.where.CopyFrom(filters[0])
    elif filters:
        message.where.composite_filter.op = 1
        message.where.composite_filter.filters.extend(filters)
    if limit is not None:
        message.limit.value = limit
    if names_only:
        message.select.fields.add(field_path="__name__")
    return message


def _filter(field: str, comparison: int, value: Any) -> Any:
    message = StructuredQuery.Filter()
    message.field_filter.field.field_path = field
    message.field_filter.op = comparison
    if field == "__name__":
        message.field_filter.value.reference_value = value
    elif isinstance(value, int):
        message.field_filter.value.integer_value = value
    else:
        message.field_filter.value.string_value = value
    return message
