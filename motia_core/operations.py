"""Update operations (SEMANTICS A3): one pure reference that every backend agrees with.

`parse` refuses whatever is wrong with the operations themselves, before any I/O;
`Operations.apply` computes the new object from the old one and never touches either.

=========== ============== ==================================================
type        needs          does
=========== ============== ==================================================
set         path, value    puts ``value`` there
merge       path, value    shallowly merges an object into the one there
increment   path, by       adds; a missing number starts at 0
decrement   path, by       subtracts
append      path, value    pushes on a list, joins text to text
remove      path           takes the key away; a missing path does nothing
=========== ============== ==================================================

A path is a plain string (one literal first-level key; dots do not split), a list of keys
(nested), or ``[]``, ``""``, ``None`` or absent (the root). Missing or null counts as an
empty object on the way and as nothing there at its end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

from motia_core.errors import InvalidValue, OperationProblem, UpdateError
from motia_core.values import MAX_DEPTH, MAX_INTEGER, MIN_INTEGER, decode, encode, nesting

MAX_OPERATIONS = 1_000
MAX_PATH = 32

_FIELDS: Final[dict[str, str | None]] = {
    "set": "value",
    "merge": "value",
    "append": "value",
    "increment": "by",
    "decrement": "by",
    "remove": None,
}
_MISSING: Final = object()


@dataclass(frozen=True, slots=True)
class Operation:
    """One checked operation. ``argument`` is the encoded value, or the number to add."""

    type: str
    path: tuple[str, ...]
    argument: bytes | int | float | None
    below: int = 0
    """How many keys of the path its author did not write (`parse`): errors leave them out."""


@dataclass(frozen=True, slots=True)
class Operations:
    """A checked sequence of operations."""

    operations: tuple[Operation, ...]

    @property
    def size(self) -> int:
        """Bytes of all the values in it, as compact JSON."""
        return sum(len(o.argument) for o in self.operations if isinstance(o.argument, bytes))

    def apply(self, old: Mapping[str, Any]) -> dict[str, Any]:
        """The object that results from ``old`` (which stays as it is).

        Raises `UpdateError` for the first operation that does not apply.
        """
        root: dict[str, Any] = _copy(old)
        for index, operation in enumerate(self.operations):
            try:
                root = _apply(root, operation)
            except _Refused as refused:
                raise UpdateError([OperationProblem(index, refused.code, str(refused))]) from None
        return root


class _Refused(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def parse(operations: object, *, below: tuple[str, ...] = ()) -> Operations:
    """Check a list of operations as the user wrote them.

    ``below`` are keys that every path lies under: the user's value is then of any type,
    somewhere in an item, and errors speak of it alone. Raises `UpdateError` that lists
    every malformed operation, with its index and code.
    """
    if isinstance(operations, (str, bytes, Mapping)) or not isinstance(operations, Sequence):
        raise UpdateError([OperationProblem(0, "NOT_A_LIST", "operations must be a list of objects")])
    if len(operations) > MAX_OPERATIONS:
        problem = f"{len(operations)} operations, {MAX_OPERATIONS} at most"
        raise UpdateError([OperationProblem(MAX_OPERATIONS, "TOO_MANY_OPERATIONS", problem)])
    parsed: list[Operation] = []
    problems: list[OperationProblem] = []
    for index, raw in enumerate(operations):
        try:
            parsed.append(_parse_one(raw, below))
        except _Refused as refused:
            problems.append(OperationProblem(index, refused.code, str(refused)))
    if problems:
        raise UpdateError(problems)
    return Operations(tuple(parsed))


def _parse_one(raw: object, below: tuple[str, ...]) -> Operation:
    if not isinstance(raw, Mapping):
        raise _Refused("NOT_AN_OPERATION", f"must be an object, not {type(raw).__name__}")
    kind = raw.get("type")
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise _Refused("UNKNOWN_TYPE", f"type {kind!r} is not one of {', '.join(_FIELDS)}")
    field = _FIELDS[kind]
    allowed = {"type", "path", field} - {None}
    unknown = [key for key in raw if key not in allowed]
    if unknown:
        raise _Refused("UNKNOWN_FIELD", f"{kind} takes {_listed(allowed)}; {unknown[0]!r} is not one of them")
    path = (*below, *_parse_path(raw.get("path")))
    if field is None:
        return Operation(kind, path, None, len(below))
    if field not in raw:
        raise _Refused("MISSING_FIELD", f"{kind} needs {field!r}")
    value = raw[field]
    if field == "by":
        return Operation(kind, path, _parse_number(value), len(below))
    if kind == "merge" and not isinstance(value, Mapping):
        raise _Refused("INVALID_VALUE", f"merge needs an object, not {type(value).__name__}")
    if kind == "set" and not path and not isinstance(value, Mapping):
        raise _Refused("NOT_AN_OBJECT", f"an item is an object: set at the root needs one, not {type(value).__name__}")
    depth = len(path) + (1 if kind == "append" else 0)
    try:
        encoded = encode(dict(value) if isinstance(value, Mapping) else value, path="$.value")
        if depth + nesting(value) > MAX_DEPTH:
            raise InvalidValue(f"nested deeper than {MAX_DEPTH} levels", path="$.value")
    except InvalidValue as error:
        raise _Refused("INVALID_VALUE", str(error)) from None
    return Operation(kind, path, encoded, len(below))


def _parse_path(path: object) -> tuple[str, ...]:
    if path is None or path == "":
        return ()
    keys = [path] if isinstance(path, str) else path
    if not isinstance(keys, (list, tuple)) or not all(isinstance(key, str) for key in keys):
        raise _Refused("INVALID_PATH", "path must be text (one key) or a list of text (nested keys)")
    if len(keys) > MAX_PATH:
        raise _Refused("INVALID_PATH", f"path has {len(keys)} keys, {MAX_PATH} at most")
    try:
        for key in keys:
            encode(key)
    except InvalidValue as error:
        raise _Refused("INVALID_PATH", f"path {error}") from None
    return tuple(str.__str__(key) for key in keys)


def _parse_number(value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _Refused("INVALID_VALUE", f"'by' must be a number, not {type(value).__name__}")
    if isinstance(value, float):
        if not isfinite(value):
            raise _Refused("INVALID_VALUE", "'by' must be finite")
        return float(value)
    if not MIN_INTEGER <= value <= MAX_INTEGER:
        raise _Refused("INVALID_VALUE", "'by' does not fit in 64 bits")
    return int(value)


def _apply(root: dict[str, Any], operation: Operation) -> dict[str, Any]:
    """``root`` with one operation done; ``root`` is ours to change."""
    path = operation.path
    if not path:
        result = _result(operation, root)
        return {} if result is _MISSING else result
    parent = root
    for depth, key in enumerate(path[:-1]):
        child = parent.get(key)
        if child is None:
            if operation.type == "remove":
                return root
            child = parent[key] = {}
        elif not isinstance(child, dict):
            where = ".".join(path[operation.below : depth + 1])
            raise _Refused("NOT_AN_OBJECT", f"{repr(where) if where else 'it'} is {_name(child)}, not an object")
        parent = child
    result = _result(operation, parent.get(path[-1]))
    if result is _MISSING:
        parent.pop(path[-1], None)
    else:
        parent[path[-1]] = result
    return root


def _result(operation: Operation, leaf: Any) -> Any:
    """What stands at the path afterwards; ``leaf`` (None: nothing or null) is ours to change."""
    argument = operation.argument
    match operation.type:
        case "remove":
            return _MISSING
        case "increment" | "decrement":
            assert isinstance(argument, (int, float))
            return _add(leaf, argument if operation.type == "increment" else -argument)
    assert isinstance(argument, bytes)
    value = decode(argument)  # fresh at every use, so that results share nothing
    if operation.type == "set":
        return value
    if operation.type == "merge":
        if leaf is None:
            return value
        if not isinstance(leaf, dict):
            raise _Refused("NOT_AN_OBJECT", f"merge into {_name(leaf)}")
        leaf.update(value)
        return leaf
    if leaf is None:
        return [value]
    if isinstance(leaf, list):
        leaf.append(value)
        return leaf
    if isinstance(leaf, str):
        if isinstance(value, str):
            return leaf + value
        raise _Refused("NOT_TEXT", f"append {_name(value)} to text")
    raise _Refused("NOT_A_LIST", f"append to {_name(leaf)}")


def _add(leaf: Any, by: int | float) -> int | float:
    if leaf is None:
        leaf = 0
    if isinstance(leaf, bool) or not isinstance(leaf, (int, float)):
        raise _Refused("NOT_A_NUMBER", f"{_name(leaf)} cannot be incremented")
    total = leaf + by
    if isinstance(total, float):
        if not isfinite(total):
            raise _Refused("OUT_OF_RANGE", "the result is not a finite number")
    elif not MIN_INTEGER <= total <= MAX_INTEGER:
        raise _Refused("OUT_OF_RANGE", "the result does not fit in 64 bits")
    return total


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_copy(member) for member in value]
    return value


def _name(value: Any) -> str:
    if value is None:
        return "null"
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean"}
    return names.get(type(value), "a number")


def _listed(names: set[str | None]) -> str:
    return ", ".join(sorted(repr(name) for name in names if name))
