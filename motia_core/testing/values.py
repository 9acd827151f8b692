"""JSON values for tests: ordinary, odd, and those that must be refused."""

from __future__ import annotations

import datetime
import math
from typing import Any, Final

from hypothesis import strategies as st

from motia_core.values import MAX_INTEGER, MIN_INTEGER

ODD: Final[list[dict[str, Any]]] = [
    {},
    {"": ""},
    {"list": [], "object": {}, "null": None, "yes": True, "no": False},
    {"nested": [[], [[]], {"a": {}}]},
    {"one": 1, "one as float": 1.0, "minus zero": -0.0, "zero": 0, "zero as float": 0.0},
    {"most": MAX_INTEGER, "least": MIN_INTEGER, "past a double": 2**53 + 1},
    {"tiny": 5e-324, "huge": 1.7976931348623157e308, "third": 1 / 3, "e": 1e22, "E": 1e-7},
    {"$set": 1, "a.b": {"c.d": 2}, "$ref": "x", "$id": "y", "__proto__": 1, "_id": 2, "id": 3},
    {"astral": "\U0001f600\U0010ffff", "combining": "e\u0301\u00e9", "rtl": "\u202eabc", "bom": "\ufeff"},
    {"quotes": "'\"`;--\\", "control": "\x01\x1f\x7f\r\n\t", "escaped": "\\u0000"},
    {"\U0001f600": "key", " ": "space", "\u2028": "separator"},
]
"""Objects that some store or encoder is known to change."""

REFUSED: Final[list[tuple[str, Any, str]]] = [
    ("nan", {"a": {"b": math.nan}}, "$.a.b"),
    ("infinity", {"a": [1, math.inf]}, "$.a[1]"),
    ("minus infinity", {"a": -math.inf}, "$.a"),
    ("integer over 64 bits", {"n": MAX_INTEGER + 1}, "$.n"),
    ("integer under 64 bits", {"n": MIN_INTEGER - 1}, "$.n"),
    ("key of a number", {"a": {1: 2}}, "$.a"),
    ("nul", {"a": "x\x00y"}, "$.a"),
    ("nul in a key", {"a": {"x\x00": 1}}, "$.a"),
    ("lone surrogate", {"a": "\ud800"}, "$.a"),
    ("bytes", {"a": b"x"}, "$.a"),
    ("tuple", {"a": (1, 2)}, "$.a"),
    ("set", {"a": {1}}, "$.a"),
    ("datetime", {"a": datetime.datetime(2026, 1, 1)}, "$.a"),
    ("no object", [1], "$"),
    ("text", "x", "$"),
]
"""Values that every backend refuses, with the path that the error names."""


def deep(levels: int) -> dict[str, Any]:
    """An object nested so many levels deep."""
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"d": value}
    return value


_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)
_scalars = (
    st.none()
    | st.booleans()
    | st.integers(MIN_INTEGER, MAX_INTEGER)
    | st.integers(-3, 3)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _text
)
_keys = st.sampled_from(["a", "b", "c", "", "$x", "a.b"]) | _text

values = st.recursive(_scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=3))
"""Any JSON value."""

objects = st.dictionaries(_keys, values, max_size=4)
"""Any item."""

_paths = st.lists(st.sampled_from(["a", "b", "c", ""]), max_size=3) | st.sampled_from(["a", "b", "a.b", "", None])
_numbers = st.integers(-5, 5) | st.floats(-1e6, 1e6) | st.sampled_from([MAX_INTEGER, MIN_INTEGER, 1e308, 0.5])

operations = st.lists(
    st.fixed_dictionaries({"type": st.just("set"), "path": _paths, "value": values})
    | st.fixed_dictionaries({"type": st.just("merge"), "path": _paths, "value": objects})
    | st.fixed_dictionaries({"type": st.sampled_from(["increment", "decrement"]), "path": _paths, "by": _numbers})
    | st.fixed_dictionaries({"type": st.just("append"), "path": _paths, "value": values})
    | st.fixed_dictionaries({"type": st.just("remove"), "path": _paths}),
    min_size=1,
    max_size=5,
)
"""Update operations; many apply, some do not, some are malformed."""

ids = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20) | st.sampled_from(
    [":", "/", ".", "..", "*", "__x__", "'", '"', "{}", "../x", "$", "\U0001f600", "é", "é", " "]
)
"""Group and item ids."""
