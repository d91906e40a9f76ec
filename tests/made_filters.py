"""Metadata and filters made to meet: few keys, and values that look alike across JSON's types."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, get_args

from hypothesis import strategies as st

from ragline.core.filters import (
    And,
    Compare,
    Contains,
    Exists,
    Filter,
    In,
    Not,
    Or,
    Order,
    Scalar,
)

# The last two agree in all that the index holds of a key.
KEYS = (
    "a",
    "b",
    "tags",
    "",
    "a.b",
    'say "it"',
    "it's",
    "$1",
    "größe",
    "年",
    "k" * 200 + "x",
    "k" * 201,
)
TEXTS = (
    "",
    "1",
    "1.0",
    "true",
    "null",
    "a",
    "A",
    "ab",
    "b",
    "2024-05-01",
    "2024-12",
    "é",
    "e\u0301",
    "日本",
    "\U0001f600",
    "\uffff",
    "%",
    "w" * 199,
    "w" * 200,
    "w" * 200 + "a",
    "w" * 201,
)
NUMBERS = (
    *(0, 1, -1, 2, 10, 2020, 2021, 2**53, 2**53 + 1, 10**400, -(10**400)),
    *(0.5, 0.1, 1.5, -2.5, 1e300, 1e-30, 2e-30),
    *map(Decimal, ["1.0", "0.10", "0.1000000000000000000001", "1e999", "-1e999", "1e-999", "1E+2"]),
)

_characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
texts = st.sampled_from(TEXTS) | st.text(_characters, max_size=6)
numbers: st.SearchStrategy[Any] = (
    st.sampled_from(NUMBERS)
    | st.integers(-3, 3)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-9, max_value=9)
)
scalars: st.SearchStrategy[Scalar] = st.none() | st.booleans() | texts | numbers
keys = st.sampled_from(KEYS) | st.text(_characters, max_size=3)

_values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=2),
    max_leaves=5,
)
documents = st.dictionaries(keys, _values, max_size=6)

conditions: st.SearchStrategy[Filter] = st.one_of(
    st.builds(Compare, keys, st.sampled_from(["eq", "ne"]), scalars),
    st.builds(Compare, keys, st.sampled_from(get_args(Order)), texts | numbers),
    st.builds(In, keys, st.lists(scalars, max_size=4).map(tuple)),
    st.builds(Contains, keys, scalars),
    st.builds(Exists, keys),
)


def _around(inner: st.SearchStrategy[Filter]) -> st.SearchStrategy[Filter]:
    several = st.lists(inner, min_size=2, max_size=4).map(tuple)
    return st.builds(And, several) | st.builds(Or, several) | st.builds(Not, inner)


filters: st.SearchStrategy[Filter] = st.recursive(conditions, _around, max_leaves=8)
